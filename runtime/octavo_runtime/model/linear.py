"""A matrix product whose weight is laid out for the device once, when it is loaded."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812  torch's own convention

from octavo_kernels.native import PackedLinear, why_not_native

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_TYPICAL_ROWS: Final = 32  # rows that oneDNN chooses its layout for; any number may be multiplied


class Linear:
    """y = x W^T + b. On a CPU in fp32 the weight is packed: by the compiled library of octavo_kernels, or without it by
    oneDNN.

    The library's product gives a row the same result whatever the other rows, and reads half as much where the weight
    is bfloat16 by nature. Packed by oneDNN, batches of 2 to 32 rows run 1.5 to 3 times as fast as with MKL's plain
    product on AVX2, and inductor's freezing packs weights by the same operators; they are private to torch, so they
    are probed once, and where they are missing or wrong the plain product serves.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` is `[out_features, in_features]` on its device and in the dtype to compute in."""
        self._product = _choose(weight, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """`[T, in_features]` to `[T, out_features]`."""
        return self._product(x)


def _choose(weight: Tensor, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        if why_not_native() is None:
            return PackedLinear(weight, bias)
        if packing_works():
            packed = _pack(weight)
            return lambda x: _multiply_packed(x, packed, bias)
    return lambda x: F.linear(x, weight, bias)


@cache
def packing_works() -> bool:
    """Whether this torch has the packing operators and they compute what the plain product computes."""
    weight, bias = torch.linspace(-1, 1, 12 * 8).view(12, 8), torch.linspace(0, 1, 12)
    x = torch.linspace(1, -1, 3 * 8).view(3, 8)
    try:
        product = _multiply_packed(x, _pack(weight), bias)
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(product, F.linear(x, weight, bias), atol=1e-5)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)  # noqa: SLF001
    return packed


def _multiply_packed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: SLF001
    return y
