"""One run on one GPU: `python kernels/bench/gpu.py [--quick]`. It has not run on a GPU yet.

In this order: the card and versions; what the card can do (a copy, reading, a product of matrices); whether every
kernel computes what the specification says, each twice and to the last bit alike; then attention over shapes, ours and
others in turn. A table is printed as it grows, and everything goes to `results/CARD-DAY.json` beside this file.

Calls go through several caches in turn that together are larger than the L2 cache, at least 20 in one CUDA graph; a
timing is a replay over the number of calls. A page beside the results draws shares of the ceiling over bytes. Others
are what is installed of: torch's attention and flex_attention on contiguous keys (they do not pay for pages),
FlashInfer, FlashAttention 3, vLLM's Triton kernel with its arguments' defaults. One that raises or computes
something else is named with the reason and not timed.
Figures of different cards, or of different runs, do not belong into one table.
"""

from __future__ import annotations

import argparse
import datetime as dt
import itertools
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import triton
from gpu_ceilings import measure_ceilings
from gpu_checks import check_all
from gpu_contenders import CONTENDERS, make_pools

from octavo_kernels.bench.plot import page
from octavo_kernels.bench.report import OURS, Result, document, file_name, table, to_json
from octavo_kernels.bench.shapes import all_shapes, pools_for, quick_shapes
from octavo_kernels.bench.timings import Timing, summarise

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_contenders import Contender, Pool

    from octavo_kernels.bench.shapes import BenchShape

RESULTS = Path(__file__).parent / "results"
CALLS, REPLAYS = 20, 30
MOST_ERROR = 2e-2  # of a contender, relative to ours, in 16 bits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a dozen shapes instead of all")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("kernels/bench/gpu.py needs an NVIDIA GPU, and torch sees none")
    machine = describe()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    ceilings = measure_ceilings(lambda call: replay(call, 1))
    print(ceilings, flush=True)
    wrong = check_all(torch.device("cuda"))
    if wrong:
        sys.exit("not timed, since these are wrong:\n" + "\n".join(wrong))
    results = [measure(shape) for shape in (quick_shapes() if arguments.quick else all_shapes())]
    print(table(results, ceilings))
    RESULTS.mkdir(exist_ok=True)
    day = dt.datetime.now(dt.UTC).date().isoformat()
    file = RESULTS / file_name(machine["card"], day)
    run = document(machine, ceilings, results)
    file.write_text(to_json(run))
    file.with_suffix(".html").write_text(page(run))
    print(file)


def describe() -> dict[str, str]:
    asked = "driver_version,clocks.max.sm,clocks.max.mem,power.limit"
    answer = subprocess.run(
        ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    return {
        "card": torch.cuda.get_device_name(),
        **dict(zip(asked.split(","), (part.strip() for part in answer.split(",")), strict=True)),
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def measure(shape: BenchShape) -> Result:
    """Ours first, and the others against it; the pools are shared, so that all read the same numbers."""
    l2_bytes = torch.cuda.get_device_properties(0).L2_cache_size
    pools = make_pools(shape, pools_for(shape, l2_bytes), torch.device("cuda"))
    timings: dict[str, Timing] = {}
    left_out: dict[str, str] = {}
    wanted: torch.Tensor | None = None
    for name, contender in CONTENDERS.items():
        try:
            wanted, timings[name] = time_contender(contender, shape, pools, wanted)
        except Exception as error:
            if name == OURS:
                raise
            left_out[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:100]
    result = Result(shape, timings, left_out)
    print(f"{shape.name}: {timings[OURS].median * 1e6:.1f} µs, {result.ratios()}", flush=True)
    del pools
    torch.cuda.empty_cache()
    return result


def time_contender(
    contender: Contender, shape: BenchShape, pools: list[Pool], wanted: torch.Tensor | None
) -> tuple[torch.Tensor, Timing]:
    """Its timing, and what ours computed on the first pool. Raises `ArithmeticError` when it computes another thing."""
    calls = contender(shape, pools)
    found = calls[0]().clone()
    if wanted is not None:
        check_close(found, wanted)
    turn = itertools.cycle(calls)
    seconds = replay(lambda: next(turn)(), max(CALLS, len(calls)))  # noqa: PLW0108  the next one each time
    return (found if wanted is None else wanted), summarise(seconds)


def check_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    error = ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()
    if not error < MOST_ERROR:
        raise ArithmeticError(f"differs from ours by {error:.1e}")


def replay(call: Callable[[], object], calls: int) -> list[float]:
    """Seconds of one call, by CUDA's clock, over replays of a graph that holds `calls` of them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, and allocates what a graph may not
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    graph.replay()
    seconds = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        seconds.append(start.elapsed_time(end) / 1e3 / calls)
    return seconds


if __name__ == "__main__":
    main()
