"""A control plane with an operator for the soaks that need no node.

No node runs the pods: each is made ready on a loopback address, and one small server answers as all of them.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from cluster.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from cluster import ControlPlane
    from kit.api_client import ApiClient

ROOT: Final = Path(__file__).parents[2]
CRD: Final = ROOT / "crds/modelserver.yaml"
NAMESPACE: Final = "soak"
SERVERS: Final = f"/apis/octavo.dev/v1alpha1/namespaces/{NAMESPACE}/modelservers"
DEPLOYMENTS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
POLICIES: Final = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"
SERVICES: Final = f"/api/v1/namespaces/{NAMESPACE}/services"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
ADDRESSES: Final = tuple(f"127.{10 + os.getpid() % 40}.{number // 250}.{number % 250 + 1}" for number in range(500))
"""Shared by the pods in turn: a wildcard would collide with whatever else listens on the port, as another soak may;
tests have 127.50 and above."""
METRICS: Final = (
    "octavo_requests_running 1\noctavo_requests_waiting 0\noctavo_kv_tokens_used 100\noctavo_kv_tokens_capacity 1000\n"
)

Raw = dict[str, Any]


class Operator:
    """`octavo-operator run` as a process of its own, from the folder `code` instead of the installed one if given."""

    def __init__(
        self,
        kubeconfig: Path,
        log: Path,
        *,
        code: Path | None = None,
        list_seconds: int = 60,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._log = log
        (self._port,) = free_ports(1)
        defaults = {"OCTAVO_RUNTIME_IMAGE": "example.invalid/runtime:1", "POD_NAMESPACE": "default"}
        # As in an image: compiled once, and not at every start.
        bytecode = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(log.parent / "bytecode")}
        self._environment = {
            **os.environ,
            **defaults,
            **bytecode,
            **environment,
            "KUBECONFIG": str(kubeconfig),
            "OCTAVO_HTTP_PORT": str(self._port),
            "OCTAVO_RESYNC_PERIOD": str(list_seconds),
            "POD_NAME": "operator",
        }
        if code is not None:
            others = os.environ.get("PYTHONPATH", "")
            self._environment["PYTHONPATH"] = f"{code}{os.pathsep}{others}"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = self._spawn()
        await until(self._ready, 60, "the operator is ready")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as out:
            command = [sys.executable, "-m", "octavo_operator", "run"]
            return subprocess.Popen(command, env=self._environment, stdout=out, stderr=out)

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 30)
            self._process = None

    @property
    def alive(self) -> bool:
        """Whether it still is the process that was started."""
        return self._process is not None and self._process.poll() is None

    async def writes(self) -> float:
        """Requests that change something, but for the Lease's renewal."""
        return float(sum((await self.written()).values()))

    async def written(self) -> Counter[str]:
        """The same by verb and kind."""
        series = r'^octavo_operator_api_requests_total{kind="((?!Lease)\w+)",[^}]*verb="((?!GET)\w+)"} (\S+)$'
        found = re.findall(series, await self._metrics(), re.MULTILINE)
        return sum((Counter({f"{verb} {kind}": round(float(number))}) for kind, verb, number in found), Counter())

    async def calls(self) -> float:
        """All requests to the API server."""
        return await self.number(r"api_requests_total{[^}]*}")

    async def total(self, series: str, *, at_least: float) -> bool:
        return await self.number(re.escape(series) + r"(?:{[^}]*})?") >= at_least

    async def number(self, pattern: str) -> float:
        """The sum of the operator's own series whose names and labels match."""
        found = re.findall(rf"^octavo_operator_{pattern}(?:{{[^}}]*}})? (\S+)$", await self._metrics(), re.MULTILINE)
        return sum(map(float, found))

    def cpu_seconds(self) -> float:
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    async def _metrics(self) -> str:
        return await self._get("/metrics") or ""

    async def _ready(self) -> bool:
        if not self.alive:
            raise RuntimeError(f"the operator has ended: {self._log.read_text()[-500:]}")
        return await self._get("/readyz") == "ok"

    async def _get(self, path: str) -> str | None:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
                session.get(f"http://127.0.0.1:{self._port}{path}") as answer,
            ):
                return await answer.text()
        return None


def install(plane: ControlPlane) -> None:
    """The CRD, and the namespace of the ModelServers."""
    kubectl(plane, "apply", "--server-side", "--filename", str(CRD))
    make_namespace(plane)
    kubectl(plane, "wait", "--for=condition=Established", "crd/modelservers.octavo.dev", "--timeout=30s")


def make_namespace(plane: ControlPlane) -> None:
    """The namespace of the ModelServers."""
    namespace = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    kubectl(plane, "apply", "--server-side", "--filename", "-", text=namespace)


def kubectl(plane: ControlPlane, *arguments: str, text: str | None = None) -> str:
    """What kubectl says as an administrator; `text` is what it reads."""
    command = [str(plane.kubectl), f"--kubeconfig={plane.kubeconfig}", *arguments]
    return subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True).stdout


def certificates(pki: Path, folder: Path) -> Path:
    """A folder as controllers want it: a certificate for this machine, and the authority that the API server trusts."""
    folder.mkdir()
    for source, target in (("server.crt", "tls.crt"), ("server.key", "tls.key"), ("ca.crt", "ca.crt")):
        shutil.copy(pki / source, folder / target)
    return folder


def server(index: int, spec: Raw | None = None) -> Raw:
    """The ModelServer of that number; the smallest there is, where no spec is given."""
    least = {"replicas": 1, "model": {"source": {"pvc": {"claimName": "models"}}}}
    metadata = {"name": f"server-{index}"}
    return {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": metadata, "spec": spec or least}


async def create(api: ApiClient, count: int, specs: Sequence[Raw | None] = (None,)) -> None:
    """So many ModelServers, with these specs in turn."""
    slots = asyncio.Semaphore(8)

    async def post(index: int) -> None:
        async with slots:
            await api.post(SERVERS, server(index, specs[index % len(specs)]))

    await asyncio.gather(*(post(index) for index in range(count)))


async def pods_by_server(api: ApiClient) -> dict[str, set[str]]:
    """The uids of the pods of each ModelServer that are not going."""
    found: dict[str, set[str]] = {}
    for pod in (await api.get(PODS))["items"]:
        if "deletionTimestamp" not in pod["metadata"]:
            found.setdefault(pod["metadata"]["labels"]["octavo.dev/modelserver"], set()).add(pod["metadata"]["uid"])
    return found


async def all_ready(api: ApiClient, count: int) -> bool:
    """Whether so many ModelServers have a replica that serves; says how many, and takes its time."""
    items = (await api.get(SERVERS))["items"]
    ready = sum(1 for item in items if item.get("status", {}).get("readyReplicas"))
    print(f"        {ready} of {count} ready", flush=True)
    await asyncio.sleep(5)
    return ready == count


@asynccontextmanager
async def replicas(metrics: Callable[[str], str | None] = lambda _: METRICS) -> AsyncIterator[None]:
    """Answers /metrics for every pod with what `metrics` says of its address; None is a failure."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = writer.get_extra_info("sockname")[0]
        # Cancelled at the end of the loop, for whoever keeps connections.
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while await reader.readuntil(b"\r\n\r\n"):
                text = metrics(address)
                body, status = (text or "").encode(), "500 Broken" if text is None else "200 OK"
                kind = "Content-Type: text/plain"
                writer.write(f"HTTP/1.1 {status}\r\n{kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, ADDRESSES, 8000)
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def kubelet(api: ApiClient) -> AsyncIterator[None]:
    """Makes every pod ready as it comes, and lets those go that are to go."""
    slots = asyncio.Semaphore(8)

    async def play(event: Raw, number: int) -> None:
        metadata = event["object"]["metadata"]
        path = f"{PODS}/{metadata['name']}"
        async with slots:
            with suppress(aiohttp.ClientResponseError):  # it is gone already
                if event["type"] == "ADDED":
                    await api.patch(f"{path}/status", {"status": running(number)})
                elif "deletionTimestamp" in metadata and event["type"] != "DELETED":
                    await api.delete(path, {"gracePeriodSeconds": 0})

    async def follow(group: asyncio.TaskGroup) -> None:
        numbers = itertools.count(1)
        async for event in api.watch(PODS):
            group.create_task(play(event, next(numbers)))

    async with asyncio.TaskGroup() as group:  # so that its failure ends the run
        following = group.create_task(follow(group))
        yield
        following.cancel()


def running(number: int) -> Raw:
    """The status of a pod that is ready, on the address of that number."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    address = ADDRESSES[number % len(ADDRESSES)]
    container = {"name": "runtime", "ready": True, "started": True, "restartCount": 0, "image": "x", "imageID": "x"}
    return {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}],
        "containerStatuses": [container | {"state": {"running": {}}}],
    }


async def until(check: Callable[[], Awaitable[object]], seconds: float, what: str) -> None:
    """Asks again and again. TimeoutError when it is not so within the time."""
    deadline = time.monotonic() + seconds
    while not await check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.05)
