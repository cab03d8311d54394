"""Every Triton kernel against the specification in fp32, on the device that it is to be timed on."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from gpu_contenders import make_batch

from octavo_kernels import int8
from octavo_kernels.bench.shapes import BenchShape
from octavo_kernels.cache_dtype import EIGHT_BITS, FP8, INT8
from octavo_kernels.draws import Draws
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton.backend import TritonBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend

MOST_ERROR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # ||o - r|| / ||r||; NaN fails
SEQUENCES = ((1, 1), (1, 300), (5, 40), (33, 33), (1, 64), (2, 17))


def check_all(device: torch.device) -> list[str]:
    """What is wrong, in words; empty when nothing is."""
    wrong = list(compare_draws(device))
    return wrong + [
        words
        for dtype, most in MOST_ERROR.items()
        for name, compute in checks(device, dtype)
        for words in compare(f"{name} in {dtype}", compute, most)
    ]


def compare(name: str, compute: Callable[[KernelBackend, bool], Tensor], most: float) -> Iterator[str]:
    """`compute` takes a backend and whether to compute in fp32."""
    ours, again, wanted = (
        compute(TritonBackend(), False),
        compute(TritonBackend(), False),
        compute(ReferenceBackend(), True),
    )
    error = ((ours.float() - wanted).norm() / wanted.norm()).item()
    if not error < most:
        yield f"{name}: relative error {error:.1e}, at most {most:.0e}"
    if not torch.equal(ours, again):
        yield f"{name}: two runs differ"


def checks(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Callable[[KernelBackend, bool], Tensor]]]:
    """(name, computation) of every kernel, on random numbers that are the same for both backends."""
    generator = torch.Generator().manual_seed(1)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device, dtype)

    x, residual, gate_up, weight = random(9, 1000), random(9, 1000), random(9, 3000), random(1000).float()
    yield "rms_norm", lambda backend, exact: backend.rms_norm(_as(x, exact), weight, 1e-5)
    yield (
        "add_rms_norm",
        lambda backend, exact: backend.add_rms_norm(_as(x, exact), _as(residual, exact), weight, 1e-5)[1],
    )
    yield "gated", lambda backend, exact: backend.gated(_as(gate_up, exact), "gelu_tanh")
    for head_dim, block_size in product((64, 128), (16, 64)):
        if block_size == 64 and dtype == torch.float32:
            continue  # blocks that hold a tile make a difference to numbers of 16 and of 8 bits (triton/boxes.py)
        shape = BenchShape(
            "check", "mixed", SEQUENCES, num_heads=8, num_kv_heads=2, head_dim=head_dim, block_size=block_size
        )
        step = [random(shape.num_tokens, heads, head_dim) for heads in (8, 2, 2)]
        context = [random(shape.num_blocks + 1, 2, shape.block_size, head_dim) for _ in range(2)]
        angles = random(shape.num_tokens, 1, head_dim // 2).float()
        norms = (random(head_dim).float(), random(head_dim).float())
        for cache in _caches(device, dtype):
            yield (
                f"attention over {cache}, {head_dim}, page {block_size}",
                _attention(shape, step, context, (angles, norms), cache),
            )


def compare_draws(device: torch.device) -> Iterator[str]:
    """One row of 64 may draw another token than the specification does: two of them may be as close as a rounding."""
    ours, again, wanted = (draw(backend, device) for backend in (TritonBackend(), TritonBackend(), ReferenceBackend()))
    different = int((ours != wanted).sum())
    if different > 1:
        yield f"draw: {different} of {len(wanted)} rows draw another token"
    if not torch.equal(ours, again):
        yield "draw: two runs differ"


def draw(backend: KernelBackend, device: torch.device) -> Tensor:
    """Tokens of 64 rows of a large vocabulary under every filter."""
    rows, generator = 64, torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(rows, 128_256, generator=generator)).to(device)
    row = torch.arange(rows, device=device)
    draws = Draws(
        temperature=(row % 5).float() / 2,
        top_p=torch.where(row % 3 > 0, 0.9, 1.0),
        floor=torch.where(row % 7 > 0, -torch.inf, -5.0),
        top_k=torch.where(row % 2 > 0, 50, 0),
        key=row * 0x9E3779B97F4A7C1,
    )
    return backend.draw(logits, draws)[0]


def _attention(
    shape: BenchShape,
    step: list[Tensor],
    context: list[Tensor],
    turn: tuple[Tensor, tuple[Tensor, Tensor]],
    cache: torch.dtype,
) -> Callable[[KernelBackend, bool], Tensor]:
    """Both verbs of a layer, `write_rotated` and `attend`: what the first stores wrongly, the second shows."""
    batch = make_batch(shape, step[0].device)

    def compute(backend: KernelBackend, exact: bool) -> Tensor:
        angles, norms = turn
        query, key, value = (_as(x, exact) for x in step)
        caches = [_stored(x, cache, exact) for x in context]
        rotation = (_as(angles.cos().to(step[0].dtype), exact), _as(angles.sin().to(step[0].dtype), exact))
        query = backend.write_rotated(
            query, key, value, *caches, slot_mapping=batch.slot_mapping, norms=norms, eps=1e-6, rotation=rotation
        )
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        planned = backend.prepare(batch, caches[0], shape.num_heads)
        backend.attend(query, *caches, planned, scale=shape.head_dim**-0.5, out=out)
        return out

    return compute


def _as(x: Tensor, exact: bool) -> Tensor:
    return x.float() if exact else x.clone()


def _stored(x: Tensor, cache: torch.dtype, exact: bool) -> Tensor:
    """In eight bits for both: the other's error is to be the kernel's, not the cache's."""
    if cache == INT8:
        return int8.packed(x)
    return x.to(cache).float() if exact and cache not in EIGHT_BITS else x.to(cache)


def _caches(device: torch.device, dtype: torch.dtype) -> tuple[torch.dtype, ...]:
    if dtype == torch.float32:
        return (dtype,)
    has_fp8 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    return (dtype, FP8, INT8) if has_fp8 else (dtype, INT8)
