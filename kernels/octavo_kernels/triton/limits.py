"""What the Triton kernels take. What is beyond would not compile, or run slowly, so it is refused before a launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.cache_dtype import EIGHT_BITS, head_dim_of

if TYPE_CHECKING:
    from torch import Tensor

DTYPES: Final = (torch.float32, torch.float16, torch.bfloat16)
MOST_HEAD_DIM: Final = 256
MOST_GROUP: Final = 128  # query heads of a KV head: rows of a tile


def check_limits(name: str, x: Tensor, cache: Tensor) -> None:
    """`x`, called `name`, is `[T, heads, head_dim]` and meets the heads of `cache`. Raises `ValueError`."""
    if x.dtype not in DTYPES:
        raise ValueError(f"{name} is {x.dtype}; the Triton kernels take {_names(DTYPES)}")
    if cache.dtype not in DTYPES + EIGHT_BITS:
        raise ValueError(f"key_cache is {cache.dtype}; the Triton kernels take {_names(DTYPES + EIGHT_BITS)}")
    head_dim, group = head_dim_of(cache), x.shape[1] // cache.shape[1]
    if head_dim > MOST_HEAD_DIM:
        raise ValueError(f"head_dim is {head_dim}; the Triton kernels take up to {MOST_HEAD_DIM}")
    if group > MOST_GROUP:
        raise ValueError(f"{name} has {group} heads for each KV head; the Triton kernels take up to {MOST_GROUP}")


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
