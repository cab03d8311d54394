"""What one scaling decision costs in Python: aggregating the windows of many replicas, and deciding. One JSON line.

Run as `python operator/bench/decide.py [--replicas 200] [--rounds 200]`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

from octavo_operator.core.autoscale import decide
from octavo_operator.core.buckets import Buckets
from octavo_operator.core.exposition import Sample
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.window import Window, aggregate

BOUNDS = (*(0.005 * 2**step for step in range(16)), float("inf"))


def sample(now: float, replica: int) -> Sample:
    """A busy replica with both histograms."""
    counts = Buckets(BOUNDS, tuple(now * (step + 1) for step in range(len(BOUNDS))))
    return Sample(
        time=now,
        running=20,
        waiting=replica % 3,
        kv_used=40_000 + replica,
        kv_capacity=100_000,
        waiting_tokens=500,
        prompt_tokens=now * 1000,
        generation_tokens=now * 300,
        ttft=counts,
        itl=counts,
    )


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=200, help="decisions, 5 s apart, a full memory at the end")
    args = parser.parse_args()
    policy = ScalingPolicy(1, 1000, 0.7, 4, up_window=15, down_window=300, ttft_p95=2.0, itl_p95=0.1)
    memory, now = ScalerMemory(since=0.0), 1000.0
    ready = {f"pod-{replica}": 0.0 for replica in range(args.replicas)}
    windows = dict.fromkeys(ready, Window())
    times: dict[str, list[float]] = {"add": [], "aggregate": [], "decide": []}
    for _ in range(args.rounds):
        start = time.perf_counter()
        windows = {uid: window.add(sample(now, index)) for index, (uid, window) in enumerate(windows.items())}
        added = time.perf_counter()
        signals = aggregate(windows, ready, now, startup_p90=60.0)
        aggregated = time.perf_counter()
        memory = decide(signals, policy, args.replicas, memory, now).memory
        decided = time.perf_counter()
        times["add"].append((added - start) / args.replicas)
        times["aggregate"].append(aggregated - added)
        times["decide"].append(decided - aggregated)
        now += 5
    medians = {f"{name}_us": round(statistics.median(values) * 1e6, 1) for name, values in times.items()}
    result = {"bench": "decide", "replicas": args.replicas, **medians, "python": platform.python_version()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
