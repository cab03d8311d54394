"""A thousand ModelServers on a real API server: how soon they are seen, how soon changes arrive, what rest costs.

No node runs their pods: each is made ready on a loopback address, and one small server answers as all of them.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp

from cluster import ControlPlane
from kit.api_client import ApiClient
from soak.goals import Goal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT: Final = Path(__file__).parents[2]
NAMESPACE: Final = "fleet"
SERVERS: Final = f"/apis/octavo.dev/v1alpha1/namespaces/{NAMESPACE}/modelservers"
DEPLOYMENTS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
ADDRESSES: Final = tuple(f"127.60.{number // 250}.{number % 250 + 1}" for number in range(500))
"""Shared by the pods in turn: a wildcard would collide with whatever else listens on the port."""
HTTP_PORT: Final = 18431
CHANGES_PER_SECOND: Final = 20
CHANGE_SECONDS: Final = 30
REST_SECONDS: Final = 60
METRICS: Final = (
    "octavo_requests_running 1\noctavo_requests_waiting 0\noctavo_kv_tokens_used 100\noctavo_kv_tokens_capacity 1000\n"
)

Raw = dict[str, Any]


def run(count: int) -> Iterator[Goal]:
    """Figures of a fleet of `count` ModelServers with one replica each."""
    with ControlPlane.start() as plane, tempfile.TemporaryDirectory(prefix="octavo-fleet-") as folder:
        _install(plane)
        yield from asyncio.run(_measure(plane, count, Path(folder)))


async def _measure(plane: ControlPlane, count: int, folder: Path) -> list[Goal]:
    async with ApiClient(plane.kubeconfig) as api, _replicas(), _kubelet(api):
        operator = Operator(plane.kubeconfig, folder / "operator.log")
        try:
            await operator.start()
            await _create(api, count)
            await _until(lambda: _all_ready(api, count), 900, f"{count} ModelServers are ready")
            await operator.stop()
            return [goal async for goal in _figures(api, operator, count)]
        finally:
            await operator.stop()


async def _figures(api: ApiClient, operator: Operator, count: int) -> AsyncIterator[Goal]:
    name = f"{count} ModelServers"
    began = time.monotonic()
    await operator.start()
    await _until(lambda: operator.total('reconciles_total{result="ok"}', at_least=count), 120, "all are looked at")
    seen = time.monotonic() - began
    yield Goal(f"{name}: all looked at after a restart of the operator", "within 10 s", f"{seen:.1f} s", seen <= 10)
    late = await _change(api, count)
    p50, p99 = late[len(late) // 2], late[int(0.99 * len(late))]
    words = f"p50 {p50:.2f} s, p99 {p99:.2f} s of {len(late)}"
    yield Goal(f"{name}: {CHANGES_PER_SECOND} changes/s to the patched Deployment", "p99 at most 2 s", words, p99 <= 2)
    await asyncio.sleep(30)  # what the changes set off is over
    async for goal in _rest(operator, name):
        yield goal


async def _rest(operator: Operator, name: str) -> AsyncIterator[Goal]:
    """What an operator costs that has nothing to do; a full list falls into it."""
    writes, calls, cpu = await operator.writes(), await operator.calls(), operator.cpu_seconds()
    lists = await operator.number("resyncs_total")
    await asyncio.sleep(REST_SECONDS)
    await _until(lambda: operator.total("resyncs_total", at_least=lists + 1), 120, "everything was listed once more")
    written, share = await operator.writes() - writes, (operator.cpu_seconds() - cpu) / REST_SECONDS
    called = (await operator.calls() - calls) / REST_SECONDS
    mib = operator.rss_mib()
    yield Goal(f"{name}: writes in a rest with a full list", "0", f"{written:.0f}", written == 0)
    yield Goal(f"{name}: memory of the operator", "under 250 MB", f"{mib:.0f} MB", mib < 250)
    yield Goal(f"{name}: CPU at rest", "under 10 % of a core", f"{100 * share:.1f} %", share < 0.1)
    yield Goal(f"{name}: API calls at rest", "under 1 a second", f"{called:.2f} a second", called < 1)


class Operator:
    """`octavo-operator run` as a process of its own."""

    def __init__(self, kubeconfig: Path, log: Path) -> None:
        self._log = log
        self._environment = os.environ | {
            "KUBECONFIG": str(kubeconfig),
            "OCTAVO_RUNTIME_IMAGE": "example.invalid/runtime:1",
            "OCTAVO_HTTP_PORT": str(HTTP_PORT),
            "OCTAVO_RESYNC_PERIOD": "60",
            "POD_NAMESPACE": "default",
            "POD_NAME": "operator",
        }
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        self._process = self._spawn()
        await _until(self._ready, 60, "the operator is ready")

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as out:
            command = [sys.executable, "-m", "octavo_operator", "run"]
            return subprocess.Popen(command, env=self._environment, stdout=out, stderr=out)

    async def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            await asyncio.to_thread(self._process.wait, 30)
            self._process = None

    async def writes(self) -> float:
        """Requests that change something, but for the Lease's renewal."""
        return await self.number(r'api_requests_total{kind="(?!Lease)\w+",[^}]*verb="(?!GET)\w+"}')

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
        return await self._get("/readyz") == "ok"

    async def _get(self, path: str) -> str | None:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
                session.get(f"http://127.0.0.1:{HTTP_PORT}{path}") as answer,
            ):
                return await answer.text()
        return None


# --- the cluster around it ---


def _install(plane: ControlPlane) -> None:
    kubectl = [str(plane.kubectl), f"--kubeconfig={plane.kubeconfig}"]
    subprocess.run([*kubectl, "apply", "--server-side", "-f", str(ROOT / "crds/modelserver.yaml")], check=True)
    subprocess.run([*kubectl, "create", "namespace", NAMESPACE], check=True)
    wait = ["wait", "--for=condition=Established", "crd/modelservers.octavo.dev", "--timeout=30s"]
    subprocess.run([*kubectl, *wait], check=True)


def _server(index: int) -> Raw:
    return {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "ModelServer",
        "metadata": {"name": f"server-{index}"},
        "spec": {"replicas": 1, "model": {"source": {"pvc": {"claimName": "models"}}}},
    }


async def _create(api: ApiClient, count: int) -> None:
    slots = asyncio.Semaphore(8)

    async def create(index: int) -> None:
        async with slots:
            await api.post(SERVERS, _server(index))

    await asyncio.gather(*(create(index) for index in range(count)))


async def _all_ready(api: ApiClient, count: int) -> bool:
    items = (await api.get(SERVERS))["items"]
    ready = sum(1 for item in items if item.get("status", {}).get("readyReplicas"))
    print(f"        {ready} of {count} ready", flush=True)
    await asyncio.sleep(5)
    return ready == count


async def _change(api: ApiClient, count: int) -> list[float]:
    """Seconds from each change of a spec to the change of its Deployment, in order of size."""
    changed: dict[str, float] = {}
    late: dict[str, float] = {}

    async def follow() -> None:
        async for event in api.watch(DEPLOYMENTS):
            name = event["object"]["metadata"]["name"]
            arguments = event["object"]["spec"]["template"]["spec"]["containers"][0].get("args", [])
            if name in changed and "--max-num-seqs=9" in " ".join(arguments).replace(" 9", "=9"):
                late.setdefault(name, time.monotonic() - changed[name])

    following = asyncio.create_task(follow())
    for index in range(CHANGES_PER_SECOND * CHANGE_SECONDS):
        due = time.monotonic() + 1 / CHANGES_PER_SECOND
        name = f"server-{index % count}"
        await api.patch(f"{SERVERS}/{name}", {"spec": {"runtime": {"maxNumSeqs": 9}}})
        changed[name] = time.monotonic()
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await _until(lambda: _is(len(late) == len(changed)), 120, f"all {len(changed)} changes arrived")
    following.cancel()
    return sorted(late.values())


async def _is(true: bool) -> bool:
    return true


@asynccontextmanager
async def _replicas() -> AsyncIterator[None]:
    """Answers /metrics for every pod."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                body = METRICS.encode()
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, ADDRESSES, 8000)
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def _kubelet(api: ApiClient) -> AsyncIterator[None]:
    """Makes every pod ready as it comes, and lets those go that are to go."""

    async def play() -> None:
        numbers = iter(range(1, 1 << 16))
        async for event in api.watch(PODS):
            pod = event["object"]
            path = f"{PODS}/{pod['metadata']['name']}"
            with suppress(aiohttp.ClientResponseError):  # it is gone already
                if event["type"] == "ADDED":
                    await api.patch(f"{path}/status", {"status": _running(next(numbers))})
                elif "deletionTimestamp" in pod["metadata"] and event["type"] != "DELETED":
                    await api.delete(path, {"gracePeriodSeconds": 0})

    async with asyncio.TaskGroup() as group:  # so that its failure ends the run
        playing = group.create_task(play())
        yield
        playing.cancel()


def _running(number: int) -> Raw:
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


async def _until(check: Any, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not await check():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        await asyncio.sleep(0.05)
