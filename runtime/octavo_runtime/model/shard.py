"""Tensor parallelism as numbers: which part of each weight a rank has (Megatron-LM, Shoeybi et al., 2019).

    queries, keys, values; gate, up     rows, by heads and by units     each rank computes its own
    attention's output; down            the columns that these feed     the ranks' products are summed
    embedding, lm_head                  rows, by token ids              lookups are summed, logits put side by side
    norms, router                       whole                           the same on each rank

Experts are cut like any MLP, each of them, so that all ranks have the same work whatever the router prefers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from octavo_runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from octavo_runtime.model.spec import DecoderSpec, MixtureSpec, ModelInfo


class Span(NamedTuple):
    """The rows (or columns) `[start, stop)` out of `size`."""

    size: int
    start: int
    stop: int


def whole(size: int) -> Span:
    return Span(size, 0, size)


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's place among `size` ranks. The default is a model that is not divided."""

    rank: int = 0
    size: int = 1

    def share(self, count: int, unit: int = 1) -> Span:
        """The rows of this rank's part of `count` things of `unit` rows each.

        `count` is a multiple of `size`; or `size` is one of `count`, and each thing is there on several ranks.
        """
        first = self.rank * count // self.size
        return Span(count * unit, first * unit, (first + max(1, count // self.size)) * unit)

    def vocabulary(self, size: int) -> Span:
        """The token ids that this rank has rows for: equally many on each, the last ones beyond the end of `size`."""
        rows = -(-size // self.size)
        return Span(size, self.rank * rows, (self.rank + 1) * rows)


WHOLE: Final = Shard()


class Sliceable(Protocol):
    """A tensor, or safetensors' view of one that is not read yet."""

    def __getitem__(self, index: slice | tuple[slice, slice], /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a weight that a rank has. Several spans of rows lie one after the other, as in a fused weight."""

    rows: tuple[Span, ...]
    columns: Span | None = None  # None: the weight is a vector

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that is cut."""
        rows = sum(span.size for span in self.rows)
        return (rows,) if self.columns is None else (rows, self.columns.size)

    @property
    def is_whole(self) -> bool:
        return all(span == whole(span.size) for span in (*self.rows, *([self.columns] if self.columns else [])))

    def pieces(self, weight: Sliceable) -> Iterator[Tensor]:
        """The part of each span of rows; where `weight` is a view of a file, only these are read."""
        offset = 0
        for span in self.rows:
            rows = slice(offset + span.start, offset + span.stop)
            yield weight[rows] if self.columns is None else weight[rows, self.columns.start : self.columns.stop]
            offset += span.size


def shard_spec(spec: DecoderSpec, shard: Shard) -> DecoderSpec:
    """The decoder that one rank computes: fewer heads, narrower MLPs, everything else as it was."""
    return replace(
        spec,
        num_heads=spec.num_heads // shard.size,
        num_kv_heads=max(1, spec.num_kv_heads // shard.size),
        intermediate_size=spec.intermediate_size // shard.size,
        mixture=None if spec.mixture is None else _shard_mixture(spec.mixture, shard.size),
    )


def _shard_mixture(mixture: MixtureSpec, size: int) -> MixtureSpec:
    shared = mixture.shared_intermediate_size
    return replace(
        mixture,
        intermediate_size=mixture.intermediate_size // size,
        shared_intermediate_size=None if shared is None else shared // size,
    )


def check_divisible(info: ModelInfo, size: int) -> None:
    """Raises `InvalidArgument` with the field and both numbers when `size` ranks cannot have equal parts of it."""
    flag = f"--tensor-parallel-size {size}"
    if info.decoder is None:
        raise InvalidArgument(
            f"{flag}: {info.architecture} is computed by transformers' own code, which is not divided between ranks"
        )
    for name, count in _divided(info.decoder):
        if count % size:
            raise InvalidArgument(f"{flag} does not divide {name} = {count} of {info.path}")
    kv_heads = info.decoder.num_kv_heads
    if kv_heads % size and size % kv_heads:
        raise InvalidArgument(
            f"{flag} neither divides num_key_value_heads = {kv_heads} of {info.path} nor is it a multiple of it"
        )


def _divided(spec: DecoderSpec) -> Iterator[tuple[str, int]]:
    """What must be a multiple of the number of ranks, by its name in config.json."""
    yield "num_attention_heads", spec.num_heads
    if not all(layer.mixture for layer in spec.layers):
        yield "intermediate_size", spec.intermediate_size
    if spec.mixture is not None:
        yield "the experts' intermediate size", spec.mixture.intermediate_size
        if spec.mixture.shared_intermediate_size is not None:
            yield "shared_expert_intermediate_size", spec.mixture.shared_intermediate_size
