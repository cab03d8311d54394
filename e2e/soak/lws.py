"""LeaderWorkerSet itself: a ModelServer whose replicas take two nodes each, from its creation to its end.

The operator, LeaderWorkerSet's controller with its webhooks, and Kubernetes' own controllers are real; nodes and their
scheduler are played (`Nodes`): each has room for one pod, and what finds no room is told so in the scheduler's words.
LeaderWorkerSet runs as an administrator, and its certificate is ours instead of its own.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import tempfile
import time
from base64 import b64encode
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import yaml

from cluster import ControlPlane, Progress, paths, versions
from cluster.lws import LeaderWorkerSet, leader_worker_set
from cluster.ports import free_ports
from cluster.processes import start_child
from kit.api_client import ApiClient
from soak.goals import Goal
from soak.plane import (
    DEPLOYMENTS,
    NAMESPACE,
    PODS,
    SERVERS,
    SERVICES,
    Operator,
    certificates,
    install,
    replicas,
    running,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from soak.plane import Raw

SERVER: Final = f"{SERVERS}/chat"
GROUPS: Final = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{NAMESPACE}/leaderworkersets"
SETS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets"
SLICES: Final = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
LEFT: Final = (GROUPS, SETS, DEPLOYMENTS, SERVICES, PODS, SLICES)
SECONDS: Final = 600.0
NAME: Final = f"LeaderWorkerSet {versions.LWS}, replicas of 2 nodes"
NO_ROOM: Final = "0/{rooms} nodes are available: {rooms} Insufficient nvidia.com/gpu."
_VARIABLE: Final = re.compile(r"\$\((\w+)\)")


def run() -> Iterator[Goal]:
    """Builds LeaderWorkerSet the first time, and yields a goal for each thing that should be."""
    built = leader_worker_set(paths(), Progress())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavo-lws-")))
        plane = stack.enter_context(ControlPlane.start())
        install(plane)
        stack.enter_context(_controller(built, plane, folder))
        yield from asyncio.run(_measure(plane, folder))


async def _measure(plane: ControlPlane, folder: Path) -> list[Goal]:
    async with ApiClient(plane.kubeconfig) as api, replicas(), _nodes(api) as nodes, _told(api) as told:
        operator = Operator(plane.kubeconfig, folder / "operator.log")
        try:
            await operator.start()
            return [goal async for goal in _goals(api, nodes, told)]
        finally:
            await operator.stop()


async def _goals(api: ApiClient, nodes: Nodes, told: list[Raw]) -> AsyncIterator[Goal]:
    nodes.rooms = 6
    took = await _timed(api.post(SERVERS, _server()), lambda: _serving(api, 2))
    ranks = sorted(_rank(pod) for pod in (await api.get(PODS))["items"])
    wanted = [(index, f"chat-group-{group}.chat-group.{NAMESPACE}") for index in (0, 1) for group in (0, 1)]
    words = f"{len(ranks)} pods" + ("" if ranks == wanted else f": {ranks}")
    yield Goal(f"{NAME}: made", "4 pods with their rank and their leader's name", words, ranks == wanted)
    yield Goal(f"{NAME}: Ready", "2 of 2 groups", f"2 of 2 after {took:.0f} s", met=True)

    named, leaders = await _selected(api, "chat-group"), await _selected(api, "chat")
    words = f"{len(named)} names; requests to {', '.join(sorted(leaders))}"
    met = (named, leaders) == ({*await _pods(api)}, {"chat-group-0", "chat-group-1"})
    yield Goal(f"{NAME}: names and traffic", "a name for each pod, requests to leaders", words, met)

    before = await _pods(api)
    took = await _timed(_scale(api, 1), lambda: _serving(api, 1))
    back = await _timed(_scale(api, 2), lambda: _serving(api, 2))
    kept = {name for name, uid in (await _pods(api)).items() if before.get(name) == uid}
    words = f"1 after {took:.0f} s, 2 after {back:.0f} s, kept: {', '.join(sorted(kept))}"
    first = {"chat-group-0", "chat-group-0-1"}
    yield Goal(f"{NAME}: to 1 replica and back", "group 0 is not touched", words, kept == first)

    for rooms, way, most in ((6, "a free node for each pod of a group", 2), (4, "no free node", 1)):
        nodes.rooms = rooms
        old, since = set((await _pods(api)).values()), len(told)
        took = await _timed(_edit(api, rooms), partial(_replaced, api, old))
        serving = min(item["status"].get("readyReplicas", 0) for item in told[since:])
        words = f"all replaced after {took:.0f} s, at least {serving} of 2 serve"
        yield Goal(f"{NAME}: new spec, {way}", f"all replaced, {most} of 2 serve", words, serving == most)

    since, group = len(told), {name: uid for name, uid in (await _pods(api)).items() if name.startswith("chat-group-1")}
    await _timed(_crash(api, "chat-group-1-1"), lambda: _renewed(api, group))
    said = {_ready(item).get("message", "") for item in told[since:] if _ready(item).get("reason") == "OOMKilled"}
    met = any(message.startswith("chat-group-1-1: ") for message in said)
    what = f"{NAME}: a worker is killed for memory"
    yield Goal(what, "the group is made anew, and it is told", "; ".join(sorted(said)) or "nothing said", met)

    for count, kind in ((1, DEPLOYMENTS), (2, GROUPS)):
        hardware = {"accelerator": {"count": 1, "nodes": count}}
        took = await _timed(api.patch(SERVER, {"spec": hardware}), partial(_only, api, kind, 2 * count))
        yield Goal(
            f"{NAME}: nodes {3 - count} to {count}, room for 4 pods",
            "the other kind goes",
            f"after {took:.0f} s",
            met=True,
        )

    took = await _timed(api.delete(SERVER, {}), lambda: _nothing(api))
    yield Goal(f"{NAME}: deleted", "nothing left", f"nothing left after {took:.0f} s", met=True)


# --- what is done ---


async def _timed(action: Awaitable[object], done: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await action
    await until(done, SECONDS, "the cluster follows")
    return time.monotonic() - began


async def _scale(api: ApiClient, count: int) -> None:
    await api.patch(SERVER, {"spec": {"replicas": count}})


async def _edit(api: ApiClient, number: int) -> None:
    await api.patch(SERVER, {"spec": {"runtime": {"maxNumSeqs": number}}})


async def _crash(api: ApiClient, name: str) -> None:
    """What the kubelet says of a container that has ended and runs again."""
    status: Raw = (await api.get(f"{PODS}/{name}"))["status"]
    (container,) = status["containerStatuses"]
    container |= {"restartCount": 1, "ready": False, "started": False}
    container["lastState"] = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    unready = {"type": "Ready", "status": "False", "lastTransitionTime": status["conditions"][0]["lastTransitionTime"]}
    told = {"containerStatuses": [container], "conditions": [unready]}
    await api.patch(f"{PODS}/{name}/status", {"status": told})


# --- what is there ---


async def _pods(api: ApiClient) -> dict[str, str]:
    """The uids of the pods that are not going, by name."""
    items = (await api.get(PODS))["items"]
    return {
        pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in items if "deletionTimestamp" not in pod["metadata"]
    }


async def _serving(api: ApiClient, count: int) -> bool:
    """Whether so many replicas are wanted and serve, and there are no other pods."""
    server = await api.get(SERVER)
    current = server["status"]["observedGeneration"] == server["metadata"]["generation"]
    serves = _ready(server).get("message") == f"{count} of {count} replicas serve"
    return current and serves and len((await api.get(PODS))["items"]) == 2 * count


async def _replaced(api: ApiClient, old: set[str]) -> bool:
    return await _serving(api, 2) and old.isdisjoint((await _pods(api)).values())


async def _renewed(api: ApiClient, group: dict[str, str]) -> bool:
    pods = await _pods(api)
    return await _serving(api, 2) and all(pods.get(name) not in (None, uid) for name, uid in group.items())


async def _only(api: ApiClient, kind: str, pods: int) -> bool:
    """Whether replicas are of that kind alone, and serve, with so many pods."""
    (other,) = {GROUPS, DEPLOYMENTS} - {kind}
    there, gone = len((await api.get(kind))["items"]), len((await api.get(other))["items"])
    message = _ready(await api.get(SERVER)).get("message")
    found = len((await api.get(PODS))["items"])
    return (there, gone, found, message) == (1, 0, pods, "2 of 2 replicas serve")


async def _nothing(api: ApiClient) -> bool:
    return not any([(await api.get(path))["items"] for path in LEFT])


async def _selected(api: ApiClient, service: str) -> set[str]:
    """The pods that a Service selects, under the names that a headless one gives them. Endpoints want real nodes."""
    spec = (await api.get(f"{SERVICES}/{service}"))["spec"]
    selector = ",".join(f"{key}={value}" for key, value in spec["selector"].items())
    specs = [pod["spec"] for pod in (await api.get(f"{PODS}?labelSelector={selector}"))["items"]]
    return {pod["hostname"] for pod in specs if spec["clusterIP"] != "None" or pod["subdomain"] == service}


def _rank(pod: Raw) -> tuple[int, str]:
    """The rank and the leader's address that the runtime is told, with the variables as the kubelet fills them in."""
    (container,) = pod["spec"]["containers"]
    values = {item["name"]: item.get("value", "") for item in container["env"]}
    args = [_VARIABLE.sub(lambda found: values.get(found[1], found[0]), word) for word in container["args"]]
    told = dict(pairwise(args))
    assert (told["--nodes"], told["--tensor-parallel-size"]) == ("2", "2"), args
    return int(told["--node-rank"]), told["--leader-address"]


def _ready(server: Raw) -> Raw:
    conditions = server.get("status", {}).get("conditions", [])
    return next((item for item in conditions if item["type"] == "Ready"), {})


def _server() -> Raw:
    spec = {
        "replicas": 2,
        "model": {"source": {"pvc": {"claimName": "models"}}},
        "accelerator": {"count": 1, "nodes": 2},
    }
    metadata = {"name": "chat"}
    return {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": metadata, "spec": spec}


# --- what is played ---


class Nodes:
    """Nodes with room for one pod each. Pods are ready as soon as they have one."""

    def __init__(self, api: ApiClient) -> None:
        self.rooms = 0
        self._api = api
        self._taken: dict[str, str] = {}
        """By pod uid: its name."""
        self._numbers = iter(range(1, 1 << 16))

    async def play(self) -> None:
        while True:
            with suppress(aiohttp.ClientResponseError):  # a pod is gone already
                await self._look()
            await asyncio.sleep(0.2)

    async def _look(self) -> None:
        pods = {pod["metadata"]["uid"]: pod for pod in (await self._api.get(PODS))["items"]}
        self._taken = {uid: name for uid, name in self._taken.items() if uid in pods}
        for uid, pod in pods.items():
            path = f"{PODS}/{pod['metadata']['name']}"
            if "deletionTimestamp" in pod["metadata"]:
                await self._api.delete(path, {"gracePeriodSeconds": 0})
            elif uid not in self._taken and len(self._taken) < self.rooms:
                await self._api.patch(f"{path}/status", {"status": running(next(self._numbers))})
                self._taken[uid] = pod["metadata"]["name"]
            elif uid not in self._taken and not pod["status"].get("conditions"):
                words = NO_ROOM.format(rooms=self.rooms)
                waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
                await self._api.patch(f"{path}/status", {"status": {"conditions": [waits]}})


@asynccontextmanager
async def _nodes(api: ApiClient) -> AsyncIterator[Nodes]:
    nodes = Nodes(api)
    async with asyncio.TaskGroup() as group:
        playing = group.create_task(nodes.play())
        yield nodes
        playing.cancel()


@asynccontextmanager
async def _told(api: ApiClient) -> AsyncIterator[list[Raw]]:
    """Every state of the ModelServer, as it comes."""
    states: list[Raw] = []

    async def follow() -> None:
        async for event in api.watch(SERVERS):
            states.append(event["object"])  # noqa: PERF401  it never ends

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        yield states
        following.cancel()


# --- LeaderWorkerSet ---


@contextmanager
def _controller(built: LeaderWorkerSet, plane: ControlPlane, folder: Path) -> Iterator[None]:
    """Its process, its CRDs, and its webhooks under an address of this machine."""
    port, probes = free_ports(2)
    trusted = certificates(plane, folder / "certificates")
    kubectl = [str(plane.kubectl), f"--kubeconfig={plane.kubeconfig}"]
    manifests = [*(yaml.safe_load(path.read_text()) for path in built.crds), *_webhooks(built, port, trusted)]
    apply = [*kubectl, "apply", "--server-side", "-f", "-"]
    quiet = subprocess.DEVNULL
    subprocess.run(apply, input=yaml.safe_dump_all(manifests), text=True, check=True, stdout=quiet)
    subprocess.run([*kubectl, "wait", "--for=condition=Established", "crd", "--all"], check=True, stdout=quiet)
    config = folder / "lws.yaml"
    config.write_text(yaml.safe_dump(_configuration(port, probes, trusted)))
    command = ["env", f"KUBECONFIG={plane.kubeconfig}", str(built.manager), f"--config={config}"]
    child = start_child("lws", [*command, "--metrics-bind-address=0", "--leader-elect=false"], folder)
    try:
        yield
    finally:
        child.kill()
        child.wait()


def _configuration(port: int, probes: int, trusted: Path) -> Raw:
    return {
        "apiVersion": "config.lws.x-k8s.io/v1alpha1",
        "kind": "Configuration",
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": str(trusted)},
        "health": {"healthProbeBindAddress": f"127.0.0.1:{probes}"},
        "leaderElection": {"leaderElect": False},
        "internalCertManagement": {"enable": False},
    }


def _webhooks(built: LeaderWorkerSet, port: int, trusted: Path) -> Iterator[dict[str, Any]]:
    """As its authors install them, but for where they are."""
    authority = b64encode((trusted / "ca.crt").read_bytes()).decode()
    for manifest in yaml.safe_load_all(built.webhooks.read_text()):
        for webhook in manifest["webhooks"]:
            path = webhook["clientConfig"]["service"]["path"]
            webhook["clientConfig"] = {"url": f"https://127.0.0.1:{port}{path}", "caBundle": authority}
        yield manifest
