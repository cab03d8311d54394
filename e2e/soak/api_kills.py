"""kill -9 of the operator before and after every call of a reconcile: the test of the fast suite, without gaps."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from soak.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).parents[2]
TEST: Final = "tests/control/apiserver/test_faults.py::test_a_kill_around_any_call_changes_nothing_in_the_end"


def run() -> Iterator[Goal]:
    """How many kills there were, and whether every life ended as an undisturbed one does."""
    command = [sys.executable, "-m", "pytest", TEST, "-s", "-q"]
    environment = os.environ | {"OCTAVO_KILL_STRIDE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    found = re.search(r"calls: \[(.*)\] kills: \{(.*)\}", done.stdout)
    if found is None or done.returncode != 0:
        print(done.stdout[-4000:])
    calls = sum(map(int, found[1].split(","))) if found else 0
    kills = sum(map(int, re.findall(r"\d+", found[2]))) if found else 0
    words = f"{kills} kills around {calls} calls, " + ("the same" if done.returncode == 0 else "another end")
    yield Goal(
        "operator killed before and after every call", "same end state", words, done.returncode == 0 and kills > 0
    )
