"""The batches that a run on a GPU times, and what each has to move and compute at least."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterator

Kind = Literal["decode", "prefill", "mixed"]
Cache = Literal["bf16", "e4m3", "int8"]  # what keys and values are stored as; the rest is bf16
CACHES: Final[tuple[Cache, ...]] = get_args(Cache)

KV_LIMIT: Final = 24 << 30  # bytes of keys and values of one shape
_HEADS: Final = ((32, 8), (64, 8), (32, 32), (28, 4))
_BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONTEXTS: Final = tuple(1024 << step for step in range(8))  # to 128k
_CACHES_OVER_L2: Final = 5  # as much memory as this many caches, so that no call finds its keys there
_MOST_POOLS: Final = 64
_MOST_CALLS: Final = 20  # in one graph, where there are not more pools
_GRAPH_SECONDS: Final = 0.02
_NEIGHBOURS: Final = (
    3,
    5,
    7,
    9,
    12,
    13,
    15,
    17,
    31,
    33,
    63,
    65,
    129,
)  # beside these batches the next smaller or larger
_ROW: Final[dict[Cache, tuple[int, int]]] = {
    "bf16": (2, 0),
    "e4m3": (1, 0),
    "int8": (1, 2),
}  # bytes of a number, of a scale


@dataclass(frozen=True, slots=True)
class BenchShape:
    """Sequences as (query length, context length with it), and the heads that attend."""

    name: str
    kind: Kind
    sequences: tuple[tuple[int, int], ...]
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    block_size: int = 16
    cache: Cache = "bf16"

    @property
    def num_tokens(self) -> int:
        return sum(queries for queries, _ in self.sequences)

    @property
    def num_blocks(self) -> int:
        return sum(-(-context // self.block_size) for _, context in self.sequences)

    @property
    def kv_bytes(self) -> int:
        """Keys and values of the whole context, read once."""
        positions = sum(context for _, context in self.sequences)
        number, scale = _ROW[self.cache]
        return 2 * positions * self.num_kv_heads * (self.head_dim * number + scale)

    @property
    def bytes_moved(self) -> int:
        """The least that attention reads and writes: keys, values, queries and results, these in 16 bits."""
        return self.kv_bytes + 2 * 2 * self.num_tokens * self.num_heads * self.head_dim

    def least_seconds(self, read: float, product: float) -> float:
        """On a card that reads so many bytes, and computes so many operations, per second."""
        return max(self.bytes_moved / read, self.operations / product)

    @property
    def uniform(self) -> bool:
        return len(set(self.sequences)) == 1

    @property
    def operations(self) -> int:
        """Multiplications and additions of causal attention's two products."""
        seen = sum(q * context - q * (q - 1) // 2 for q, context in self.sequences)
        return 4 * seen * self.num_heads * self.head_dim


def calls_for(seconds: float) -> int:
    """How many calls of at least `seconds` one graph holds: enough that what starts it is not seen, and no more."""
    return min(max(1, math.ceil(_GRAPH_SECONDS / seconds)), _MOST_CALLS)


def pools_for(shape: BenchShape, l2_bytes: int) -> int:
    """How many caches the calls go through in turn, so that none is still in the L2 cache when its turn comes."""
    return min(max(1, math.ceil(_CACHES_OVER_L2 * l2_bytes / shape.kv_bytes)), _MOST_POOLS)


def quick_shapes() -> Iterator[BenchShape]:
    """A dozen or so for every change."""
    for batch, context in ((1, 1024), (1, 32768), (8, 4096), (32, 2048), (64, 8192), (256, 1024)):
        yield _decode(batch, context)
    yield _decode(32, 8192, cache="e4m3")
    yield _decode(32, 8192, cache="int8")
    yield _decode(32, 2048, block_size=64)
    yield _ragged(32)
    yield _level(_ragged(32))
    yield _decode(33, 2048)
    yield _prefill(1, 2048, 0)
    yield _prefill(1, 8192, 0, block_size=64)
    yield _prefill(4, 512, 8192)
    yield _mixed()


def all_shapes() -> Iterator[BenchShape]:
    """The sweep: decodes in every kind of cache over heads and pages, ragged batches, verified drafts, prefills."""
    for batch in _BATCHES:
        for context in _CONTEXTS:
            for cache in CACHES:
                yield from _within(_decode(batch, context, cache=cache))
    for heads in _HEADS[1:]:
        yield from (_decode(batch, 4096, heads=heads) for batch in (1, 8, 32, 128))
    for block_size in (32, 64):
        yield from (_decode(batch, 4096, block_size=block_size) for batch in (1, 32))
    yield from (_decode(batch, 4096) for batch in _NEIGHBOURS)  # a step of one sequence must not be a cliff
    for batch in (8, 32, 128):
        yield _ragged(batch)
        yield _level(_ragged(batch))
    yield from (_decode(32, 4096, queries=queries) for queries in (2, 4, 8))
    for batch, block_size in ((1, 16), (4, 16), (1, 64), (4, 64)):
        for chunk in (512, 2048, 8192):
            yield from (_prefill(batch, chunk, before, block_size=block_size) for before in (0, 8192, 32768))
    yield _prefill(1, 16384, 0, block_size=64)
    yield _mixed()


def _within(shape: BenchShape) -> Iterator[BenchShape]:
    if shape.kv_bytes <= KV_LIMIT:
        yield shape


def _decode(
    batch: int,
    context: int,
    *,
    queries: int = 1,
    heads: tuple[int, int] = _HEADS[0],
    block_size: int = 16,
    cache: Cache = "bf16",
) -> BenchShape:
    """Uniform contexts. More than one query: drafts that are verified."""
    name = f"{'decode' if queries == 1 else f'verify {queries}'} {batch} x {context} heads {heads[0]}/{heads[1]}"
    name += f" page {block_size}" + (f" {cache}" if cache != "bf16" else "")
    kind: Kind = "decode" if queries == 1 else "prefill"
    return BenchShape(name, kind, ((queries, context),) * batch, *heads, block_size=block_size, cache=cache)


def _ragged(batch: int) -> BenchShape:
    """Lognormal contexts around 2k and one straggler of 128k; the same on every run."""
    draw = random.Random(batch)
    contexts = [min(max(1, round(draw.lognormvariate(math.log(2048), 1))), 131072) for _ in range(batch - 1)]
    return BenchShape(f"decode {batch} ragged", "decode", tuple((1, context) for context in (*contexts, 131072)))


def _level(ragged: BenchShape) -> BenchShape:
    """As many bytes as a ragged batch has, in contexts of one length."""
    contexts = [context for _, context in ragged.sequences]
    mean = round(sum(contexts) / len(contexts))
    return replace(ragged, name=f"{ragged.name}, levelled", sequences=((1, mean),) * len(contexts))


def _prefill(batch: int, chunk: int, before: int, block_size: int = 16) -> BenchShape:
    name = f"prefill {batch} x {chunk} after {before} page {block_size}"
    return BenchShape(name, "prefill", ((chunk, before + chunk),) * batch, block_size=block_size)


def _mixed() -> BenchShape:
    return BenchShape("mixed 32 decodes, 1 chunk", "mixed", ((1, 2048),) * 32 + ((1024, 3072),))
