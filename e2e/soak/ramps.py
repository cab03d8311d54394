"""Load that comes and goes on a real node with the real runtime: nothing is cut, and every decision can be made again.

One user streams all the time; many more come until a second replica is ready, and leave until it is gone.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from kit import prepare
from kit.kube import wait_reachable, wait_until
from kit.load import Load
from octavo_operator.core.autoscale import judge
from octavo_operator.core.record import from_record
from soak.goals import Goal, lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit.load import Tally
    from kit.target import Target

NAMESPACE: Final = "octavo-ramps"
NAME: Final = "ramps"
USERS: Final = 10  # more than two replicas of maxNumSeqs 4 can run at once, so that some wait
DECISION_SECONDS: Final = 6.0
USUAL_DECISION_SECONDS: Final = 3.0


def run(count: int) -> Iterator[Goal]:
    """Figures of `count` ramps up and down. The local node is brought up, and is left up."""
    with prepare.demo_node(NAMESPACE) as where:
        where.kube.apply(prepare.demo_server(NAME, NAMESPACE))
        prepare.wait_ready(where.kube, NAME, NAMESPACE)
        url = where.url(NAME, NAMESPACE)
        wait_reachable(url)
        with Load(url, NAME, users=1) as steady:
            ramps = [_ramp(where, url, seed) for seed in range(1, count + 1)]
        yield from _figures(ramps, steady.tally, _decisions(where))


def _ramp(where: Target, url: str, seed: int) -> tuple[float, Tally]:
    """Seconds from the load to the decision, and what became of its requests."""
    began = time.monotonic()
    with Load(url, NAME, users=USERS, seed=seed) as load:
        wait_until("a decision", lambda: _desired(where) == 2, seconds=120, every=0.1)
        decided = time.monotonic() - began
        wait_until("two ready replicas", lambda: _ready(where) == 2, seconds=300)
    wait_until("one wanted replica", lambda: _desired(where) == 1, seconds=300)
    wait_until("the second pod to be gone", lambda: len(where.kube.pods(NAME, NAMESPACE)) == 1, seconds=180)
    return decided, load.tally


def _desired(where: Target) -> int:
    view = where.kube.modelserver(NAME, NAMESPACE)
    return view.desired_replicas if view else 0


def _ready(where: Target) -> int:
    view = where.kube.modelserver(NAME, NAMESPACE)
    return view.ready_replicas if view else 0


def _decisions(where: Target) -> list[dict[str, Any]]:
    """All that the status keeps: ten at most before the last one."""
    view = where.kube.modelserver(NAME, NAMESPACE)
    scaling = view.status["scaling"] if view else {}
    return [*scaling.get("history", []), scaling["lastDecision"]]


def _figures(ramps: list[tuple[float, Tally]], steady: Tally, decisions: list[dict[str, Any]]) -> Iterator[Goal]:
    name = f"{len(ramps)} ramps up and down"
    tallies = [steady, *(tally for _, tally in ramps)]
    yield lost(f"{name}: streams failed or cut", tallies)
    again = sum(1 for decision in decisions if _made_again(decision) == (decision["to"], decision["reason"]))
    words = f"{again} of {len(decisions)}"
    enough = len(decisions) >= min(2 * len(ramps), 11)
    yield Goal(f"{name}: decisions that their records give again", "all", words, again == len(decisions) and enough)
    decided = [seconds for seconds, _ in ramps]
    usual, slowest = median(decided), max(decided)
    yield Goal(f"{name}: load to decision, median", "3 s", f"{usual:.1f} s", usual <= USUAL_DECISION_SECONDS)
    yield Goal(f"{name}: load to decision, slowest", "6 s", f"{slowest:.1f} s", slowest <= DECISION_SECONDS)


def _made_again(decision: dict[str, Any]) -> tuple[int, str]:
    verdict = judge(from_record(decision["record"]))
    return verdict.replicas, verdict.reason
