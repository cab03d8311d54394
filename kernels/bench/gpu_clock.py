"""How long calls take, by the GPU's clock, in CUDA graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPLAYS = 30


class Clock(Protocol):
    """What times calls: `replay` on a GPU."""

    def __call__(self, calls: Sequence[Callable[[], object]], count: int, /) -> list[float]: ...


def replay(calls: Sequence[Callable[[], object]], count: int) -> list[float]:
    """Seconds of one call, over replays of a graph that holds at least `count` of them, each of `calls` in turn.

    Each runs once before: that compiles, loads, makes what is made at a first call (the list of work) and allocates,
    which a graph either may not or would do again in every replay.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(stream)
    held = max(count, len(calls))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for place in range(held):
            calls[place % len(calls)]()
    graph.replay()
    return [_seconds_of(graph) / held for _ in range(REPLAYS)]


def _seconds_of(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
