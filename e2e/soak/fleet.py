"""A thousand ModelServers on a real API server: how soon they are seen, how soon changes arrive, what rest costs."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cluster import ControlPlane
from kit.api_client import ApiClient
from soak.goals import Goal
from soak.plane import (
    DEPLOYMENTS,
    PODS,
    POLICIES,
    SERVERS,
    Operator,
    Raw,
    all_ready,
    create,
    install,
    kubelet,
    replicas,
    until,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterator

CHANGES_PER_SECOND: Final = 20
CHANGE_SECONDS: Final = 30
REST_SECONDS: Final = 300
"""The operator's own period of full lists: one falls into it."""
CAUGHT_UP_SECONDS: Final = 20
"""After a start the watch goes through all objects by itself, and a change waits for those before it."""


def run(count: int, rest: int) -> Iterator[Goal]:
    """Figures of a fleet of `count` ModelServers with one replica each; it rests for `rest` seconds."""
    with ControlPlane.start() as plane, tempfile.TemporaryDirectory(prefix="octavo-fleet-") as folder:
        install(plane)
        yield from asyncio.run(_measure(plane, count, rest, Path(folder)))


async def _measure(plane: ControlPlane, count: int, rest: int, folder: Path) -> list[Goal]:
    async with ApiClient(plane.kubeconfig) as api, replicas(), kubelet(api):
        operator = Operator(plane.kubeconfig, folder / "operator.log", list_seconds=rest)
        try:
            await operator.start()
            await create(api, count)
            await until(lambda: all_ready(api, count), 900, f"{count} ModelServers are ready")
            await operator.stop()
            return [goal async for goal in _figures(api, operator, count, rest)]
        finally:
            await operator.stop()


async def _figures(api: ApiClient, operator: Operator, count: int, rest: int) -> AsyncIterator[Goal]:
    name = f"{count} ModelServers"
    began = time.monotonic()
    await operator.start()
    await until(lambda: operator.total('reconciles_total{result="ok"}', at_least=count), 120, "all are looked at")
    seen = time.monotonic() - began
    yield Goal(f"{name}: all looked at after a restart of the operator", "within 10 s", f"{seen:.1f} s", seen <= 10)
    await asyncio.sleep(CAUGHT_UP_SECONDS)
    for change in (GUARD, TEMPLATE):
        late = await _change(api, count, change)
        p50, p99 = late[len(late) // 2], late[int(0.99 * len(late))]
        words = f"p50 {p50:.2f} s, p99 {p99:.2f} s of {len(late)}"
        yield Goal(f"{name}: {CHANGES_PER_SECOND} changes/s {change.words}", "p99 at most 2 s", words, p99 <= 2)
    await until(lambda: _settled(api, count), 600, "all replicas are replaced")
    await asyncio.sleep(90)  # the last of them are scraped for the first time, and their load is written
    async for goal in _rest(operator, name, rest):
        yield goal


async def _settled(api: ApiClient, count: int) -> bool:
    """Whether every Deployment has its pod of the newest template, and no other is left; asked seldom, for it costs.

    A Deployment does not count the pods that are still going, and each of them is news to the operator.
    """
    items = (await api.get(DEPLOYMENTS))["items"]
    pods = len((await api.get(PODS))["items"])
    counts = ("replicas", "updatedReplicas", "availableReplicas")
    done = sum(1 for item in items if all(item.get("status", {}).get(field) == 1 for field in counts))
    print(f"        {done} of {count} as they should be, {pods} pods", flush=True)
    await asyncio.sleep(5)
    return done == pods == count


async def _rest(operator: Operator, name: str, rest: int) -> AsyncIterator[Goal]:
    """What an operator costs that has nothing to do; a full list falls into it."""
    before, calls, cpu = await operator.written(), await operator.calls(), operator.cpu_seconds()
    lists = await operator.number("resyncs_total")
    began = time.monotonic()
    await asyncio.sleep(rest)
    await until(lambda: operator.total("resyncs_total", at_least=lists + 1), 120, "everything was listed once more")
    seconds = time.monotonic() - began
    written, share = await operator.written() - before, (operator.cpu_seconds() - cpu) / seconds
    called = (await operator.calls() - calls) / seconds
    mib = operator.rss_mib()
    words = ", ".join(f"{number} {what}" for what, number in written.items()) or "0"
    yield Goal(f"{name}: writes in a rest with a full list", "0", words, not written)
    yield Goal(f"{name}: memory of the operator", "under 250 MB", f"{mib:.0f} MB", mib < 250)
    yield Goal(f"{name}: CPU at rest", "under 10 % of a core", f"{100 * share:.1f} %", share < 0.1)
    yield Goal(f"{name}: API calls at rest", "under 1 a second", f"{called:.2f} a second", called < 1)


@dataclass(frozen=True)
class Change:
    """A change of a spec, and how to see that it has reached the child of that path."""

    words: str
    spec: Raw
    children: str
    sign: str
    """What the child's spec contains since then."""


GUARD: Final = Change(
    "to the patched NetworkPolicy, no pods replaced",
    {"networking": {"networkPolicy": {"allowedFrom": [{"podSelector": {"matchLabels": {"team": "soak"}}}]}}},
    POLICIES,
    '"team": "soak"',
)
TEMPLATE: Final = Change(
    "to the patched Deployment, each of which replaces a pod",
    {"runtime": {"maxNumSeqs": 9}},
    DEPLOYMENTS,
    '"--max-num-seqs", "9"',
)


async def _change(api: ApiClient, count: int, change: Change) -> list[float]:
    """Seconds from each change of a spec, as it is sent, to the change of its child, in order of size."""
    changed: dict[str, float] = {}
    late: dict[str, float] = {}

    async def follow() -> None:
        async for event in api.watch(change.children):
            name = event["object"]["metadata"]["name"]
            if name in changed and name not in late and change.sign in json.dumps(event["object"]["spec"]):
                late[name] = time.monotonic() - changed[name]

    async with asyncio.TaskGroup() as group:  # so that the watch's failure ends the run
        following = group.create_task(follow())
        for index in range(CHANGES_PER_SECOND * CHANGE_SECONDS):
            due = time.monotonic() + 1 / CHANGES_PER_SECOND
            name = f"server-{index % count}"
            changed[name] = time.monotonic()  # before the call: its answer may come after what it causes
            await api.patch(f"{SERVERS}/{name}", {"spec": change.spec})
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await until(lambda: _all_in(changed, late), 120, f"all {len(changed)} changes {change.words} arrived")
        following.cancel()
    return sorted(late.values())


async def _all_in(names: Collection[str], others: Collection[str]) -> bool:
    return len(names) == len(others)
