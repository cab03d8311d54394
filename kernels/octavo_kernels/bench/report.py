"""A run's results as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from octavo_kernels.bench.shapes import CACHES
from octavo_kernels.bench.timings import CostModel, Timing, fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from octavo_kernels.bench.shapes import BenchShape, Cache

OURS = "triton"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the card did in the same run."""

    copy: float  # bytes per second, read and written
    read: float  # bytes per second
    product: float  # operations per second, bf16


@dataclass(frozen=True, slots=True)
class Result:
    """One shape: how long each implementation took, or why it did not."""

    shape: BenchShape
    timings: Mapping[str, Timing]
    left_out: Mapping[str, str]

    def share_of(self, ceilings: Ceilings) -> float:
        """Ours over what the card could do: of the bandwidth, or of the products where these take longer."""
        least = max(self.shape.bytes_moved / ceilings.read, self.shape.operations / ceilings.product)
        return least / self.timings[OURS].median

    def ratios(self) -> dict[str, float]:
        """Each other's time over ours: above 1, ours is faster."""
        ours = self.timings[OURS].median
        return {name: timing.median / ours for name, timing in self.timings.items() if name != OURS}


def cost_model(results: Sequence[Result], cache: Cache) -> CostModel | None:
    """Of decodes over caches of one kind; None when they do not determine one."""
    samples = [
        (float(result.shape.bytes_moved), result.timings[OURS].median)
        for result in results
        if result.shape.kind == "decode" and result.shape.cache == cache
    ]
    try:
        return fit(samples)
    except ValueError:
        return None


def table(results: Sequence[Result], ceilings: Ceilings) -> str:
    """One line per shape."""
    head = f"{'shape':44} {'µs':>10} {'p10':>10} {'p90':>10} {'ceiling':>8}  others' time over ours"
    return "\n".join([head, *(_line(result, ceilings) for result in results)])


def _line(result: Result, ceilings: Ceilings) -> str:
    ours = result.timings[OURS]
    others = [f"{name} {ratio:.2f}" for name, ratio in result.ratios().items()]
    others += [f"{name}: {why}" for name, why in result.left_out.items()]
    times = " ".join(f"{seconds * 1e6:10.1f}" for seconds in (ours.median, ours.p10, ours.p90))
    return f"{result.shape.name:44} {times} {result.share_of(ceilings):8.1%}  {', '.join(others)}".rstrip()


def document(machine: Mapping[str, str], ceilings: Ceilings, results: Sequence[Result]) -> dict[str, Any]:
    """All of a run; seconds and bytes."""
    models = {cache: cost_model(results, cache) for cache in CACHES}
    return {
        "machine": dict(machine),
        "ceilings": asdict(ceilings),
        "cost_models": {name: asdict(model) for name, model in models.items() if model is not None},
        "results": [_entry(result, ceilings) for result in results],
    }


def _entry(result: Result, ceilings: Ceilings) -> dict[str, Any]:
    shape = result.shape
    return {
        "shape": shape.name,
        "kind": shape.kind,
        "kv_bytes": shape.kv_bytes,
        "bytes_moved": shape.bytes_moved,
        "operations": shape.operations,
        "share_of_ceiling": result.share_of(ceilings),
        "timings": {name: asdict(timing) for name, timing in result.timings.items()},
        "left_out": dict(result.left_out),
    }


def to_json(run: Mapping[str, Any]) -> str:
    return json.dumps(run, indent=1, ensure_ascii=False) + "\n"


def file_name(card: str, day: str) -> str:
    """Such as "nvidia-h100-80gb-hbm3-2026-11-25.json"."""
    words = "".join(letter if letter.isalnum() else " " for letter in card.lower()).split()
    return f"{'-'.join(words)}-{day}.json"
