"""A run's cost models, read back, and the shapes that they are asked about."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from octavo_kernels.bench.shapes import BenchShape
from octavo_kernels.bench.timings import CostModel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo_kernels.bench.shapes import Cache

_FIELDS = ("launch", "bandwidth", "worst")


def cost_models(run: Mapping[str, Any]) -> dict[str, CostModel]:
    """By what the cache holds. Raises `ValueError` for what is not as `document` writes it."""
    try:
        models = dict(run["cost_models"])
    except (KeyError, TypeError, ValueError):
        raise ValueError("no cost_models; expected what kernels/bench/gpu.py writes") from None
    return {cache: _model(f"cost_models.{cache}", fields) for cache, fields in models.items()}


def _model(name: str, fields: Any) -> CostModel:  # noqa: ANN401  out of a file
    if not isinstance(fields, dict) or set(fields) != set(_FIELDS):
        raise ValueError(f"{name} is {fields!r}; expected {', '.join(_FIELDS)}")
    for field, value in fields.items():
        if not isinstance(value, int | float) or not value >= 0 or (field == "bandwidth" and value == 0):
            raise ValueError(f"{name}.{field} is {value!r}; expected a number above 0")
    return CostModel(**{field: float(value) for field, value in fields.items()})


def decode_shape(batch: int, context: int, heads: str, head_dim: int, cache: Cache) -> BenchShape:
    """`heads` such as "32/8", of queries and of keys. Raises `ValueError` for what is no shape."""
    numbers = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", heads)
    if numbers is None or int(numbers[1]) % int(numbers[2]):
        raise ValueError(f"heads is {heads!r}; expected query heads / KV heads, the first a multiple of the second")
    for name, value in (("batch", batch), ("context", context), ("head_dim", head_dim)):
        if value <= 0:
            raise ValueError(f"{name} is {value}; expected a number above 0")
    sequences = ((1, context),) * batch
    return BenchShape("decode", "decode", sequences, int(numbers[1]), int(numbers[2]), head_dim, cache=cache)
