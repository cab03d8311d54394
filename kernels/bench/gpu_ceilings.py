"""What a card can do: copy, read, and multiply matrices. Measured in the run whose figures are held to it."""

# ruff: noqa: N803, ANN001, ANN201  Triton's kernels are not typed

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from octavo_kernels.bench.report import Ceilings
from octavo_kernels.bench.timings import summarise

if TYPE_CHECKING:
    from collections.abc import Callable

COPIED = 4 << 30  # bytes; far more than any cache
SIDE = 8192
BLOCK = 8192  # numbers of 32 bits
PROGRAMS_PER_SM = 4


@triton.jit
def read_kernel(source, out, blocks, step, BLOCK: tl.constexpr):
    """Sums what it reads, since loads whose result nobody needs are not made."""
    total = tl.zeros([BLOCK], tl.int32)
    for block in tl.range(tl.program_id(0), blocks, step, num_stages=4):
        total += tl.load(source + block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK))
    tl.store(out + tl.program_id(0), tl.sum(total, 0))


def measure_ceilings(seconds_of: Callable[[Callable[[], object]], list[float]]) -> Ceilings:
    """`seconds_of` runs a call several times on the GPU and returns the seconds of each."""
    device = torch.device("cuda")
    source = torch.randint(1 << 30, (COPIED // 4,), dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    programs = PROGRAMS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count
    sums = torch.empty(programs, dtype=torch.int32, device=device)
    copy = summarise(seconds_of(lambda: target.copy_(source))).median
    blocks = source.numel() // BLOCK
    read = summarise(
        seconds_of(lambda: read_kernel[(programs,)](source, sums, blocks, programs, BLOCK=BLOCK, num_warps=8))
    ).median
    a, b = (torch.randn(SIDE, SIDE, dtype=torch.bfloat16, device=device) for _ in range(2))
    out = torch.empty_like(a)
    product = summarise(seconds_of(lambda: torch.mm(a, b, out=out))).median
    return Ceilings(copy=2 * COPIED / copy, read=COPIED / read, product=2 * SIDE**3 / product)
