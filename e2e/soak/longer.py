"""Tests of the fast suite, the long way: more rounds, no gaps, the times of an installation. They take minutes each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from soak.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
API: Final = "tests/control/apiserver"
LEASE_SECONDS: Final = 15
TAKE_OVER_SECONDS: Final = 20.0


class _Run(NamedTuple):
    passed: bool
    text: str

    def numbers(self, pattern: str) -> list[float]:
        """All that the pattern's only group finds."""
        return [float(found) for found in re.findall(pattern, self.text)]


def api_kills() -> Iterator[Goal]:
    """Kill -9 of the operator before and after every call: does every life end as an undisturbed one does?"""
    names = ("test_a_kill_around_any_call_changes_nothing_in_the_end", "test_a_kill_around_any_call_of_a_deletion")
    done = _test(f"{API}/test_faults.py", "-k", " or ".join(names), OCTAVO_KILL_STRIDE="1")
    calls = re.search(r"calls: \[(.*)\] kills: \{(.*)\}", done.text)
    numbers = [sum(map(int, re.findall(r"\d+", part))) for part in calls.groups()] if calls else [0, 0]
    words = f"{numbers[1]} kills around {numbers[0]} calls, " + ("the same" if done.passed else "another end")
    met = done.passed and numbers[1] > 0
    yield Goal("operator killed before and after every call", "same end state", words, met)


def api_faults(seconds: int) -> Iterator[Goal]:
    """Each call late by so many seconds once: given up, tried again, and then it arrives."""
    late = f"{API}/test_faults.py::test_every_call_may_fail_once[late]"
    done = _test(late, OCTAVO_LATE_SECONDS=str(seconds))
    words = "the same" if done.passed else "another end"
    yield Goal(f"each call of the operator {seconds} s late once", "same end state", words, done.passed)


def election(rounds: int) -> Iterator[Goal]:
    """Two operators with the Lease of an installation; the leader is killed and paused in turn."""
    name = f"leader killed or paused {rounds} times"
    done = _test(
        f"{API}/test_election.py::test_a_leader_that_is_killed_or_paused_is_replaced_and_never_writes_again",
        OCTAVO_ELECTION_ROUNDS=str(rounds // 2),
        OCTAVO_ELECTION_SECONDS=str(LEASE_SECONDS),
    )
    taken, work = done.numbers(r"replaced after ([0-9.]+) s"), done.numbers(r"at work after ([0-9.]+) s")
    words = f"{min(taken):.1f} to {max(taken):.1f} s" if taken else "none"
    met = len(taken) == rounds and max(taken) <= TAKE_OVER_SECONDS
    yield Goal(f"{name}: replaced", f"within {TAKE_OVER_SECONDS:.0f} s", words, met)
    words = f"{min(work):.1f} to {max(work):.1f} s" if work else "none"
    yield Goal(f"{name}: at work again", "soon after", words, len(work) == rounds)
    words = "0" if done.passed else "see above"
    yield Goal(f"{name}: writes by who does not hold the Lease", "0", words, done.passed)


def traces(count: int) -> Iterator[Goal]:
    """Random lives of a pool, of each of the three properties so many, other ones each time."""
    for what, name in {
        "bounds and steps, whatever the replicas say": "test_whatever_the_replicas_say",
        "an end at idle": "test_a_pool_that_becomes_idle",
        "one turn in a window under a constant load": "test_a_constant_load_turns",
    }.items():
        done = _test("tests/control/test_autoscale_traces.py", "-k", name, OCTAVO_TRACES=str(count))
        words = f"{count} without a finding" if done.passed else "a finding"
        yield Goal(f"{count} random traces: {what}", "no finding", words, done.passed)


def _test(*arguments: str, **environment: str) -> _Run:
    command = [sys.executable, "-m", "pytest", *arguments, "-s", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment, cwd=ROOT)
    if done.returncode != 0:
        print(done.stdout[-4000:])
    return _Run(done.returncode == 0, done.stdout)
