"""Every Triton kernel against the specification in fp32, on the device that it is to be timed on."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gpu_contenders import make_batch

from octavo_kernels import int8
from octavo_kernels.bench.shapes import BenchShape
from octavo_kernels.cache_dtype import EIGHT_BITS, FP8, INT8
from octavo_kernels.draws import Draws
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton.backend import TritonBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend

MOST_ERROR = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # ||o - r|| / ||r||; NaN fails
ROWS, VOCABULARY = 64, 128_256
HEADS, KV_HEADS = 8, 2
HEAD_DIMS = (64, 128)  # of which everything is checked
BATCHES = {
    "decode": ((1, 1), (1, 300), (1, 64), (1, 2049)),
    "verify": ((3, 300), (4, 65), (1, 64)),  # as many queries as a decode's tile has rows for
    "mixed": ((1, 1), (1, 300), (5, 40), (33, 33), (1, 64), (2, 17)),
}
SPLIT = 128  # tokens, of the batch-invariant mode


class Check(NamedTuple):
    name: str
    compute: Callable[[KernelBackend, bool], Tensor]  # with a backend, and whether in fp32
    ours: Callable[[], KernelBackend] = TritonBackend


def check_all(device: torch.device) -> list[str]:
    """What is wrong, in words; empty when nothing is. All of it, since the next run on a GPU may be far."""
    wrong = list(_told("draw", lambda: compare_draws(device)))
    for dtype, most in MOST_ERROR.items():
        for check in checks(device, dtype):
            named = check._replace(name=f"{check.name} in {dtype}")
            wrong += _told(named.name, partial(compare, named, most))
    return wrong


def _told(name: str, said: Callable[[], Iterator[str]]) -> Iterator[str]:
    """What a check says, and what it raises."""
    try:
        yield from said()
    except Exception as error:  # noqa: BLE001  a compiler's, a driver's or a launch's
        yield f"{name}: {type(error).__name__}: {error}"


def compare(check: Check, most: float) -> Iterator[str]:
    ours, again = (check.compute(check.ours(), False) for _ in range(2))
    wanted = check.compute(ReferenceBackend(), True)
    error = ((ours.float() - wanted).norm() / wanted.norm()).item()
    if not error < most:
        yield f"{check.name}: relative error {error:.1e}, at most {most:.0e}"
    if not torch.equal(ours, again):
        yield f"{check.name}: two runs differ"


def checks(device: torch.device, dtype: torch.dtype) -> Iterator[Check]:
    """Of every kernel, on random numbers that are the same for both backends."""
    yield from _neighbours(device, dtype)
    for batch, head_dim, block_size in product(BATCHES, HEAD_DIMS, (16, 64)):
        if block_size == 64 and dtype == torch.float32:
            continue  # blocks that hold a tile make a difference to numbers of 16 and of 8 bits (triton/boxes.py)
        for cache in _caches(device, dtype):
            yield _attention(device, dtype, _shape(batch, head_dim, block_size), cache)
    if dtype != torch.bfloat16:
        return
    for batch, head_dim, cache in product(("decode", "mixed"), (80, 96, 256), _caches(device, dtype)):
        yield _attention(device, dtype, _shape(batch, head_dim, 32), cache)
    slopes = torch.linspace(0.01, 0.1, HEADS, device=device)
    sinks = torch.linspace(-1, 1, HEADS, device=device)
    for batch, cache in product(("decode", "mixed"), _caches(device, dtype)):
        for options in ({"window": 40, "sinks": sinks}, {"alibi_slopes": slopes}, {"soft_cap": 5.0}):
            yield _attention(device, dtype, _shape(batch, 64, 64), cache, **options)
        invariant = _attention(device, dtype, _shape(batch, 128, 16), cache)
        yield invariant._replace(
            name=f"{invariant.name}, batch-invariant", ours=partial(TritonBackend, split_tokens=SPLIT)
        )


def _neighbours(device: torch.device, dtype: torch.dtype) -> Iterator[Check]:
    random = partial(_random, torch.Generator().manual_seed(1), device, dtype)
    x, residual, gate_up, weight = random(9, 1000), random(9, 1000), random(9, 3000), random(1000).float()
    yield Check("rms_norm", lambda backend, exact: backend.rms_norm(_as(x, exact), weight, 1e-5))
    yield Check(
        "add_rms_norm",
        lambda backend, exact: backend.add_rms_norm(_as(x, exact), _as(residual, exact), weight, 1e-5)[1],
    )
    yield Check("gated", lambda backend, exact: backend.gated(_as(gate_up, exact), "gelu_tanh"))


def compare_draws(device: torch.device) -> Iterator[str]:
    """One row may draw another token than the specification does: two of them may be as close as a rounding."""
    ours, again, wanted = (draw(backend, device) for backend in (TritonBackend(), TritonBackend(), ReferenceBackend()))
    different = int((ours != wanted).sum())
    if different > 1:
        yield f"draw: {different} of {len(wanted)} rows draw another token"
    if not torch.equal(ours, again):
        yield "draw: two runs differ"


def draw(backend: KernelBackend, device: torch.device) -> Tensor:
    """Tokens of some rows of a large vocabulary under every filter."""
    generator = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(ROWS, VOCABULARY, generator=generator)).to(device)
    row = torch.arange(ROWS, device=device)
    draws = Draws(
        temperature=(row % 5).float() / 2,
        top_p=torch.where(row % 3 > 0, 0.9, 1.0),
        floor=torch.where(row % 7 > 0, -torch.inf, -5.0),
        top_k=torch.where(row % 2 > 0, 50, 0),
        key=row * 0x9E3779B97F4A7C1,
    )
    return backend.draw(logits, draws)[0]


class _Layer(NamedTuple):
    """What goes into a layer's two verbs."""

    step: list[Tensor]  # queries, keys, values
    context: list[Tensor]  # keys and values by blocks
    angles: Tensor
    norms: tuple[Tensor, Tensor]


def _shape(batch: str, head_dim: int, block_size: int) -> BenchShape:
    return BenchShape(batch, "mixed", BATCHES[batch], HEADS, KV_HEADS, head_dim, block_size)


def _attention(
    device: torch.device,
    dtype: torch.dtype,
    shape: BenchShape,
    cache: torch.dtype,
    **options: Any,  # noqa: ANN401  attend's
) -> Check:
    """Both verbs of a layer, `write_rotated` and `attend`: what the first stores wrongly, the second shows."""
    random = partial(_random, torch.Generator().manual_seed(1), device, dtype)
    head_dim = shape.head_dim
    layer = _Layer(
        [random(shape.num_tokens, heads, head_dim) for heads in (HEADS, KV_HEADS, KV_HEADS)],
        [random(shape.num_blocks + 1, KV_HEADS, shape.block_size, head_dim) for _ in range(2)],
        random(shape.num_tokens, 1, head_dim // 2).float(),
        (random(head_dim).float(), random(head_dim).float()),
    )

    def compute(backend: KernelBackend, exact: bool) -> Tensor:
        caches = [_stored(x, cache, exact) for x in layer.context]
        return _output(shape, layer, caches, backend, exact=exact, options=options)

    name = f"{shape.name} over {cache}, heads of {head_dim}, page {shape.block_size}"
    return Check(name + "".join(f", {option}" for option in options), compute)


def _output(
    shape: BenchShape,
    layer: _Layer,
    caches: list[Tensor],
    backend: KernelBackend,
    *,
    exact: bool,
    options: Mapping[str, Any],
) -> Tensor:
    batch = make_batch(shape, layer.angles.device)
    query, key, value = (_as(x, exact) for x in layer.step)
    dtype = layer.step[0].dtype
    rotation = (_as(layer.angles.cos().to(dtype), exact), _as(layer.angles.sin().to(dtype), exact))
    query = backend.write_rotated(
        query, key, value, *caches, slot_mapping=batch.slot_mapping, norms=layer.norms, eps=1e-6, rotation=rotation
    )
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    planned = backend.prepare(batch, caches[0], shape.num_heads)
    backend.attend(query, *caches, planned, scale=shape.head_dim**-0.5, out=out, **options)
    return out


def _random(generator: torch.Generator, device: torch.device, dtype: torch.dtype, *size: int) -> Tensor:
    return torch.randn(size, generator=generator).to(device, dtype)


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
