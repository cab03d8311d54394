"""A decoder without weights: every shape of the model's, on the device where tensors have no memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from octavo_runtime.model.collectives import Alone
from octavo_runtime.model.decoder import Decoder
from octavo_runtime.model.families import FAMILY_OF_NAME
from octavo_runtime.model.linear import Linear
from octavo_runtime.model.rope import RopeTable, rope_table
from octavo_runtime.model.shard import Shard, Span, shard_spec
from octavo_runtime.model.weights import DecoderWeights, LayerWeights, MlpWeights

if TYPE_CHECKING:
    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.model.families import LayerNames
    from octavo_runtime.model.spec import DecoderSpec, ModelInfo

NOWHERE: Final = torch.device("meta")


def outline(info: ModelInfo, backend: KernelBackend, *, dtype: torch.dtype, ranks: int) -> list[Decoder]:
    """What one of `ranks` computes of the model, each kind of layer once; one decoder for each width of its MLPs.

    Experts stand as plain MLPs of their width, for which of them a token takes only values tell.
    """
    assert info.decoder is not None, "a model of transformers' own code has no outline"
    spec = shard_spec(info.decoder, Shard(0, ranks))
    kinds = dict.fromkeys(replace(layer, mixture=False) for layer in spec.layers)
    widths = dict.fromkeys(_widths(spec))
    vocabulary = Shard(0, ranks).vocabulary(info.vocab_size)
    names = FAMILY_OF_NAME[info.architecture].names
    specs = [replace(spec, layers=tuple(kinds), intermediate_size=width, mixture=None) for width in widths]
    return [
        Decoder(spec, _weights(spec, names, vocabulary, info.max_positions, dtype), backend, dtype, Alone())
        for spec in specs
    ]


def _widths(spec: DecoderSpec) -> list[int]:
    dense = [spec.intermediate_size] if not all(layer.mixture for layer in spec.layers) else []
    if spec.mixture is None:
        return dense
    return [*dense, spec.mixture.intermediate_size, *filter(None, [spec.mixture.shared_intermediate_size])]


def _weights(
    spec: DecoderSpec, names: LayerNames, vocabulary: Span, max_len: int, dtype: torch.dtype
) -> DecoderWeights:
    tokens = vocabulary.stop - vocabulary.start
    tables = [rope_table(rope, max_len) for rope in spec.ropes]
    return DecoderWeights(
        vocabulary=Span(tokens, 0, tokens),
        embedding=_empty(tokens, spec.hidden_size, dtype=dtype),
        layers=[_layer(spec, names, dtype) for _ in spec.layers],
        final_norm=_empty(spec.hidden_size),
        lm_head=_linear(tokens, spec.hidden_size, dtype),
        ropes=[RopeTable(table.frequencies.to(NOWHERE), table.amplitude) for table in tables],
    )


def _layer(spec: DecoderSpec, names: LayerNames, dtype: torch.dtype) -> LayerWeights:
    hidden, width = spec.hidden_size, spec.intermediate_size
    heads, kv_heads = spec.num_heads * spec.head_dim, spec.num_kv_heads * spec.head_dim
    query, key = {None: (None, None), "head": (spec.head_dim,) * 2, "row": (heads, kv_heads)}[spec.qk_norm]
    return LayerWeights(
        attention_norm=_norm(names.attention_norm, hidden),
        qkv=_linear(heads + 2 * kv_heads, hidden, dtype, bias=spec.qkv_bias),
        query_norm=None if query is None else _empty(query),
        key_norm=None if key is None else _empty(key),
        output=_linear(hidden, heads, dtype, bias=spec.output_bias),
        attention_post_norm=_norm(names.attention_post_norm, hidden),
        mlp_norm=_norm(names.mlp_norm, hidden),
        mlp=MlpWeights(
            gate_up=_linear(2 * width, hidden, dtype, bias=spec.mlp_bias),
            down=_linear(hidden, width, dtype, bias=spec.mlp_bias),
        ),
        mlp_post_norm=_norm(names.mlp_post_norm, hidden),
    )


def _norm(name: str | None, size: int) -> torch.Tensor | None:
    return None if name is None else _empty(size)


def _linear(rows: int, columns: int, dtype: torch.dtype, *, bias: bool = False) -> Linear:
    return Linear(_empty(rows, columns, dtype=dtype), _empty(rows, dtype=dtype) if bias else None)


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device=NOWHERE)
