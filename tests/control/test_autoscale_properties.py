"""What holds for every load: bounds, monotony, and no flapping. The load is a model of one pool; time is a number."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_operator.core.autoscale import decide
from octavo_operator.core.memory import Change, Recommendation, ScalerMemory
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.window import Signals

CAPACITY = 1000.0


@st.composite
def policies(draw: st.DrawFn) -> ScalingPolicy:
    low = draw(st.integers(1, 10))
    kv = draw(st.one_of(st.none(), st.integers(5, 90)))
    return ScalingPolicy(
        min_replicas=low,
        max_replicas=draw(st.integers(low, 40)),
        kv_target=kv / 100 if kv else None,
        waiting_target=draw(st.integers(1, 20)) if kv is None else draw(st.one_of(st.none(), st.integers(1, 20))),
        up_window=draw(st.sampled_from([0.0, 15.0, 60.0])),
        down_window=draw(st.sampled_from([0.0, 30.0, 300.0])),
        max_num_seqs=draw(st.one_of(st.none(), st.integers(1, 64))),
    )


@st.composite
def signals(draw: st.DrawFn) -> Signals:
    ready = draw(st.integers(0, 40))
    unknown = draw(st.integers(0, ready))
    capacity = (ready - unknown) * CAPACITY
    return Signals(
        ready=ready,
        unknown=unknown,
        silent=draw(st.integers(0, unknown)),
        running=draw(st.floats(0, 1000)) if capacity else 0.0,
        waiting=draw(st.floats(0, 1000)) if capacity else 0.0,
        kv_used=draw(st.floats(0, 1)) * capacity,
        kv_capacity=capacity,
    )


@st.composite
def memories(draw: st.DrawFn) -> ScalerMemory:
    times = sorted(draw(st.lists(st.floats(0, 999), max_size=8)))
    numbers = st.integers(1, 60)
    items = []
    for time in times:
        low = draw(numbers)
        items.append(Recommendation(time, low, low + draw(st.integers(0, 20))))
    change = st.builds(Change, st.floats(900, 999), st.integers(1, 40), st.integers(1, 40))
    changes = tuple(sorted(draw(st.lists(change, max_size=2)), key=lambda item: item.time))
    return ScalerMemory(draw(st.floats(0, 999)), tuple(items), changes)


@settings(deadline=None)
@given(signals(), policies(), st.integers(0, 60), memories())
def test_the_number_is_always_within_the_bounds_and_has_a_reason(seen, policy, current, memory):
    decision = decide(seen, policy, current, memory, 1000.0)
    assert policy.min_replicas <= decision.replicas <= policy.max_replicas
    assert decision.reason
    assert decision.message
    assert "\n" not in decision.message
    assert len(decision.message) <= 256  # one sentence, and whole in the history too


@settings(deadline=None)
@given(
    seen=signals(),
    policy=policies(),
    current=st.integers(1, 40),
    memory=memories(),
    more_kv=st.floats(0, 1),
    more_waiting=st.floats(0, 200),
)
def test_more_load_never_means_fewer_replicas(*, seen, policy, current, memory, more_kv, more_waiting):
    if not seen.known:
        return
    heavier = replace(
        seen,
        kv_used=seen.kv_used + more_kv * (seen.kv_capacity - seen.kv_used),
        waiting=seen.waiting + more_waiting,
    )
    lighter_one = decide(seen, policy, current, memory, 1000.0)
    heavier_one = decide(heavier, policy, current, memory, 1000.0)
    assert heavier_one.replicas >= lighter_one.replicas


@settings(deadline=None)
@given(signals(), policies(), st.integers(1, 40), memories())
def test_losing_sight_of_replicas_never_moves_the_number_further(seen, policy, current, memory):
    """A scrape that fails may keep a step from being taken; it never makes one larger."""
    if seen.known < 2:
        return
    share = (seen.known - 1) / seen.known
    blind = replace(
        seen,
        unknown=seen.unknown + 1,
        running=seen.running * share,
        waiting=seen.waiting * share,
        kv_used=seen.kv_used * share,
        kv_capacity=seen.kv_capacity * share,
    )
    sighted = decide(seen, policy, current, memory, 1000.0).replicas
    unsighted = decide(blind, policy, current, memory, 1000.0).replicas
    start = min(max(current, policy.min_replicas), policy.max_replicas)
    assert abs(unsighted - start) <= abs(sighted - start)


def pool(tokens: float, replicas: int, ready: int) -> Signals:
    """A pool that holds `tokens` where they fit; what does not fit waits, 100 tokens a request."""
    held = min(tokens, ready * CAPACITY)
    waiting = (tokens - held) / 100
    assert ready <= replicas
    return Signals(ready, 0, 0, held / 100, waiting, held, ready * CAPACITY)


@settings(max_examples=60, deadline=None)
@given(policies(), st.floats(0, 30_000), st.integers(1, 40), st.integers(0, 60), st.sampled_from([0.7, 2.0, 5.0]))
def test_a_constant_load_never_flaps(policy, tokens, current, startup, period):
    """The number goes up, then settles or goes down, and never up again; new replicas serve after `startup` seconds."""
    memory, ready, born = ScalerMemory(since=0.0), current, list[float]()
    history = [current]
    for step in range(round(1500 / period)):
        now = step * period
        ready += sum(1 for time in born if time <= now)
        born = [time for time in born if time > now]
        decision = decide(pool(tokens, current, min(ready, current)), policy, current, memory, now)
        memory = decision.memory
        born += [now + startup] * max(0, decision.replicas - current)
        ready, current = min(ready, decision.replicas), decision.replicas
        history.append(current)
    moves = [after - before for before, after in pairwise(history[1:]) if after != before]
    turned = [move > 0 for move in moves]
    assert turned == sorted(turned, reverse=True), history
    assert len(set(history[-round(60 / period) :])) == 1, history
