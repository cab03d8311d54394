"""One run on one GPU: `python kernels/bench/gpu.py [--quick]`. It has not run on a GPU yet.

In this order: the card and versions; what the card can do (a copy, reading, a product of matrices); whether every
kernel computes what the specification says, each twice and to the last bit alike; then attention over shapes, ours and
others in turn. A table is printed as it grows, and after each shape everything so far goes to `results/CARD-DAY.json`
(or --out), so that a run that is cut short has told what it saw. With --seconds it ends by itself.

Calls go through several caches in turn that together are larger than the L2 cache, in one CUDA graph of some 20 calls
or 20 ms; a timing is a replay over the number of calls. A page beside the results draws shares of the ceiling over
bytes. Others are what is installed of: torch's attention and flex_attention on contiguous keys (they do not pay for
pages), FlashInfer, FlashAttention 3, vLLM's Triton kernel as vLLM launches it. One that raises or computes something
else is named with the reason and not timed.
Figures of different cards, or of different runs, do not belong into one table.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from gpu_ceilings import measure_ceilings
from gpu_checks import check_all
from gpu_clock import replay
from gpu_contenders import CONTENDERS, make_pools
from gpu_machine import describe, l2_bytes_of

from octavo_kernels.bench.goals import goals_of, goals_table
from octavo_kernels.bench.plot import page
from octavo_kernels.bench.report import document, file_name, table, to_json
from octavo_kernels.bench.result import OURS, Result
from octavo_kernels.bench.shapes import all_shapes, calls_for, pools_for, quick_shapes
from octavo_kernels.bench.timings import Timing, summarise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpu_clock import Clock
    from gpu_contenders import Call, Contender

    from octavo_kernels.bench.result import Ceilings
    from octavo_kernels.bench.shapes import BenchShape

RESULTS = Path(__file__).parent / "results"
MOST_ERROR = 2e-2  # of a contender, relative to ours, in 16 bits


@dataclass(frozen=True)
class Bench:
    """Where calls run, and what times them."""

    device: torch.device
    clock: Clock
    l2_bytes: int
    contenders: Mapping[str, Contender]


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parse(arguments)
    if not torch.cuda.is_available():
        sys.exit("kernels/bench/gpu.py needs an NVIDIA GPU, and torch sees none")
    machine = describe()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    shapes = [shape for shape in (quick_shapes() if options.quick else all_shapes()) if options.match in shape.name]
    others = {name: CONTENDERS[name] for name in CONTENDERS if name == OURS or name in options.against}
    device = torch.device("cuda")
    bench = Bench(device, replay, l2_bytes_of(device), others)
    file = options.out / file_name(machine["card"], dt.datetime.now(dt.UTC).date().isoformat())
    wrong = take(bench, machine, shapes, file, until=time.monotonic() + options.seconds)
    sys.exit("\n".join(wrong) or 0)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a dozen shapes instead of all")
    parser.add_argument("--match", default="", metavar="TEXT", help="only shapes whose name has it, such as 'prefill'")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after so many no other shape is begun")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="where results go")
    known = [name for name in CONTENDERS if name != OURS]
    parser.add_argument("--against", nargs="*", default=known, choices=known, help="others to time; all by default")
    return parser.parse_args(arguments)


def take(
    bench: Bench, machine: Mapping[str, str], shapes: Sequence[BenchShape], file: Path, *, until: float
) -> list[str]:
    """The whole run; what went wrong, in words. `until` is of time.monotonic()."""
    ceilings = measure_ceilings(bench.device, bench.clock)
    print(ceilings, flush=True)
    wrong = check_all(bench.device)
    if wrong:
        return ["not timed, since these are wrong:", *wrong]
    file.parent.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    for reached, shape in enumerate(shapes):
        if time.monotonic() > until:
            wrong.append(f"{len(shapes) - reached} of {len(shapes)} shapes were not begun, from {shape.name!r} on")
            break
        try:
            results.append(measure(bench, shape, ceilings))
        except Exception as error:  # noqa: BLE001  the others are still worth their time
            wrong.append(f"{shape.name}: {_told(error)}")
            continue
        run = document(machine, ceilings, results)
        file.write_text(to_json(run))
        file.with_suffix(".html").write_text(page(run))
    print(table(results, ceilings), goals_table(goals_of(results, ceilings)), file, sep="\n\n", flush=True)
    return wrong


def measure(bench: Bench, shape: BenchShape, ceilings: Ceilings) -> Result:
    """Ours first, and the others against it; the pools are shared, so that all read the same numbers."""
    pools = make_pools(shape, pools_for(shape, bench.l2_bytes), bench.device)
    count = calls_for(shape.least_seconds(ceilings.read, ceilings.product))
    timings: dict[str, Timing] = {}
    left_out: dict[str, str] = {}
    wanted: torch.Tensor | None = None
    for name, contender in bench.contenders.items():
        try:
            found, timings[name] = time_contender(bench, contender(shape, pools), count, wanted)
            wanted = found if wanted is None else wanted
        except Exception as error:
            if name == OURS:
                raise
            left_out[name] = _told(error)[:100]
    result = Result(shape, timings, left_out)
    print(f"{shape.name}: {timings[OURS].median * 1e6:.1f} µs, {result.ratios()}", flush=True)
    return result


def time_contender(
    bench: Bench, one_each: Sequence[Call], count: int, wanted: torch.Tensor | None
) -> tuple[torch.Tensor, Timing]:
    """What it computed on the first pool, and its timing. Raises `ArithmeticError` when that is not what is wanted."""
    found = one_each[0]().clone()
    if wanted is not None:
        check_close(found, wanted)
    return found, summarise(bench.clock(one_each, count))


def check_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    error = ((found.float() - wanted.float()).norm() / wanted.float().norm()).item()
    if not error < MOST_ERROR:
        raise ArithmeticError(f"differs from ours by {error:.1e}")


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


if __name__ == "__main__":
    main()
