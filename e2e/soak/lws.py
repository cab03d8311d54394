"""LeaderWorkerSet itself: a ModelServer whose replicas take two nodes each, from its creation to its end.

The operator, LeaderWorkerSet's controller with its webhooks, and Kubernetes' own controllers are real; nodes and their
scheduler are played (`groups.py`): each has room for one pod, and what finds no room is told so in the scheduler's
words.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
import time
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster import ControlPlane, Progress, paths, versions
from cluster.lws import leader_worker_set
from kit.api_client import ApiClient
from soak.goals import Goal
from soak.groups import Administrator, Nodes, controller, played
from soak.plane import (
    DEPLOYMENTS,
    NAMESPACE,
    PODS,
    SERVERS,
    SERVICES,
    Operator,
    install,
    replicas,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from soak.plane import Raw

SERVER: Final = f"{SERVERS}/chat"
GROUPS: Final = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{NAMESPACE}/leaderworkersets"
SETS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets"
SLICES: Final = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
BUDGET: Final = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/chat"
LEFT: Final = (GROUPS, SETS, DEPLOYMENTS, SERVICES, PODS, SLICES)
SECONDS: Final = 600.0
NAME: Final = f"LeaderWorkerSet {versions.LWS}, replicas of 2 nodes"
_VARIABLE: Final = re.compile(r"\$\((\w+)\)")


def run() -> Iterator[Goal]:
    """Builds LeaderWorkerSet the first time, and yields a goal for each thing that should be."""
    built = leader_worker_set(paths(), Progress())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="octavo-lws-")))
        plane = stack.enter_context(ControlPlane.start())
        install(plane)
        stack.enter_context(
            controller(built, Administrator(plane.kubectl, plane.kubeconfig, plane.folder / "pki"), folder)
        )
        yield from asyncio.run(_measure(plane, folder))


async def _measure(plane: ControlPlane, folder: Path) -> list[Goal]:
    async with ApiClient(plane.kubeconfig) as api, replicas(), played(api) as nodes, _told(api) as told:
        operator = Operator(plane.kubeconfig, folder / "operator.log")
        try:
            await operator.start()
            return [goal async for goal in _goals(api, operator, nodes, told)]
        finally:
            await operator.stop()


async def _goals(api: ApiClient, operator: Operator, nodes: Nodes, told: list[Raw]) -> AsyncIterator[Goal]:
    nodes.rooms = 6
    for made in (_made(api), _at_rest(operator), _scaled(api)):
        async for goal in made:
            yield goal
    yield await _rolled(api, told, "a free node for each pod of a group", least=2)
    nodes.rooms = 4
    yield await _rolled(api, told, "no free node", least=1)
    yield await _crashed(api, told)
    yield await _changed(api, 1, DEPLOYMENTS)
    yield await _changed(api, 2, GROUPS)
    took = await _timed(api.delete(SERVER, {}), lambda: _nothing(api))
    yield Goal(f"{NAME}: deleted", "nothing left", f"nothing left after {took:.0f} s", met=True)


async def _made(api: ApiClient) -> AsyncIterator[Goal]:
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

    await until(lambda: _guarded(api), SECONDS, "the budget counts every pod, and lets one go")
    yield Goal(f"{NAME}: node drains", "one group at a time", "1 of 4 pods may be evicted", met=True)


async def _at_rest(operator: Operator) -> AsyncIterator[Goal]:
    written = await _written_at_rest(operator)
    yield Goal(f"{NAME}: at rest, through a full list", "0 writes", f"{written:.0f} writes", written == 0)


async def _scaled(api: ApiClient) -> AsyncIterator[Goal]:
    before = await _pods(api)
    took = await _timed(_scale(api, 1), lambda: _serving(api, 1))
    back = await _timed(_scale(api, 2), lambda: _serving(api, 2))
    kept = {name for name, uid in (await _pods(api)).items() if before.get(name) == uid}
    words = f"1 after {took:.0f} s, 2 after {back:.0f} s, kept: {', '.join(sorted(kept))}"
    first = {"chat-group-0", "chat-group-0-1"}
    yield Goal(f"{NAME}: to 1 replica and back", "group 0 is not touched", words, kept == first)


async def _rolled(api: ApiClient, told: list[Raw], way: str, *, least: int) -> Goal:
    old, since = set((await _pods(api)).values()), len(told)
    took = await _timed(_edit(api, 10 + least), partial(_replaced, api, old))
    serving = min(item["status"].get("readyReplicas", 0) for item in told[since:])
    words = f"all replaced after {took:.0f} s, at least {serving} of 2 serve"
    return Goal(f"{NAME}: new spec, {way}", f"all replaced, at least {least} of 2 serve", words, serving >= least)


async def _crashed(api: ApiClient, told: list[Raw]) -> Goal:
    since, group = len(told), {name: uid for name, uid in (await _pods(api)).items() if name.startswith("chat-group-1")}
    await _timed(_crash(api, "chat-group-1-1"), lambda: _renewed(api, group))
    said = {_ready(item).get("message", "") for item in told[since:] if _ready(item).get("reason") == "OOMKilled"}
    met = any(message.startswith("chat-group-1-1: ") for message in said)
    what = f"{NAME}: a worker is killed for memory"
    return Goal(what, "the group is made anew, and it is told", "; ".join(sorted(said)) or "nothing said", met)


async def _changed(api: ApiClient, nodes: int, kind: str) -> Goal:
    hardware = {"accelerator": {"count": 1, "nodes": nodes}}
    took = await _timed(api.patch(SERVER, {"spec": hardware}), partial(_only, api, kind, 2 * nodes))
    what = f"{NAME}: nodes {3 - nodes} to {nodes}, room for 4 pods"
    return Goal(what, "the other kind goes, 2 of 2 serve", f"2 of 2 after {took:.0f} s", met=True)


# --- what is done and seen ---


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


async def _timed(action: Awaitable[object], done: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await action
    await until(done, SECONDS, "the cluster follows")
    return time.monotonic() - began


async def _scale(api: ApiClient, count: int) -> None:
    await api.patch(SERVER, {"spec": {"replicas": count}})


async def _edit(api: ApiClient, number: int) -> None:
    await api.patch(SERVER, {"spec": {"runtime": {"maxNumSeqs": number}}})


async def _written_at_rest(operator: Operator) -> float:
    """What is written although nothing changes, from one full list to the end of the next."""
    for _ in range(2):
        lists, writes = await operator.number("resyncs_total"), await operator.writes()
        await until(partial(operator.total, "resyncs_total", at_least=lists + 1), SECONDS, "everything is listed again")
    return await operator.writes() - writes


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


async def _guarded(api: ApiClient) -> bool:
    status = (await api.get(BUDGET)).get("status", {})
    return (status.get("expectedPods"), status.get("disruptionsAllowed")) == (4, 1)


async def _selected(api: ApiClient, service: str) -> set[str]:
    """The pods that a Service selects, by the names that a headless one gives. Endpoints are never on loopback."""
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
    """With quantities and empty values that LeaderWorkerSet's webhook or the API server may write in another way."""
    container = {"name": "runtime", "env": [{"name": "EMPTY", "value": ""}], "tty": False}
    volumes = [{"name": "scratch", "emptyDir": {"sizeLimit": "1024Mi"}}]
    spec = {
        "replicas": 2,
        "model": {"source": {"pvc": {"claimName": "models"}}},
        "runtime": {"resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": "2000m"}}},
        "accelerator": {"count": 1, "nodes": 2},
        "podTemplate": {"spec": {"shareProcessNamespace": False, "volumes": volumes, "containers": [container]}},
    }
    metadata = {"name": "chat"}
    return {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": metadata, "spec": spec}
