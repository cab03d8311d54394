"""A run's results as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from octavo_kernels.bench.goals import goals_of
from octavo_kernels.bench.result import OURS, Ceilings, Result
from octavo_kernels.bench.shapes import CACHES
from octavo_kernels.bench.timings import CostModel, fit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from octavo_kernels.bench.shapes import Cache


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
        "goals": [goal._asdict() for goal in goals_of(results, ceilings)],
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
