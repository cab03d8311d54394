"""What a card can do: copy, read, and multiply matrices. Measured in the run whose figures are held to it."""

# ruff: noqa: N803, ANN001, ANN201, PLR0917  Triton's kernels are not typed

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import triton
import triton.language as tl

from octavo_kernels.bench.result import Ceilings
from octavo_kernels.bench.timings import summarise
from octavo_kernels.triton.launches import multiprocessors_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpu_clock import Clock

COPIED = 4 << 30  # bytes; far more than any cache, and as numbers of 32 bits few enough for 32-bit places
SIDE = 8192


class Reading(NamedTuple):
    """One way to read: numbers of 32 bits at a time, tiles on their way, programs per multiprocessor."""

    block: int
    stages: int
    programs: int
    num_warps: int


# The ceiling is the best of them: a slow reader would make everything else look fast.
READINGS = (Reading(2048, 4, 4, 4), Reading(4096, 4, 2, 8), Reading(4096, 3, 4, 8), Reading(2048, 1, 16, 4))


@triton.jit
def read_kernel(source, out, blocks, step, BLOCK: tl.constexpr, STAGES: tl.constexpr):
    """Sums what it reads, since loads whose result nobody needs are not made."""
    total = tl.zeros([BLOCK], tl.int32)
    for block in tl.range(tl.program_id(0), blocks, step, num_stages=STAGES):
        total += tl.load(source + block * BLOCK + tl.arange(0, BLOCK))
    tl.store(out + tl.program_id(0), tl.sum(total, 0))


def measure_ceilings(device: torch.device, clock: Clock) -> Ceilings:
    def seconds_of(call: Callable[[], object]) -> float:
        return summarise(clock([call], 1)).median

    source = torch.randint(1 << 30, (COPIED // 4,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    copy = seconds_of(lambda: target.copy_(source))
    read = min(seconds_of(reader(source, way)) for way in READINGS)
    a, b = (torch.randn(SIDE, SIDE, dtype=torch.bfloat16, device=device) for _ in range(2))
    out = torch.empty_like(a)
    product = seconds_of(lambda: torch.mm(a, b, out=out))
    return Ceilings(copy=2 * COPIED / copy, read=COPIED / read, product=2 * SIDE**3 / product)


def reader(source: torch.Tensor, way: Reading) -> Callable[[], torch.Tensor]:
    """A call that reads all of `source` once; what each program summed."""
    programs = way.programs * multiprocessors_of(source.device)
    sums = torch.empty(programs, dtype=torch.int32, device=source.device)

    def call() -> torch.Tensor:
        read_kernel[(programs,)](
            source,
            sums,
            source.numel() // way.block,
            programs,
            BLOCK=way.block,
            STAGES=way.stages,
            num_warps=way.num_warps,
        )
        return sums

    return call
