"""Bursts on a real node: seconds from the moment when the load jumps to the decision on it, as a watch brings it.

    a server rests ─> the requests of a burst are sent, all at once ─> status.scaling.lastDecision asks for more
                      |<------------------- measured ------------------->|

Mode Advisory: the decision is the same one, and is written last of all that a look writes; no pod comes or goes, so
that ten servers can be side by side, each with its own bursts at times of its own. The same advice is news after a
minute, which is how long each rests. One runs the demo's model, which takes a small machine's cores for itself while
its burst lasts, the others the simulated runner, all the runtime's own image.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from kit import prepare
from kit.api_client import ApiClient
from kit.kube import wait_reachable
from kit.load import Load, Tally
from soak.goals import Goal, lost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kit.target import Target

NAMESPACE: Final = "octavo-bursts"
SERVERS: Final = f"/apis/octavo.dev/v1alpha1/namespaces/{NAMESPACE}/modelservers"
SIMULATED: Final = tuple(f"simulated-{number}" for number in range(9))
REAL: Final = ("real",)
USERS: Final = 48
"""Far more than the four that a replica runs at once compute in the seconds of a decision."""
TOKENS: Final = {False: 50, True: 24}
"""Of each answer, simulated or real, so that a burst is several times what one replica computes while it comes: of less
it is right to wait. It is over within a minute.
"""
RUNTIME: Final = {
    "args": ["--runner", "sim", "--sim-step-time", "0.06"],
    "maxNumSeqs": 4,
    "kvCache": {"size": "256Mi"},
    "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
}
ADVICE_SECONDS: Final = 62.0
"""Between two pieces of advice, and a moment for the clocks' whole seconds."""
PHASE_SECONDS: Final = 20.0
PATIENCE: Final = 300.0
USUAL_SECONDS: Final = 3.0
SLOWEST_SECONDS: Final = 6.0


class Advice:
    """What is advised for each ModelServer, and when it was first seen."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[str, int, float]] = {}
        self._news = asyncio.Condition()

    async def follow(self, client: ApiClient) -> None:
        """Reads the watch, for ever."""
        async for event in client.watch(SERVERS):
            server = event["object"]
            last = server.get("status", {}).get("scaling", {}).get("lastDecision")
            name, seen = server["metadata"]["name"], time.monotonic()
            if last and (name not in self._last or self._last[name][0] != last["time"]):
                async with self._news:
                    self._last[name] = (last["time"], last["to"], seen)
                    self._news.notify_all()

    async def wait(self, name: str, *, more: bool) -> float:
        """When the advice came, or was there, that asks for more than the one replica, or for no more."""
        async with self._news:
            await asyncio.wait_for(self._news.wait_for(lambda: (self._replicas(name) > 1) == more), PATIENCE)
        return self._last[name][2] if name in self._last else -math.inf

    def _replicas(self, name: str) -> int:
        return self._last[name][1] if name in self._last else 1


def run(count: int) -> Iterator[Goal]:
    """Figures of `count` bursts on each of ten ModelServers. The local node is brought up, and is left up."""
    with prepare.demo_node(NAMESPACE) as where:
        where.kube.apply(*(_server(name) for name in (*SIMULATED, *REAL)))
        for name in (*SIMULATED, *REAL):
            prepare.wait_ready(where.kube, name, NAMESPACE, seconds=600)
            wait_reachable(where.url(name, NAMESPACE))
        bursts = asyncio.run(_measure(where, count))
    yield from _figures(bursts)


async def _measure(where: Target, count: int) -> list[tuple[float, Tally]]:
    advice = Advice()
    async with ApiClient(where.kube.kubeconfig) as client, asyncio.TaskGroup() as group:
        watch = group.create_task(advice.follow(client))
        each = [
            group.create_task(_bursts(name, where.url(name, NAMESPACE), count, advice)) for name in (*SIMULATED, *REAL)
        ]
        done = [burst for task in each for burst in await task]
        watch.cancel()
    return done


async def _bursts(name: str, url: str, count: int, advice: Advice) -> list[tuple[float, Tally]]:
    """Seconds from each burst on one ModelServer to its decision, and what became of its requests."""
    chance, done = random.Random(name), []
    for seed in range(count):
        quiet_since = await advice.wait(name, more=False)
        rest = max(0.0, quiet_since + ADVICE_SECONDS - time.monotonic())
        await asyncio.sleep(rest + chance.uniform(0, PHASE_SECONDS))
        load = Load(url, name, users=USERS, max_tokens=TOKENS[name in REAL], seed=seed, asks=1)
        began = time.monotonic()
        burst = asyncio.create_task(load.run())
        took = await advice.wait(name, more=True) - began
        await burst
        print(f"  {name:12} {took:6.2f} s", flush=True)
        done.append((took, load.tally))
    return done


def _figures(bursts: list[tuple[float, Tally]]) -> Iterator[Goal]:
    name, seconds = f"{len(bursts)} bursts on a node", [took for took, _ in bursts]
    yield lost(f"{name}: streams failed or cut", (tally for _, tally in bursts))
    usual, slowest = median(seconds), _high(seconds)
    yield Goal(f"{name}: burst to decision, p50", "3 s", f"{usual:.2f} s", usual <= USUAL_SECONDS)
    words = f"{slowest:.2f} s" + (", the slowest of all" if len(seconds) <= 100 else "")
    yield Goal(f"{name}: burst to decision, p99", "6 s", words, slowest <= SLOWEST_SECONDS)


def _high(seconds: Sequence[float]) -> float:
    """The 99th percentile: a value that was seen; of up to a hundred the largest."""
    return sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1]


def _server(name: str) -> dict[str, Any]:
    """The demo's, which only advises; simulated or real."""
    server = prepare.demo_server(name, NAMESPACE)
    spec = server["spec"]
    spec["replicas"] = 1
    spec["autoscaling"] |= {"mode": "Advisory"}
    if name in SIMULATED:
        spec["runtime"] = RUNTIME
    return server
