"""The engine in this process: scheduler and runner without HTTP, without a second process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec

from octavo_runtime.bench.load import Feed
from octavo_runtime.bench.stats import Record
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.startup import load_runner, make_engine

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from octavo_runtime.bench.load import Load
    from octavo_runtime.bench.prompts import Prompt
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.core.sequence import FinishReason
    from octavo_runtime.engine.step import Engine
    from octavo_runtime.model.spec import ModelInfo

REPORT_EVERY: Final = 1.0  # seconds between two looks at the progress


def load_engine(config: ServeConfig, info: ModelInfo) -> Engine:
    """What `octavo serve` would run. Raises `StartError`."""
    return make_engine(config, load_runner(config, info, lambda _phase, _done: None))


class OfflineRun:
    """Feeds an engine, step by step, and notes when each token comes."""

    def __init__(
        self,
        engine: Engine,
        requests: Sequence[Add],
        feed: Feed,
        *,
        progress: Callable[[Sequence[Record]], None],
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Request i of `requests` has the id i."""
        self._engine = engine
        self._requests = requests
        self._feed = feed
        self._progress = progress
        self._clock = clock
        self._sleep = sleep
        self._under_way: dict[int, Record] = {}
        self._records: list[Record] = []

    def run(self) -> list[Record]:
        start, reported = self._clock(), 0.0
        while not self._feed.exhausted or self._under_way:
            now = self._clock() - start
            self._add_what_is_due(now)
            if not self._under_way:
                self._sleep(self._feed.wait(now))
                continue
            done = self._engine.step(now)
            now = self._clock() - start
            for output in done.each_output():
                self._take(output.seq_id, len(output.tokens), output.finish_reason, now)
            for index in done.failed:
                self._end(index, "step", now)
            if now - reported >= REPORT_EVERY:
                self._progress(self._records)
                reported = now
        return self._records

    def _add_what_is_due(self, now: float) -> None:
        for index, arrival in self._feed.take(now, len(self._under_way)):
            self._under_way[index] = Record(arrival, input_tokens=len(self._requests[index].prompt))
            self._engine.add(msgspec.structs.replace(self._requests[index], arrived_at=arrival))

    def _take(self, index: int, num_tokens: int, reason: FinishReason | None, now: float) -> None:
        record = self._under_way[index]
        if num_tokens:
            record.piece_times.append(now)
            record.output_tokens += num_tokens
        if reason is not None:
            self._end(index, None, now)

    def _end(self, index: int, error: str | None, now: float) -> None:
        record = self._under_way.pop(index)
        record.end, record.error = now, error
        self._records.append(record)


def run_offline(
    engine: Engine,
    prompts: Sequence[Prompt],
    token_ids: Sequence[list[int]],
    load: Load,
    *,
    seed: int,
    temperature: float,
    stop_token_ids: frozenset[int],
    progress: Callable[[Sequence[Record]], None],
) -> list[Record]:
    """Run `prompts`, given also as `token_ids`, through `engine`."""
    requests = [
        Add(
            index,
            list(ids),
            SamplingParams(
                max_tokens=prompt.max_tokens, temperature=temperature, seed=seed + index, stop_token_ids=stop_token_ids
            ),
        )
        for index, (prompt, ids) in enumerate(zip(prompts, token_ids, strict=True))
    ]
    return OfflineRun(engine, requests, Feed(load, len(requests), seed), progress=progress).run()
