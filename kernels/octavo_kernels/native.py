"""`KernelBackend` by the compiled library: paged attention straight from the blocks, on a CPU, in fp32 and bf16.

A row's result depends on its own sequence alone, to the last bit: not on its neighbours in the batch, and not on how a
prompt was cut into chunks (`native/attention.cpp`). The same holds for `PackedLinear`. It does not hold for what is not
compiled and left to `CPUBackend`: caches in eight bits, sinks and ALiBi.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Final, cast

import torch

from octavo_kernels.cache_dtype import INT8, to_cache
from octavo_kernels.check import check_attend, check_contiguous, check_write_kv
from octavo_kernels.cpu import CPUBackend
from octavo_kernels.interface import PagedBatch
from octavo_kernels.library import AttentionCall, LibraryError, instruction_set, load_library
from octavo_kernels.plain import PlainVerbs
from octavo_kernels.reference import ReferenceBackend

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import Activation

_ATTENTION_DTYPES: Final = (torch.float32, torch.bfloat16)
_ACTIVATIONS: Final[dict[Activation, int]] = {"silu": 0, "gelu_tanh": 1}
_MOST_HEAD_DIM: Final = 256
_HUGE_PAGE: Final = 2 << 20


class NativeBackend(PlainVerbs):
    """Raises `LibraryError` where the library cannot be loaded."""

    name = "native"

    def __init__(self) -> None:
        self._library = load_library()
        self._gathering = CPUBackend()  # for what is not compiled

    def prepare(self, batch: PagedBatch, key_cache: Tensor, num_heads: int) -> PagedBatch:
        """The plan is the library's argument, with what all layers share filled in."""
        if not _is_compiled(key_cache):
            return self._gathering.prepare(batch, key_cache, num_heads)
        batch = replace(
            batch,
            query_start_loc=batch.query_start_loc.contiguous(),
            seq_lens=batch.seq_lens.contiguous(),
            block_table=batch.block_table.contiguous(),
        )
        plan = AttentionCall(
            query_start_loc=batch.query_start_loc.data_ptr(),
            seq_lens=batch.seq_lens.data_ptr(),
            block_table=batch.block_table.data_ptr(),
            table_stride=batch.block_table.stride(0),
            num_sequences=batch.seq_lens.shape[0],
        )
        return replace(batch, plan=plan)

    def write_kv(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        check_write_kv(key, value, key_cache, value_cache, slot_mapping)
        if key_cache.dtype == INT8:
            self._gathering.write_kv(key, value, key_cache, value_cache, slot_mapping)
            return
        _check_caches(key_cache, value_cache)
        key = _token_rows(to_cache(key, key_cache.dtype))
        value = _token_rows(to_cache(value, value_cache.dtype))
        num_tokens, num_kv_heads, head_dim = key.shape
        size = key.element_size()
        self._library.octavo_write_kv(
            key.data_ptr(),
            value.data_ptr(),
            key.stride(0) * size,
            value.stride(0) * size,
            slot_mapping.data_ptr(),
            key_cache.data_ptr(),
            value_cache.data_ptr(),
            num_tokens,
            num_kv_heads,
            head_dim * size,
            key_cache.shape[2],
        )

    def attend(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        batch: PagedBatch,
        *,
        scale: float,
        out: Tensor,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
        alibi_slopes: Tensor | None = None,
    ) -> None:
        if not _is_compiled(key_cache) or sinks is not None or alibi_slopes is not None:
            own_plan = isinstance(batch.plan, AttentionCall)
            self._gathering.attend(
                query,
                key_cache,
                value_cache,
                replace(batch, plan=None) if own_plan else batch,
                scale=scale,
                out=out,
                window=window,
                soft_cap=soft_cap,
                sinks=sinks,
                alibi_slopes=alibi_slopes,
            )
            return
        check_attend(query, key_cache, value_cache, batch, out)
        _check_caches(key_cache, value_cache)
        if batch.plan is None:
            batch = self.prepare(batch, key_cache, query.shape[1])
        query = _token_rows(query.to(key_cache.dtype))
        call = cast("AttentionCall", batch.plan)
        call.query, call.query_stride, call.num_heads = query.data_ptr(), query.stride(0), query.shape[1]
        call.key_cache, call.value_cache, call.out = key_cache.data_ptr(), value_cache.data_ptr(), out.data_ptr()
        _, call.num_kv_heads, call.block_size, call.head_dim = key_cache.shape
        call.scale, call.window, call.soft_cap = scale, window or 0, soft_cap or 0.0
        self._library.octavo_attend(call, key_cache.dtype == torch.bfloat16)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        if not _is_fp32(x, weight) or not _has_whole_tokens(x):
            return super().rms_norm(x, weight, eps)
        out = torch.empty(x.shape)
        size = x.shape[-1]
        self._library.octavo_rms_norm(
            x.data_ptr(),
            x.shape[0],
            x.stride(0),
            x.shape[1] if x.dim() == 3 else 1,
            size,
            weight.data_ptr(),
            eps,
            out.data_ptr(),
        )
        return out

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if not _is_fp32(x, cos) or not _has_whole_tokens(x):
            return super().rotate(x, cos, sin)
        tokens, heads, size = x.shape
        cos, sin = cos.contiguous(), sin.contiguous()
        self._library.octavo_rotate(
            x.data_ptr(), tokens, x.stride(0), heads, size, cos.data_ptr(), sin.data_ptr(), cos.shape[-1]
        )
        return x

    def gated(self, gate_up: Tensor, activation: Activation) -> Tensor:
        if not _is_fp32(gate_up) or activation not in _ACTIVATIONS or not gate_up.is_contiguous():
            return super().gated(gate_up, activation)
        rows, width = gate_up.shape
        out = torch.empty(rows, width // 2)
        self._library.octavo_gated(gate_up.data_ptr(), rows, width // 2, _ACTIVATIONS[activation], out.data_ptr())
        return out


class PackedLinear:
    """y = x W^T + b in fp32. W is kept as bfloat16 where every number of it is one, which halves what is read and
    changes no result; else as fp32.

    Raises `LibraryError` where the library cannot be loaded.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """`weight` is `[out_features, in_features]` fp32 on the CPU, and is copied."""
        self._library = load_library()
        self._out_features, self._in_features = weight.shape
        weight = weight.contiguous()
        self.is_bfloat16 = bool(self._library.octavo_is_bfloat16(weight.data_ptr(), weight.numel()))
        panel = self._library.octavo_panel()
        rows = -(-self._out_features // panel) * panel
        self._packed = _weight_memory(rows * self._in_features * (2 if self.is_bfloat16 else 4))
        self._library.octavo_pack(weight.data_ptr(), *weight.shape, self.is_bfloat16, self._packed.data_ptr())
        self._bias = None if bias is None else bias.contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """`[T, in_features]` to `[T, out_features]`."""
        x = x.contiguous()
        y = torch.empty(x.shape[0], self._out_features)
        self._library.octavo_linear(
            x.data_ptr(),
            x.shape[0],
            self._in_features,
            self._packed.data_ptr(),
            self.is_bfloat16,
            None if self._bias is None else self._bias.data_ptr(),
            self._out_features,
            y.data_ptr(),
        )
        return y


@cache
def why_not_native() -> str | None:
    """None when the library is here and computes what the specification says; else the reason, for a log."""
    try:
        backend = NativeBackend()
        wrong = [name for name, agrees in _self_check(backend).items() if not agrees]
    except LibraryError as error:
        return str(error)
    return f"its {', '.join(wrong)} came out wrong in {instruction_set()}" if wrong else None


def _self_check(backend: NativeBackend) -> dict[str, bool]:
    """A few milliseconds at start: a build for this processor may never have run on one like it."""
    query, key, value = (torch.linspace(-1, 1, 7 * n * 40).sin().view(7, n, 40) * 3 for n in (4, 2, 2))
    batch = PagedBatch(
        query_start_loc=torch.tensor([0, 5, 7], dtype=torch.int32),
        seq_lens=torch.tensor([5, 2], dtype=torch.int32),
        block_table=torch.tensor([[2, 0], [1, 1]], dtype=torch.int32),
        slot_mapping=torch.tensor([8, 9, 10, 11, 0, 4, 5]),
        max_query_len=5,
        max_seq_len=5,
    )
    outs = []
    for one in (backend, ReferenceBackend()):
        key_cache, value_cache = torch.full((2, 3, 2, 4, 40), torch.nan)
        one.write_kv(key, value, key_cache, value_cache, batch.slot_mapping)
        outs.append(torch.full_like(query, torch.nan))
        one.attend(query, key_cache, value_cache, batch, scale=0.2, out=outs[-1], window=4, soft_cap=3.0)
    weight, x = torch.linspace(-2, 2, 37 * 80).sin().view(37, 80), query.view(14, 80)
    gate_up = query.view(7, 160)
    cos, sin = value[:, :1, :16], key[:, :1, :16]
    pairs = {
        "attention": (outs[0], outs[1]),
        "product": (PackedLinear(weight)(x), x @ weight.T),
        "bfloat16 product": (PackedLinear(weight.bfloat16().float())(x), x @ weight.bfloat16().float().T),
        "norm": (backend.rms_norm(query, weight[0, :40], 1e-6), PlainVerbs().rms_norm(query, weight[0, :40], 1e-6)),
        "rotation": (backend.rotate(query.clone(), cos, sin), PlainVerbs().rotate(query, cos, sin)),
        "activation": (backend.gated(gate_up, "silu"), PlainVerbs().gated(gate_up, "silu")),
    }
    return {name: torch.allclose(*pair, rtol=1e-4, atol=1e-4) for name, pair in pairs.items()}


def _weight_memory(size: int) -> Tensor:
    """Bytes for a weight, on huge pages where rounding up to them wastes at most a fifth.

    A weight is read from end to end in every step. One thread reads 14 GB/s from huge pages, 12 from others.
    """
    rounded = -(-size // _HUGE_PAGE) * _HUGE_PAGE
    if rounded > size * 5 // 4 or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(size, dtype=torch.uint8)
    memory = mmap.mmap(-1, rounded + _HUGE_PAGE)
    with suppress(OSError):  # a kernel without them
        memory.madvise(mmap.MADV_HUGEPAGE)
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % _HUGE_PAGE
    return whole[start : start + size]


def _check_caches(key_cache: Tensor, value_cache: Tensor) -> None:
    check_contiguous("key_cache", key_cache)
    check_contiguous("value_cache", value_cache)


def _is_compiled(key_cache: Tensor) -> bool:
    return key_cache.dtype in _ATTENTION_DTYPES and key_cache.shape[3] <= _MOST_HEAD_DIM


def _token_rows(x: Tensor) -> Tensor:
    """`[T, heads, head_dim]` with every token's heads in one piece; a token may be any distance from the next."""
    return x if _has_whole_tokens(x) else x.contiguous()


def _has_whole_tokens(x: Tensor) -> bool:
    return x.stride()[1:] == ((x.shape[2], 1) if x.dim() == 3 else (1,))


def _is_fp32(*tensors: Tensor) -> bool:
    return all(tensor.dtype == torch.float32 for tensor in tensors)
