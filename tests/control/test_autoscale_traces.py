"""Random lives of a pool, through the real windows: bounds whatever the replicas say, no flapping, and an end at idle.

Looks and samples come at uneven times, as those of real clocks do: on a grid of whole seconds a window's edge always
meets a sample, and what goes wrong between two of them is not seen.

OCTAVO_TRACES is the number of traces per property: the same 100 in `make test`, others and more by hand
(operator/DESIGN.md).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle, pairwise

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from octavo_operator.core.autoscale import decide
from octavo_operator.core.exposition import Sample, parse_sample
from octavo_operator.core.memory import RATE_PERIOD_SECONDS, ScalerMemory
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.window import Window, aggregate

PERIOD = 5.0
LONGEST_LOOK = 5.4
CAPACITY = 10_000.0
traces = settings(
    max_examples=int(os.environ.get("OCTAVO_TRACES", "100")),
    deadline=None,
    derandomize="OCTAVO_TRACES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@st.composite
def policies(draw: st.DrawFn) -> ScalingPolicy:
    low = draw(st.integers(1, 4))
    return ScalingPolicy(
        min_replicas=low,
        max_replicas=draw(st.integers(low, 16)),
        kv_target=draw(st.sampled_from([None, 0.5, 0.8])),
        waiting_target=draw(st.integers(1, 10)),
        up_window=draw(st.sampled_from([0.0, 15.0])),
        down_window=draw(st.sampled_from([0.0, 60.0, 300.0])),
        ttft_p95=draw(st.sampled_from([None, 1.0])),
        itl_p95=draw(st.sampled_from([None, 0.1])),
        queue_wait_p95=draw(st.sampled_from([None, 1.0])),
        max_num_seqs=draw(st.sampled_from([None, 32])),
    )


looks = st.one_of(st.just([PERIOD]), st.lists(st.floats(1.8, LONGEST_LOOK), min_size=5, max_size=5))
"""Seconds from one look to the next, again and again."""
lags = st.lists(st.floats(0, 0.9), min_size=3, max_size=3)
"""How long before a look the replicas were asked, in turn."""


@dataclass
class Life:
    """A pool and its autoscaler, which is new to it: the first replicas have served for an hour.

    Replicas serve `startup` seconds after they are wanted; the oldest stay longest.
    """

    policy: ScalingPolicy
    current: int
    startup: float = 30.0
    looks: Iterator[float] = field(default_factory=lambda: cycle([PERIOD]))
    lags: tuple[float, ...] = (0.0,)
    now: float = 1000.0
    memory: ScalerMemory = field(default_factory=lambda: ScalerMemory(since=1000.0))
    windows: dict[str, Window] = field(default_factory=dict)
    ready: dict[str, float] = field(default_factory=dict)
    starting: list[float] = field(default_factory=list)
    history: list[tuple[float, int]] = field(default_factory=list)
    born: int = 0

    def __post_init__(self) -> None:
        self.grow(self.current, self.now - 3600)

    def grow(self, count: int, since: float) -> None:
        for _ in range(count):
            self.ready[f"pod-{self.born}"] = since
            self.born += 1

    def asked(self, uid: str) -> float:
        """When a replica was asked for the last time."""
        return self.now - self.lags[int(uid.removeprefix("pod-")) % len(self.lags)]

    def answer(self, uid: str, sample: Sample | None) -> None:
        window = self.windows.get(uid, Window())
        self.windows[uid] = window.add(sample) if sample is not None else window.spoil(self.now)

    def turn(self, unschedulable: int = 0) -> int:
        """One decision, carried out; then time passes."""
        signals = aggregate(
            self.windows, self.ready, self.now, unschedulable=unschedulable, startup_p90=self.startup or None
        )
        decision = decide(signals, self.policy, self.current, self.memory, self.now)
        self.memory = decision.memory
        self.starting += [self.now + self.startup] * max(0, decision.replicas - self.current)
        self.current = decision.replicas
        self.history.append((self.now, self.current))
        while len(self.ready) + len(self.starting) > self.current:
            self.starting.pop() if self.starting else self.ready.pop(list(self.ready)[-1])
        self.now += next(self.looks)
        self.grow(sum(1 for time in self.starting if time <= self.now), self.now)
        self.starting = [time for time in self.starting if time > self.now]
        return self.current


NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True).map(str),
    st.integers(0, 10_000).map(str),
    st.sampled_from(["NaN", "-1", "+Inf", "1e300", "1e14", "", "banana", "0"]),
)
NAMES = (
    "octavo_requests_running",
    "octavo_requests_waiting",
    "octavo_waiting_tokens",
    "octavo_kv_tokens_used",
    "octavo_kv_tokens_capacity",
    "octavo_prompt_tokens_total",
    "octavo_generation_tokens_total",
    'octavo_time_to_first_token_seconds_bucket{le="1"}',
    'octavo_time_to_first_token_seconds_bucket{le="+Inf"}',
    'octavo_inter_token_latency_seconds_bucket{le="0.1"}',
    'octavo_inter_token_latency_seconds_bucket{le="+Inf"}',
    'octavo_request_queue_time_seconds_bucket{le="1"}',
    'octavo_request_queue_time_seconds_bucket{le="+Inf"}',
)


@traces
@given(policy=policies(), current=st.integers(1, 16), data=st.data())
def test_whatever_the_replicas_say_the_number_stays_within_bounds_and_steps(policy, current, data):
    """NaN, negative, infinite, absurd metrics, lost scrapes, jumping clocks: never beyond max, never a longer step."""
    life = Life(policy, min(max(current, policy.min_replicas), policy.max_replicas))
    for _ in range(data.draw(st.integers(1, 12))):
        said = data.draw(st.lists(NUMBERS, min_size=len(NAMES), max_size=len(NAMES)))
        text = "\n".join(f"{name} {value}" for name, value in zip(NAMES, said, strict=True))
        for uid in data.draw(st.lists(st.sampled_from(list(life.ready) or ["pod-0"]), max_size=16, unique=True)):
            life.answer(uid, parse_sample(text, life.now, queue_time=True))
        before = life.current
        after = life.turn(data.draw(st.integers(0, 3)))
        life.now += data.draw(st.sampled_from([0.0, 0.0, 0.0, 5.0, 3600.0, -3600.0]))
        assert policy.min_replicas <= after <= policy.max_replicas
        assert before - 1 <= after <= max(2 * before, before + 4)


@traces
@given(policy=policies(), current=st.integers(1, 16), steps=looks, late=lags, data=st.data())
def test_a_pool_that_becomes_idle_ends_at_its_minimum(*, policy, current, steps, late, data):
    """G16, from wherever it was: also after lost scrapes and replicas without a node."""
    first = min(max(current, policy.min_replicas), policy.max_replicas)
    life = Life(policy, first, looks=cycle(steps), lags=tuple(late))
    for _ in range(data.draw(st.integers(0, 10))):
        waiting, used = data.draw(st.integers(0, 50)), data.draw(st.floats(0, CAPACITY))
        for uid in life.ready:
            if data.draw(st.booleans()):
                life.answer(uid, Sample(life.asked(uid), 5, waiting, used, CAPACITY))
        life.turn()
    homeless = data.draw(st.integers(0, 2))
    quiet = max(policy.down_window, 2 * life.startup) + 60 + policy.max_replicas * (RATE_PERIOD_SECONDS + LONGEST_LOOK)
    end = life.now + quiet
    while life.now < end:
        for uid in life.ready:
            life.answer(uid, Sample(life.asked(uid), 0, 0, 0, CAPACITY, prompt_tokens=0.0))
        life.turn(homeless)
    assert life.current == policy.min_replicas


@dataclass
class Replica:
    """A fluid model: it computes `rate` prompt tokens/s at most and holds what it computed for `hold` seconds."""

    rate: float
    hold: float
    time: float
    queue: float = 0.0
    total: float = 0.0

    def serve(self, arriving: float, now: float) -> Sample:
        seconds, self.time = now - self.time, now
        most = min(self.rate, CAPACITY / self.hold)
        done = min(most, arriving + self.queue / seconds)
        self.queue = max(0.0, self.queue + (arriving - done) * seconds)
        self.total += done * seconds
        used = min(CAPACITY, done * self.hold)
        return Sample(now, used / 100, self.queue // 100, used, CAPACITY, False, self.queue, self.total)


@traces
@given(
    policy=policies(),
    current=st.integers(1, 16),
    load=st.floats(0, 20_000),
    rate=st.sampled_from([500.0, 2000.0, 8000.0]),
    hold=st.floats(1, 30),
    startup=st.sampled_from([15.0, 30.0, 100.0]),  # a model is loaded meanwhile, and a full replica seen
    noise=st.lists(st.floats(0.97, 1.03), min_size=7, max_size=7),
    steps=looks,
    late=lags,
)
@example(  # a queue that adds a replica before 20 s of it were seen
    policy=ScalingPolicy(1, 2, None, 1, up_window=0, down_window=60),
    current=1,
    load=506.0,
    rate=500.0,
    hold=1.0,
    startup=15.0,
    noise=[1.0] * 7,
    steps=[PERIOD],
    late=[0.0],
)
@example(  # replicas that go make the sum of the rates lag, and it catches up: no growth of the load
    policy=ScalingPolicy(4, 12, None, 1, up_window=0, down_window=0),
    current=1,
    load=10937.0,
    rate=2000.0,
    hold=1.0,
    startup=100.0,
    noise=[1.0, 1.0, 1.0, 1.0, 1.015625, 1.015625, 1.015625],
    steps=[PERIOD],
    late=[0.0],
)
def test_a_constant_load_turns_at_most_once_in_a_window(
    *, policy, current, load, rate, hold, startup, noise, steps, late
):
    """Also while limits are learned and the queue of a too small pool is worked off."""
    first = min(max(current, policy.min_replicas), policy.max_replicas)
    life = Life(policy, first, startup=startup, looks=cycle(steps), lags=tuple(late))
    replicas: dict[str, Replica] = {}
    swaying, end = cycle(noise), life.now + 160 * PERIOD
    while life.now < end:
        replicas = {uid: replicas.get(uid, Replica(rate, hold, life.asked(uid) - PERIOD)) for uid in life.ready}
        arriving = load * next(swaying) / max(1, len(replicas))
        for uid, replica in replicas.items():
            life.answer(uid, replica.serve(arriving, life.asked(uid)))
        life.turn()
    window = max(policy.up_window, policy.down_window, 2 * startup)
    turns = _turns(life.history)
    assert all(later - earlier >= window for earlier, later in pairwise(turns)), life.history


def _turns(history: list[tuple[float, int]]) -> list[float]:
    """When the number began to move in the other direction than before."""
    moves = [(time, after > before) for (_, before), (time, after) in pairwise(history) if after != before]
    return [time for (_, was), (time, up) in pairwise(moves) if up != was]
