"""Watches that stay open and say nothing any more, as behind a firewall that has forgotten them: noticed when?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster import ControlPlane
from kit.api_client import ApiClient
from kit.api_proxy import ApiProxy, Call, Fault
from soak.goals import Goal
from soak.plane import DEPLOYMENTS, SERVERS, Operator, all_ready, create, install, kubelet, replicas, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOTICED_SECONDS: Final = 120
LIST_SECONDS: Final = 3600
"""No full list may come to help."""


class Silence:
    """Whatever is open when it falls is never heard again, not even a bookmark; what is opened later is."""

    def __init__(self) -> None:
        self.fell = 0.0

    def __call__(self, call: Call) -> Fault | None:
        return Fault(events=self._from(time.monotonic())) if call.watch else None

    def _from(self, opened: float) -> Callable[[Iterator[bytes]], Iterator[bytes]]:
        def heard(lines: Iterator[bytes]) -> Iterator[bytes]:
            return (line for line in lines if opened > self.fell)

        return heard

    def fall(self) -> None:
        self.fell = time.monotonic()


def run(rounds: int) -> Iterator[Goal]:
    """So many times in the life of one operator, whose full lists come too seldom to help."""
    with ControlPlane.start() as plane, tempfile.TemporaryDirectory(prefix="octavo-deaf-") as folder:
        install(plane)
        yield from asyncio.run(_measure(plane, rounds, Path(folder)))


async def _measure(plane: ControlPlane, rounds: int, folder: Path) -> list[Goal]:
    proxy, silence = ApiProxy(plane.kubeconfig, folder), Silence()
    proxy.fault = silence
    operator = Operator(proxy.kubeconfig, folder / "operator.log", list_seconds=LIST_SECONDS)
    async with ApiClient(plane.kubeconfig) as api, replicas(), kubelet(api):
        try:
            await operator.start()
            await create(api, 1)
            await until(lambda: all_ready(api, 1), 300, "a ModelServer is ready")
            found = [await _noticed(api, silence, number) for number in range(rounds)]
            name, words = f"{rounds} times all watches silent", f"{min(found):.0f} to {max(found):.0f} s"
            goal = f"within {NOTICED_SECONDS} s"
            return [
                Goal(f"{name}: heard again", goal, words, max(found) <= NOTICED_SECONDS),
                Goal(f"{name}: the operator lives", "yes", "yes" if operator.alive else "no", operator.alive),
            ]
        finally:
            await operator.stop()
            proxy.close()


async def _noticed(api: ApiClient, silence: Silence, number: int) -> float:
    """Seconds from the silence to what a change of a spec asks for; the change is made in the silence."""
    silence.fall()
    began, wanted = time.monotonic(), 2 + number
    await api.patch(f"{SERVERS}/server-0", {"spec": {"replicas": wanted}})

    async def done() -> bool:
        return bool((await api.get(f"{DEPLOYMENTS}/server-0"))["spec"]["replicas"] == wanted)

    await until(done, 600, "the change is carried out")
    return time.monotonic() - began
