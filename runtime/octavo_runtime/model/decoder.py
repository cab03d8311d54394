"""One decoder for the Llama family and its relatives, which differ by the switches of spec.py.

    embed ─┬─ norm ─ qkv ─ (norm q, k) ─ rotate ─ write KV ─ attend ─ out ─ (norm) ─ + ─┬─ norm ─ MLP ─ (norm) ─ + ─ …
           └────────────────────────────────────────────────────────────────────────────┘  └───────────────────────┘

All tokens of a step go through as one flat row, whatever sequences they are of; only attention looks at `PagedBatch`.

Divided between ranks (shard.py), each has its own heads, its part of each MLP and of the vocabulary, and the residual
stream whole: what attention and MLP add is summed over the ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from octavo_runtime.model.decoder_config import cache_shapes
from octavo_runtime.model.mlp import mixture, mlp
from octavo_runtime.model.weights import MlpWeights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend, PagedBatch
    from octavo_runtime.model.collectives import Collectives
    from octavo_runtime.model.rope import RopeTable
    from octavo_runtime.model.spec import CacheShape, DecoderSpec, LayerSpec
    from octavo_runtime.model.weights import DecoderWeights, LayerWeights


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's paged keys and values, each `[num_blocks, K, block_size, D]`."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of this step's positions, each `[T, 1, dim / 2]`, shared by all heads and most layers."""

    cos: Tensor
    sin: Tensor


class AnyDecoder(Protocol):
    """What a runner needs: our own decoder, or transformers' code behind the same two names."""

    @property
    def cache_shapes(self) -> Sequence[CacheShape]:
        """One per layer cache that `forward` wants, in order."""
        ...

    def forward(
        self, token_ids: Tensor, positions: Tensor, batch: PagedBatch, caches: Sequence[LayerCache], rows: Tensor
    ) -> Tensor:
        """Run T tokens, writing their keys and values into `caches`; return logits `[len(rows), vocab_size]` in fp32.

        `token_ids` and `positions` are `[T]` int64. `rows` `[R]` int64 picks the tokens whose successor is wanted:
        the product with the vocabulary is the largest of the step, and a prefill needs one row of it.
        """
        ...

    def forward_pieces(
        self,
        token_ids: Tensor,
        positions: Tensor,
        batch: PagedBatch,
        caches: Sequence[LayerCache],
        pieces: Sequence[Tensor],
    ) -> Iterator[Tensor]:
        """The same for each of `pieces` of rows in turn, so that there are never the logits of all of them at once."""
        ...


class Decoder:
    """Weights, and the pass of one step through them. Holds nothing of any sequence."""

    def __init__(
        self,
        spec: DecoderSpec,
        weights: DecoderWeights,
        backend: KernelBackend,
        dtype: torch.dtype,
        group: Collectives,
    ) -> None:
        """`spec` and `weights` are this rank's; `group` joins it with the others."""
        self.cache_shapes: Sequence[CacheShape] = cache_shapes(spec)
        self._spec = spec
        self._weights = weights
        self._backend = backend
        self._dtype = dtype
        self._group = group
        self._embedding_scale = torch.tensor(spec.embedding_scale, dtype=dtype).item()  # rounded as in training

    @torch.inference_mode()
    def forward(
        self, token_ids: Tensor, positions: Tensor, batch: PagedBatch, caches: Sequence[LayerCache], rows: Tensor
    ) -> Tensor:
        """What `AnyDecoder.forward` says."""
        return self._logits(self._hidden(token_ids, positions, batch, caches), rows)

    @torch.inference_mode()
    def forward_pieces(
        self,
        token_ids: Tensor,
        positions: Tensor,
        batch: PagedBatch,
        caches: Sequence[LayerCache],
        pieces: Sequence[Tensor],
    ) -> Iterator[Tensor]:
        """What `AnyDecoder.forward_pieces` says."""
        hidden = self._hidden(token_ids, positions, batch, caches)
        for rows in pieces:
            yield self._logits(hidden, rows)

    def _hidden(self, token_ids: Tensor, positions: Tensor, batch: PagedBatch, caches: Sequence[LayerCache]) -> Tensor:
        spec, weights = self._spec, self._weights
        batch = self._backend.prepare(batch, caches[0].key, spec.num_heads)
        rotations = [self._rotation(positions, table) for table in weights.ropes]
        hidden = _scaled(self._embed(token_ids), self._embedding_scale)
        x = self._norm(hidden, weights.layers[0].attention_norm)
        following = [*(layer.attention_norm for layer in weights.layers[1:]), None]  # the final norm is for few rows
        layers = zip(spec.layers, weights.layers, caches, following, strict=True)
        for layer_spec, layer, cache, next_norm in layers:
            rotation = None if layer_spec.rope is None else rotations[layer_spec.rope]
            added = self._attention(layer_spec, layer, x, rotation, batch=batch, cache=cache)
            hidden, x = self._add(hidden, self._norm(added, layer.attention_post_norm), layer.mlp_norm)
            added = self._mlp(layer, x)
            hidden, x = self._add(hidden, self._norm(added, layer.mlp_post_norm), next_norm)
        return hidden

    def _add(self, hidden: Tensor, added: Tensor, norm: Tensor | None) -> tuple[Tensor, Tensor]:
        """The residual sum, and what the next part of the network takes of it."""
        added = _scaled(added, self._spec.residual_scale)
        if norm is None:
            hidden = hidden + added
            return hidden, hidden
        return self._backend.add_rms_norm(hidden, added, norm, self._spec.rms_norm_eps)

    def _embed(self, token_ids: Tensor) -> Tensor:
        table, first = self._weights.embedding, self._weights.vocabulary.start
        if self._group.size == 1:
            return table[token_ids].to(self._dtype)
        places = token_ids - first
        elsewhere = (places < 0) | (places >= len(table))
        rows = table[places.masked_fill(elsewhere, 0)].to(self._dtype)
        return self._group.all_reduce(rows.masked_fill(elsewhere[:, None], 0))  # exact: all but one are zeros

    def _logits(self, hidden: Tensor, rows: Tensor) -> Tensor:
        spec, weights = self._spec, self._weights
        logits = weights.lm_head(self._norm(hidden[rows], weights.final_norm)).float()
        logits = self._group.all_gather(logits)[:, : weights.vocabulary.size]
        return soft_cap(_scaled(logits, spec.logit_scale), spec.logit_soft_cap)

    def _attention(
        self,
        layer_spec: LayerSpec,
        layer: LayerWeights,
        x: Tensor,
        rotation: Rotation | None,
        *,
        batch: PagedBatch,
        cache: LayerCache,
    ) -> Tensor:
        spec = self._spec
        query, key, value = self._heads(layer, layer.qkv(x))
        query = self._backend.write_rotated(
            query,
            key,
            value,
            cache.key,
            cache.value,
            slot_mapping=batch.slot_mapping,
            norms=self._head_norms(layer),
            eps=spec.rms_norm_eps,
            rotation=None if rotation is None else (rotation.cos, rotation.sin),
        )
        out = torch.empty_like(query)
        self._backend.attend(
            query,
            cache.key,
            cache.value,
            batch,
            scale=spec.attention_scale,
            out=out,
            window=layer_spec.window,
            soft_cap=spec.attention_soft_cap,
        )
        return self._group.all_reduce(layer.output(out.flatten(1)))

    def _heads(self, layer: LayerWeights, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each `[T, heads, D]`, out of `[T, (H + 2K) D]`; rows normed if the model does."""
        spec = self._spec
        if spec.qk_norm == "row":
            sizes = [spec.num_heads * spec.head_dim, *[spec.num_kv_heads * spec.head_dim] * 2]
            query, key, value = torch.split(qkv, sizes, dim=1)
            query, key = self._norm_rows(layer, query, key)
            shape = (qkv.shape[0], -1, spec.head_dim)
            return query.reshape(shape), key.reshape(shape), value.reshape(shape)
        heads = qkv.view(qkv.shape[0], -1, spec.head_dim)
        query, key, value = torch.split(heads, [spec.num_heads, spec.num_kv_heads, spec.num_kv_heads], dim=1)
        return query, key, value

    def _head_norms(self, layer: LayerWeights) -> tuple[Tensor, Tensor] | None:
        """The weights of norms of each head; those of rows are done with in `_heads`."""
        if self._spec.qk_norm == "row" or layer.query_norm is None or layer.key_norm is None:
            return None
        return layer.query_norm, layer.key_norm

    def _norm_rows(self, layer: LayerWeights, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """RMSNorm over all heads of all ranks. Each has equally many, so the mean square is the mean of the ranks'."""
        if self._group.size == 1:
            return self._norm(query, layer.query_norm), self._norm(key, layer.key_norm)
        assert layer.query_norm is not None, "a model that norms rows has the weights"
        assert layer.key_norm is not None, "a model that norms rows has the weights"
        squares = torch.stack([x.float().square().mean(dim=1) for x in (query, key)])
        scales = (self._group.all_reduce(squares) / self._group.size + self._spec.rms_norm_eps).rsqrt()[:, :, None]
        query, key = (query.float() * scales[0] * layer.query_norm, key.float() * scales[1] * layer.key_norm)
        return query.to(self._dtype), key.to(self._dtype)

    def _mlp(self, layer: LayerWeights, x: Tensor) -> Tensor:
        if isinstance(layer.mlp, MlpWeights):
            return self._group.all_reduce(mlp(self._backend, layer.mlp, x, self._spec.activation))
        assert self._spec.mixture is not None, "the loader made the experts from it"
        return self._group.all_reduce(mixture(self._backend, self._spec.mixture, layer.mlp, x, self._spec.activation))

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        return x if weight is None else self._backend.rms_norm(x, weight, self._spec.rms_norm_eps)

    def _rotation(self, positions: Tensor, table: RopeTable) -> Rotation:
        angles = (positions.float()[:, None] * table.frequencies)[:, None]
        cos, sin = _scaled(angles.cos(), table.amplitude), _scaled(angles.sin(), table.amplitude)
        return Rotation(cos.to(self._dtype), sin.to(self._dtype))


def soft_cap(x: Tensor, cap: float | None) -> Tensor:
    """Bends `x` smoothly to stay within (-cap, cap) (Gemma 2)."""
    return x if cap is None else torch.tanh(x / cap) * cap


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor
