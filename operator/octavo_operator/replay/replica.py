"""One replica: the runtime's own scheduler and its simulated runner, on a clock of their own.

The only module of the operator that imports the runtime (`pip install octavo-operator[replay]`), and only parts of it
without torch. What a step takes comes from `StepTime`, measured on a real machine or made up.
"""

from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate
from math import inf
from pathlib import Path
from typing import Final, NamedTuple

from octavo_operator.core.buckets import Buckets
from octavo_operator.core.exposition import Sample
from octavo_operator.replay.trace import Arrival
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import Sequence
from octavo_runtime.runner.sim_runner import SimRunner, StepTime

_VOCABULARY: Final = 1000
_TTFT_BOUNDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 960, inf)
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

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1

    def buckets(self) -> Buckets:
        return Buckets(self._bounds, tuple(accumulate(map(float, self._counts))))


@dataclass(slots=True)
class _Request:
    arrived: float
    last_token: float | None = None


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
        self._block_size = machine.block_size
        self._longest = blocks * machine.block_size
        self._runner = SimRunner(blocks, machine.block_size, _VOCABULARY, machine.step_time, self._pass)
        self._scheduler = Scheduler(
            BlockPool(blocks, machine.block_size),
            max_num_seqs=machine.max_num_seqs,
            max_num_batched_tokens=machine.max_num_batched_tokens,
            prefix_caching=False,
        )
        self._requests: dict[int, _Request] = {}
        self._first_token, self._next_token = _Histogram(_TTFT_BOUNDS), _Histogram(_ITL_BOUNDS)

    @property
    def outstanding(self) -> int:
        """Requests that are not finished."""
        return len(self._requests)

    def submit(self, number: int, arrival: Arrival) -> None:
        """Takes a request at its time; one that is longer than the whole cache is cut to it."""
        output = min(arrival.output_tokens, self._longest - 1)
        prompt = min(arrival.prompt_tokens, self._longest - output)
        tokens = [number % _VOCABULARY] * prompt
        params = SamplingParams(max_tokens=output, temperature=0.0)
        self._requests[number] = _Request(arrival.time)
        self._scheduler.add(Sequence(number, tokens, params, arrived_at=arrival.time))

    def advance(self, until: float) -> None:
        """Runs steps until the clock has reached that time; the last one may go beyond it."""
        while self.clock < until and self._scheduler.has_work:
            plan = self._scheduler.schedule(self.clock)
            assert plan.num_sequences, "work, and nothing planned"
            result = self._runner.execute(flatten(plan, self._block_size))
            for output in self._scheduler.update(plan, result).each():
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
        )

    def _pass(self, seconds: float) -> None:
        self.clock += seconds

    def _note(self, number: int, *, finished: bool) -> None:
        request = self._requests[number]
        if request.last_token is None:
            self._first_token.observe(self.clock - request.arrived)
            self._first_tokens.append(FirstToken(request.arrived, self.clock - request.arrived))
        else:
            self._next_token.observe(self.clock - request.last_token)
        request.last_token = self.clock
        if finished:
            del self._requests[number]


def read_step_time(path: Path) -> StepTime:
    """The times of `runtime/bench/sim_profile.py`. OSError, or ValueError naming what is wrong."""
    return StepTime.read(path)
