"""Octavo's paged attention behind transformers' attention interface.

A model of transformers calls, in every layer, the attention function that its configuration names, with queries, keys
and values of the tokens at hand; the mask it was given comes from the mask function of the same name. Both are ours:

    load    "octavo_trace"    masks are questions that `read_window` has answered; calls are recorded, layer by layer
    step    "octavo_paged"    there are no masks; call n of a step writes into cache n and attends over its pages

What a call belongs to is a context variable, set around one pass. The keyword arguments that a model's `forward` is
called with would be plainer, and reach the attention function in most architectures; in StableLM, Phi, GPT-NeoX and
others they get lost on the way.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  torch's own convention
from transformers import AttentionInterface, AttentionMaskInterface

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.spec import CacheShape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend, PagedBatch
    from octavo_runtime.model.decoder import LayerCache

TRACE: Final = "octavo_trace"
PAGED: Final = "octavo_paged"

# Tensors that models hand to attention functions which do not look at them.
_IDLE_TENSORS: Final = frozenset(
    {"position_ids", "cache_position", "position_embeddings", "input_ids", "inputs_embeds"}
)
_SINKS: Final = "s_aux"  # what transformers calls the scores of GPT-OSS's attention sinks, [heads]


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """What is the same in every step about one call of the attention function."""

    shape: CacheShape
    window: int | None
    soft_cap: float | None


class Attention(Protocol):
    """Answers the calls of one pass through the model, in their order."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any]) -> Tensor:
        """`[1, heads, T, head_dim]` each, as transformers has it; returns `[1, T, heads, value_dim]`."""
        ...


_current: ContextVar[Attention] = ContextVar("octavo_attention")


@contextmanager
def answered_by(attention: Attention) -> Iterator[None]:
    """Within this context, `attention` answers the attention calls of a model of transformers."""
    token = _current.set(attention)
    try:
        yield
    finally:
        _current.reset(token)


class Trace:
    """Records the calls of one pass, without attending."""

    def __init__(self) -> None:
        self.calls: list[AttentionCall] = []

    def attend(self, query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any]) -> Tensor:
        """Raises `ModelUnsupported` naming what the call wants and paged attention does not do."""
        mask = given["attention_mask"]
        if not isinstance(mask, TracedMask):
            kind = "none" if mask is None else type(mask).__name__
            raise ModelUnsupported(f"attention masks of its own ({kind} where a causal mask is expected)")
        asked = sorted(
            name
            for name, thing in given.items()
            if isinstance(thing, torch.Tensor) and name not in {*_IDLE_TENSORS, "attention_mask", _SINKS}
        )
        if asked:
            raise ModelUnsupported(f"attention with {', '.join(asked)}")
        head_dim = max(key.shape[-1], value.shape[-1])
        self.calls.append(AttentionCall(CacheShape(key.shape[1], head_dim), mask.window, given.get("softcap")))
        return value.new_zeros(1, query.shape[2], query.shape[1], value.shape[-1])


class PagedStep:
    """Answers the calls of one step: keys and values into the next layer's pages, then attention over them."""

    def __init__(
        self,
        backend: KernelBackend,
        batch: PagedBatch,
        calls: Sequence[AttentionCall],
        caches: Sequence[LayerCache],
    ) -> None:
        self._backend = backend
        self._batch = batch
        self._layers = iter(list(zip(calls, caches, strict=True)))
        self._planned: dict[tuple[int, int, int], PagedBatch] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, given: dict[str, Any]) -> Tensor:
        """Raises `RuntimeError` when the model calls more often than it did when it was traced."""
        call, cache = next(self._layers, (None, None))
        if call is None or cache is None:
            raise RuntimeError("the model attends more often than it did at load")
        scale = given.get("scaling")
        value_dim = value.shape[-1]
        scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
        query, key, value = (_rows(x, call.shape.head_dim) for x in (query, key, value))
        batch = self._prepared(query, cache)
        self._backend.write_kv(key, value, cache.key, cache.value, batch.slot_mapping)
        out = query.new_empty(query.shape)
        self._backend.attend(
            query,
            cache.key,
            cache.value,
            batch,
            scale=scale,
            out=out,
            window=call.window,
            soft_cap=call.soft_cap,
            sinks=given.get(_SINKS),
        )
        return out[None, ..., :value_dim]

    def _prepared(self, query: Tensor, cache: LayerCache) -> PagedBatch:
        """The batch with the backend's plan, made once for all layers of one shape."""
        shape = (query.shape[1], cache.key.shape[1], cache.key.shape[3])
        if shape not in self._planned:
            self._planned[shape] = self._backend.prepare(self._batch, cache.key, query.shape[1])
        return self._planned[shape]


@dataclass(frozen=True, slots=True)
class TracedMask:
    """Stands for a causal mask; a query sees its last `window` positions, or all."""

    window: int | None


def register(max_positions: int) -> None:
    """Make both names known to transformers, for a model of so many positions."""

    def trace_mask(*_: object, mask_function: Callable[..., Tensor], **__: object) -> TracedMask:
        return TracedMask(read_window(mask_function, max_positions))

    for name in (TRACE, PAGED):
        AttentionInterface.register(name, _attention)
    AttentionMaskInterface.register(TRACE, trace_mask)
    AttentionMaskInterface.register(PAGED, _no_mask)


def read_window(mask_function: Callable[..., Tensor], max_positions: int) -> int | None:
    """The window of transformers' `mask_function(batch, head, query, key)`, asked at several queries; None: no window.

    Raises `ModelUnsupported` when it is not causal with one window.
    """
    keys = torch.arange(max_positions)
    zero = torch.tensor(0)

    def seen(query: int) -> Tensor:
        allowed = torch.as_tensor(mask_function(zero, zero, torch.tensor(query), keys))
        return allowed.expand(max_positions)

    try:
        window = int(seen(max_positions - 1).sum())
        queries = {0, 1, window - 1, window, max_positions // 3, max_positions // 2, max_positions - 2}
        causal = all(
            torch.equal(seen(query), (keys <= query) & (keys > query - window))
            for query in queries
            if 0 <= query < max_positions
        )
    except (IndexError, RuntimeError):  # a mask over what is in the batch, such as images' positions
        causal = False
    if not causal:
        raise ModelUnsupported("attention that is not causal, or in chunks")
    return None if window >= max_positions else window


def _attention(
    _module: object, query: Tensor, key: Tensor, value: Tensor, attention_mask: object, **given: object
) -> tuple[Tensor, None]:
    return _current.get().attend(query, key, value, {**given, "attention_mask": attention_mask}), None


def _no_mask(*_: object, **__: object) -> None:
    return None


def _rows(x: Tensor, head_dim: int) -> Tensor:
    """`[1, heads, T, dim]` to `[T, heads, head_dim]`, with zeros past `dim`, which change neither products nor sums."""
    return F.pad(x[0].transpose(0, 1), (0, head_dim - x.shape[-1]))
