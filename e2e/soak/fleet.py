"""A thousand ModelServers on a real API server: how soon they are seen, how soon changes arrive, what rest costs.

No node runs their pods (`stage.py`).
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster import ControlPlane
from kit.api_client import ApiClient
from soak.goals import Goal
from soak.stage import NAMESPACE, SERVERS, Operator, install, kubelet, replicas, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from soak.stage import Raw

DEPLOYMENTS: Final = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
CHANGES_PER_SECOND: Final = 20
CHANGE_SECONDS: Final = 30
REST_SECONDS: Final = 60
METRICS: Final = (
    "octavo_requests_running 1\noctavo_requests_waiting 0\noctavo_kv_tokens_used 100\noctavo_kv_tokens_capacity 1000\n"
)


def run(count: int) -> Iterator[Goal]:
    """Figures of a fleet of `count` ModelServers with one replica each."""
    with ControlPlane.start() as plane, tempfile.TemporaryDirectory(prefix="octavo-fleet-") as folder:
        install(plane)
        yield from asyncio.run(_measure(plane, count, Path(folder)))


async def _measure(plane: ControlPlane, count: int, folder: Path) -> list[Goal]:
    async with ApiClient(plane.kubeconfig) as api, replicas(lambda _: METRICS), kubelet(api):
        operator = Operator(plane.kubeconfig, folder / "operator.log")
        try:
            await operator.start()
            await _create(api, count)
            await until(lambda: _all_ready(api, count), 900, f"{count} ModelServers are ready")
            await operator.stop()
            return [goal async for goal in _figures(api, operator, count)]
        finally:
            await operator.stop()


async def _figures(api: ApiClient, operator: Operator, count: int) -> AsyncIterator[Goal]:
    name = f"{count} ModelServers"
    began = time.monotonic()
    await operator.start()
    await until(lambda: operator.total('reconciles_total{result="ok"}', at_least=count), 120, "all are looked at")
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
    await until(lambda: operator.total("resyncs_total", at_least=lists + 1), 120, "everything was listed once more")
    written, share = await operator.writes() - writes, (operator.cpu_seconds() - cpu) / REST_SECONDS
    called = (await operator.calls() - calls) / REST_SECONDS
    mib = operator.rss_mib()
    yield Goal(f"{name}: writes in a rest with a full list", "0", f"{written:.0f}", written == 0)
    yield Goal(f"{name}: memory of the operator", "under 250 MB", f"{mib:.0f} MB", mib < 250)
    yield Goal(f"{name}: CPU at rest", "under 10 % of a core", f"{100 * share:.1f} %", share < 0.1)
    yield Goal(f"{name}: API calls at rest", "under 1 a second", f"{called:.2f} a second", called < 1)


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
    await until(lambda: _is(len(late) == len(changed)), 120, f"all {len(changed)} changes arrived")
    following.cancel()
    return sorted(late.values())


async def _is(true: bool) -> bool:
    return true
