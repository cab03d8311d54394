"""What the kernels are held to, each goal with the worst that a run has found.

    decode, bf16, 256 MiB and more       share of what the card reads, at least 95 %          the lowest share
    one sequence more                    the time over that of one sequence less              the largest step
    ...

A goal of which the run has no shape, or no contender, is not among them. The kernels' issue and notes on others'
figures set them; for an H100 where they are in operations per second.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from octavo_kernels.bench.result import OURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from octavo_kernels.bench.result import Ceilings, Result
    from octavo_kernels.bench.shapes import BenchShape

_MIB: Final = 1 << 20
_LONG_PREFILL: Final = 8192  # queries of one sequence, without a context before
_ALIKE: Final = 0.01  # of the bytes, that a batch and what it is compared with may differ in


class Goal(NamedTuple):
    name: str
    found: float
    wanted: float
    at_least: bool  # `found` is to be so much or more; else so much or less
    where: str  # the shape in which it was found

    @property
    def met(self) -> bool:
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted


def goals_of(results: Sequence[Result], ceilings: Ceilings) -> list[Goal]:
    found = [
        ("decode bf16, 256 MiB and more: share of reading", 0.95, _shares(results, ceilings, "bf16", 256, 1 << 20)),
        ("decode bf16, 32 to 256 MiB: share of reading", 0.85, _shares(results, ceilings, "bf16", 32, 256)),
        ("decode e4m3, 128 MiB and more: share of reading", 0.85, _shares(results, ceilings, "e4m3", 128, 1 << 20)),
        ("decode: time of FlashInfer over ours", 1.0, _ratios(results, "flashinfer", most=1 << 20)),
        ("decode up to 32: time of vLLM's Triton over ours", 1.5, _ratios(results, "vllm triton", most=32)),
        ("ragged: share over that of one length", 0.9, _ragged(results, ceilings)),
        ("prefill of 8k and more, d128: TFLOP/s", 450.0, _prefills(results)),
    ]
    goals = [_lowest(name, wanted, list(pairs)) for name, wanted, pairs in found]
    return [goal for goal in (*goals, _largest_step(results)) if goal is not None]


def goals_table(goals: Sequence[Goal]) -> str:
    """One line for each."""
    return "\n".join(
        f"{'met' if goal.met else 'NOT MET':8} {goal.name}: {goal.found:.3g}, "
        f"{'at least' if goal.at_least else 'at most'} {goal.wanted:g} ({goal.where})"
        for goal in goals
    )


def _lowest(name: str, wanted: float, pairs: Sequence[tuple[float, str]]) -> Goal | None:
    if not pairs:
        return None
    found, where = min(pairs)
    return Goal(name, found, wanted, True, where)


def _largest_step(results: Sequence[Result]) -> Goal | None:
    steps = list(_steps(results))
    if not steps:
        return None
    found, where = max(steps)
    return Goal("one sequence more: time over that of one less", found, 1.25, False, where)


def _shares(
    results: Sequence[Result], ceilings: Ceilings, cache: str, least: int, most: int
) -> Iterator[tuple[float, str]]:
    """Of decodes over `least` MiB of keys and values and more, and less than `most`."""
    for result in results:
        shape = result.shape
        if shape.kind == "decode" and shape.cache == cache and least * _MIB <= shape.kv_bytes < most * _MIB:
            yield result.share_of(ceilings), shape.name


def _ratios(results: Sequence[Result], other: str, *, most: int) -> Iterator[tuple[float, str]]:
    for result in results:
        if result.shape.kind == "decode" and len(result.shape.sequences) <= most and other in result.timings:
            yield result.ratios()[other], result.shape.name


def _ragged(results: Sequence[Result], ceilings: Ceilings) -> Iterator[tuple[float, str]]:
    """Each against the same number of sequences of one length with as many bytes."""
    decodes = [result for result in results if result.shape.kind == "decode"]
    for result in decodes:
        for level in decodes:
            if not result.shape.uniform and level.shape.uniform and _comparable(result.shape, level.shape):
                yield result.share_of(ceilings) / level.share_of(ceilings), result.shape.name


def _comparable(one: BenchShape, other: BenchShape) -> bool:
    same = len(one.sequences) == len(other.sequences) and _model(one) == _model(other)
    return same and abs(one.kv_bytes - other.kv_bytes) <= _ALIKE * one.kv_bytes


def _steps(results: Sequence[Result]) -> Iterator[tuple[float, str]]:
    """Of batches that differ by one sequence and nothing else."""
    uniform = [result for result in results if result.shape.kind == "decode" and result.shape.uniform]
    by_model = sorted(uniform, key=lambda result: (_model(result.shape), result.shape.sequences[0], _batch(result)))
    for fewer, more in pairwise(by_model):
        alike = _model(fewer.shape) == _model(more.shape) and fewer.shape.sequences[0] == more.shape.sequences[0]
        if alike and _batch(more) == _batch(fewer) + 1:
            yield more.timings[OURS].median / fewer.timings[OURS].median, more.shape.name


def _prefills(results: Sequence[Result]) -> Iterator[tuple[float, str]]:
    for result in results:
        shape = result.shape
        queries, context = shape.sequences[0]
        if shape.kind == "prefill" and shape.head_dim == 128 and queries == context >= _LONG_PREFILL:
            yield shape.operations / result.timings[OURS].median / 1e12, shape.name


def _model(shape: BenchShape) -> tuple[int, int, int, int, str]:
    return shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.block_size, shape.cache


def _batch(result: Result) -> int:
    return len(result.shape.sequences)
