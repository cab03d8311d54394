"""The two verbs of paged attention, and the metadata that one engine step shares between its layers.

A decode is a query of length 1, a chunked prefill is a longer one, a mixed batch holds both: one call serves them all.

    sequence            0        1                    2
    query tokens   T    q        q q q q              q          query_start_loc = [0, 1, 5, 6]
    context             .....q   ..qqqq               .q         seq_lens        = [6, 6, 2], with this step's tokens
    block_table         [7, 2]   [4, 9]               [1, -]     [S, B]; entries past a sequence's length are never read

Cache layout is HND, keys and values apart: `[num_blocks, num_kv_heads, block_size, head_dim]`, so that one head of one
block is one contiguous piece of memory. They are in the model's dtype, or in e4m3 (cache_dtype.py); or in int8 with
scales, `[num_blocks, num_kv_heads, block_size, head_dim + 2]` (int8.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, get_args

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.draws import Changes, Draws

Activation = Literal["silu", "gelu", "gelu_tanh"]
ACTIVATIONS: Final[tuple[Activation, ...]] = get_args(Activation)


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """Where each token of one step lives. S sequences, T tokens, B blocks in the longest block table."""

    query_start_loc: Tensor  # [S + 1] int32, first row of each sequence's queries
    seq_lens: Tensor  # [S] int32, context length including this step's tokens
    block_table: Tensor  # [S, B] int32
    slot_mapping: Tensor  # [T] int64, block * block_size + offset; -1: do not store
    max_query_len: int
    max_seq_len: int
    plan: object = None  # what `KernelBackend.prepare` derived from the rest; only that backend reads it


class KernelBackend(Protocol):
    """What the runtime needs of a kernel library. Implementations hold no state between calls.

    The two verbs of paged attention, the small ones around it and those that choose tokens (`PlainVerbs` is their
    specification).
    """

    name: str

    def prepare(self, batch: PagedBatch, key_cache: Tensor, num_heads: int) -> PagedBatch:
        """Return the batch with its `plan`: what every layer of a step shares (index lists, masks, work lists).

        `key_cache` is any layer's, for its shape; `num_heads` counts query heads. Optional: `attend` takes a batch
        without a plan too, at more cost.
        """
        ...

    def write_kv(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """Store this step's keys and values, each `[T, num_kv_heads, head_dim]`, into their slots.

        A cache in e4m3 holds the nearest such number, and 448 for what is larger; one in int8 rounds each row to
        multiples of its scale (int8.py).
        Raises `ValueError` when shapes or dtypes do not fit each other. Slots must lie inside the cache: their values
        are not checked, which would cost a synchronisation.
        """
        ...

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
        """Causal attention of `query` `[T, num_heads, head_dim]` over the paged context, into `out` of the same shape.

        `num_heads` is a multiple of `num_kv_heads` (GQA): query head h reads KV head
        `h // (num_heads // num_kv_heads)`.
        A query sees the last `window` positions up to its own, or all of them. Scaled scores s become
        `soft_cap * tanh(s / soft_cap)` before they are masked, where a cap is given (Gemma 2).
        `alibi_slopes` `[num_heads]` adds `slope * (position - query's position)` to them (ALiBi; Press et al., 2022).
        `sinks` `[num_heads]` are scores of a position of no value: they take weight from all others (GPT-OSS).
        The keys and values of this step's own tokens must have been written before. A slot past a sequence's length is
        never read as a number: it may hold anything, NaN too, without a trace in `out`.
        Raises `ValueError` when shapes or dtypes do not fit each other.
        """
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """`x / rms(x) * weight` over the last dimension, in fp32 (Zhang and Sennrich, 2019). `weight` is fp32; `x` is
        `[T, size]` or `[T, heads, size]`.
        """
        ...

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """`x + residual`, rounded to their dtype, and `rms_norm` of it. `residual` is like `x`."""
        ...

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn each pair (i, i + half) of `x` `[T, heads, head_dim]` by its token's angle (RoFormer, GPT-NeoX's order).

        `cos` and `sin` are `[T, 1, half]`; dimensions past 2 half are left as they are. `x` may be overwritten.
        """
        ...

    def gated(self, gate_up: Tensor, activation: Activation) -> Tensor:
        """`activation(gate) * up` of `[T, 2 I]`, the gate first; `[T, I]` (Shazeer, 2020)."""
        ...

    def write_rotated(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        *,
        slot_mapping: Tensor,
        norms: tuple[Tensor, Tensor] | None,
        eps: float,
        rotation: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """All between projections and attention: `rms_norm` and `rotate` of queries and keys, `write_kv`; the queries.

        `norms` are the weights of queries' and of keys' heads, each `[head_dim]` fp32, and `rotation` is (cos, sin);
        without them that step is left out. `query` is `[T, num_heads, head_dim]`, as is the result; `key` and `value`
        are as in `write_kv`, and `query` and `key` may be overwritten.
        Raises `ValueError` when shapes or dtypes do not fit each other.
        """
        ...

    def adjust(self, logits: Tensor, changes: Changes) -> None:
        """Change single logits of `[R, V]` fp32, contiguous, in place: biases and penalties of what a request has said.

        Raises `ValueError` when shapes or dtypes do not fit each other. Places are not checked.
        """
        ...

    def draw(self, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Choose a token from each row of `logits` `[R, V]` fp32: `[R]` int64. Then each row's largest logit, `[R]`
        fp32, NaN where one of them is: a row for which it is that, or minus infinity, has no choice to make.

        Of `exp((logit - largest) / temperature)`, what min-p, then top-k, then top-p let through (draws.py), drawn by
        the noise of the row's key (noise.py): the same key draws the same token from the same row in every batch, and
        with every backend but where two tokens, or a filter's edge, are as close as its rounding.
        Raises `ValueError` when shapes or dtypes do not fit each other.
        """
        ...
