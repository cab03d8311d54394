"""One replica: the runtime's own scheduler, and steps that take as long as its simulated runner's, on their own clock.

The only module of the operator that imports the runtime (`pip install octavo-operator[replay]`), and only parts of it
without torch. What a step takes comes from `StepTime`, measured on a real machine or made up. Nobody asks which tokens
come out, so none are worked out: that was most of a replay's time.
"""

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Final, NamedTuple

from octavo_operator.core.buckets import Buckets
from octavo_operator.core.exposition import Sample
from octavo_operator.replay.trace import Arrival
from octavo_runtime.core.batch import BatchPlan, SamplingParams, StepResult
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import Sequence
from octavo_runtime.runner.sim_runner import StepTime

_SOME_TOKEN: Final = 0
_REQUEST_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 960, inf)
_ITL_BOUNDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, inf)


SMALL_STEPS: Final = StepTime(base=0.08, per_prefill_token=0.0004, per_decode=0.002)
"""A small machine: about 2 requests/s of 400 prompt tokens and 120 of the answer."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What every replica of the fleet is: KV tokens, the scheduler's limits, the time of a step."""

    kv_tokens: int = 16_384
    block_size: int = 16
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 512
    step_time: StepTime = SMALL_STEPS


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * len(bounds)

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times

    def buckets(self) -> Buckets:
        return Buckets(self._bounds, tuple(accumulate(map(float, self._counts))))


class FirstToken(NamedTuple):
    """When a request arrived, and the seconds to its first token."""

    arrived: float
    ttft: float


class SimReplica:
    """A replica from the moment that it is ready. `first_tokens` collects those of all replicas."""

    def __init__(self, machine: Machine, born: float, first_tokens: list[FirstToken]) -> None:
        blocks = machine.kv_tokens // machine.block_size
        self.clock = born
        self._first_tokens = first_tokens
        self._longest = blocks * machine.block_size
        self._step_time = machine.step_time
        self._scheduler = Scheduler(
            BlockPool(blocks, machine.block_size),
            max_num_seqs=machine.max_num_seqs,
            max_num_batched_tokens=machine.max_num_batched_tokens,
            prefix_caching=False,
        )
        self._arrived: dict[int, float] = {}
        self._last_token: dict[int, float] = {}
        self._first_token, self._next_token = _Histogram(_REQUEST_BOUNDS), _Histogram(_ITL_BOUNDS)
        self._queue_time = _Histogram(_REQUEST_BOUNDS)

    @property
    def outstanding(self) -> int:
        """Requests that are not finished."""
        return len(self._arrived)

    def submit(self, number: int, arrival: Arrival) -> None:
        """Takes a request at its time; one that is longer than the whole cache is cut to it."""
        output = min(arrival.output_tokens, self._longest - 1)
        prompt = min(arrival.prompt_tokens, self._longest - output)
        params = SamplingParams(max_tokens=output, temperature=0.0)
        self._arrived[number] = arrival.time
        self._scheduler.add(Sequence(number, [_SOME_TOKEN] * prompt, params, arrived_at=arrival.time))

    def advance(self, until: float) -> None:
        """Runs steps until the clock has reached that time; the last one may go beyond it."""
        while self.clock < until and self._scheduler.has_work:
            plan = self._scheduler.schedule(self.clock)
            assert plan.num_sequences, "work, and nothing planned"
            for sequence in plan.admitted:
                self._queue_time.observe(self.clock - self._arrived[sequence.seq_id])
            self.clock += self._seconds(plan)
            samples = len(plan.decodes) + sum(chunk.num_samples for chunk in plan.chunks)
            outputs = self._scheduler.update(plan, StepResult([_SOME_TOKEN] * samples))
            self._note_decoded(outputs.decoded)
            for output in outputs.others:
                self._note(output.seq_id, finished=output.finish_reason is not None)
        self.clock = max(self.clock, until)

    def sample(self, now: float) -> Sample:
        """What a scrape would show."""
        stats = self._scheduler.stats()
        return Sample(
            time=now,
            running=stats.running,
            waiting=stats.waiting,
            kv_used=stats.kv_tokens_used,
            kv_capacity=stats.kv_tokens_capacity,
            waiting_tokens=stats.waiting_tokens,
            prompt_tokens=stats.prompt_tokens,
            generation_tokens=stats.generation_tokens,
            ttft=self._first_token.buckets(),
            itl=self._next_token.buckets(),
            queue_time=self._queue_time.buckets(),
        )

    def _seconds(self, plan: BatchPlan) -> float:
        """As the simulated runner takes for the plan. Must come before its results, which change the sequences."""
        decodes = len(plan.decodes) + sum(1 for chunk in plan.chunks if chunk.length == 1)
        read = 0
        if self._step_time.per_kv_token:
            read = sum(sequence.num_launched + 1 for sequence in plan.decodes)
            read += sum(chunk.start + chunk.length for chunk in plan.chunks)
        return self._step_time.of(plan.num_tokens - decodes, decodes, read)

    def _note_decoded(self, numbers: list[int]) -> None:
        """One more token of each; most of them had their last one at the same time."""
        last, clock = self._last_token, self.clock
        for gap, times in Counter([clock - last[number] for number in numbers]).items():
            self._next_token.observe(gap, times)
        last.update(dict.fromkeys(numbers, clock))

    def _note(self, number: int, *, finished: bool) -> None:
        last = self._last_token.get(number)
        if last is None:
            arrived = self._arrived[number]
            self._first_token.observe(self.clock - arrived)
            self._first_tokens.append(FirstToken(arrived, self.clock - arrived))
        else:
            self._next_token.observe(self.clock - last)
        self._last_token[number] = self.clock
        if finished:
            del self._arrived[number], self._last_token[number]


def read_step_time(path: Path) -> StepTime:
    """The times of `runtime/bench/sim_profile.py`. OSError, or ValueError naming what is wrong."""
    return StepTime.read(path)
