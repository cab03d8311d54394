"""What deciding and scraping cost: the benchmarks of operator/bench, twice each by turns; the worse run counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from soak.goals import Goal

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCH: Final = Path(__file__).parents[2] / "operator/bench"
RUNS: Final = 2
DECISION_MILLISECONDS: Final = 2.0
SCRAPE_SHARE: Final = 0.25


def run() -> Iterator[Goal]:
    """The figures of a machine on which nothing else runs."""
    decisions, scrapes = [], []
    for _ in range(RUNS):
        decisions.append(_bench("decide.py", "--replicas", "200"))
        scrapes.append(_bench("scrape.py", "--replicas", "500"))
    took = [(found["aggregate_us"] + found["decide_us"]) / 1000 for found in decisions]
    words = " and ".join(f"{each:.2f} ms" for each in took)
    met = max(took) < DECISION_MILLISECONDS
    yield Goal("a decision for 200 replicas, median of a run, 2 runs", "under 2 ms", words, met)
    shares = [found["cores"] for found in scrapes]
    words = " and ".join(f"{100 * each:.1f} %" for each in shares)
    met = max(shares) < SCRAPE_SHARE and all(found["answered"] == found["replicas"] for found in scrapes)
    yield Goal("500 replicas scraped every 2 s, 2 runs", "under 25 % of a core", words, met)


def _bench(script: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, BENCH / script, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
