"""The API server is away for a minute and for ten: the operator lives, no pod is touched, and it catches up."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster import ControlPlane
from kit.api_client import ApiClient
from kit.api_proxy import ApiProxy
from soak.goals import Goal
from soak.plane import (
    DEPLOYMENTS,
    SERVERS,
    SERVICES,
    Operator,
    all_ready,
    create,
    install,
    kubelet,
    pods_by_server,
    replicas,
    server,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


SERVED: Final = 20
CATCH_UP_SECONDS: Final = 30


def run(lengths: tuple[int, ...]) -> Iterator[Goal]:
    """Outages of so many seconds, one after the other, in the life of one operator."""
    with ControlPlane.start() as plane, tempfile.TemporaryDirectory(prefix="octavo-outage-") as folder:
        install(plane)
        yield from asyncio.run(_measure(plane, lengths, Path(folder)))


async def _measure(plane: ControlPlane, lengths: tuple[int, ...], folder: Path) -> list[Goal]:
    proxy = ApiProxy(plane.kubeconfig, folder)
    operator = Operator(proxy.kubeconfig, folder / "operator.log")
    async with ApiClient(plane.kubeconfig) as api, replicas(), kubelet(api):
        try:
            await operator.start()
            await create(api, SERVED)
            await until(lambda: all_ready(api, SERVED), 600, f"{SERVED} ModelServers are ready")
            return [
                goal
                for number, seconds in enumerate(lengths)
                async for goal in _outage(api, proxy, operator, number, seconds)
            ]
        finally:
            await operator.stop()
            proxy.close()


async def _outage(
    api: ApiClient, proxy: ApiProxy, operator: Operator, number: int, seconds: int
) -> AsyncIterator[Goal]:
    """Meanwhile one ModelServer is scaled, one is changed, one is deleted, one comes, and one loses its Service."""
    name, before = f"API server away for {seconds} s", await pods_by_server(api)
    new = server(SERVED + number)
    scaled, changed, deleted, robbed = (f"server-{4 * number + index}" for index in range(4))
    with proxy.outage():
        await api.patch(f"{SERVERS}/{scaled}", {"spec": {"replicas": 2}})
        await api.patch(f"{SERVERS}/{changed}", {"spec": {"runtime": {"maxNumSeqs": 9}}})
        await api.delete(f"{SERVERS}/{deleted}", {"propagationPolicy": "Background"})
        await api.delete(f"{SERVICES}/{robbed}", {})
        await api.post(SERVERS, new)
        await asyncio.sleep(seconds)
        lived, during = operator.alive, await pods_by_server(api)
    back = time.monotonic()
    await until(lambda: _caught_up(api, scaled, changed, robbed, new["metadata"]["name"]), 300, "all is caught up")
    late = time.monotonic() - back
    after = await pods_by_server(api)
    touched = [pods for pods in before if pods not in (deleted, changed) and not before[pods] <= after[pods]]
    touched += [pods for pods in before if pods != deleted and before[pods] != during.get(pods)]
    yield Goal(
        f"{name}: the operator lives", "yes", "yes" if lived and operator.alive else "no", lived and operator.alive
    )
    yield Goal(f"{name}: ModelServers whose pods were touched", "0", f"{len(touched)} of {len(before)}", not touched)
    words = f"{late:.1f} s"
    yield Goal(f"{name}: caught up", f"within {CATCH_UP_SECONDS} s", words, late <= CATCH_UP_SECONDS)


async def _caught_up(api: ApiClient, scaled: str, changed: str, robbed: str, new: str) -> bool:
    """Whether what was asked for during the outage is there, in Deployments and status."""
    deployments = {item["metadata"]["name"]: item["spec"] for item in (await api.get(DEPLOYMENTS))["items"]}
    services = {item["metadata"]["name"] for item in (await api.get(SERVICES))["items"]}
    servers = (await api.get(SERVERS))["items"]
    seen = all(item["status"]["observedGeneration"] == item["metadata"]["generation"] for item in servers)
    if not seen or new not in deployments or not {robbed, new} <= services:
        return False
    arguments = deployments[changed]["template"]["spec"]["containers"][0]["args"]
    return deployments[scaled]["replicas"] == 2 and "--max-num-seqs" in arguments
