"""Scale to zero and wake, as decisions: only by the rules, within the bounds, and made again from their records."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_operator.core.autoscale import BLIND_SECONDS, HANDOVER_SECONDS, decide, judge
from octavo_operator.core.exposition import Sample
from octavo_operator.core.held import FRESH_SECONDS, Held, Report, parse_report, together
from octavo_operator.core.memory import GAP_SECONDS, RATE_PERIOD_SECONDS, ScalerMemory
from octavo_operator.core.names import Reason
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.record import from_record, to_record
from octavo_operator.core.spec import parse_spec
from octavo_operator.core.window import Signals, Window, aggregate

IDLE_AFTER = 60.0
POLICY = ScalingPolicy(
    min_replicas=2,
    max_replicas=8,
    kv_target=0.5,
    waiting_target=None,
    up_window=0,
    down_window=30,
    max_num_seqs=4,
    idle_after=IDLE_AFTER,
)
NOW = 10_000.0
ASLEEP = Signals(ready=0, unknown=0, activated=100.0)


def quiet(replicas, seconds, **more):
    """So many ready replicas without anything to do for that time."""
    return Signals(ready=replicas, unknown=0, kv_capacity=1000.0 * replicas, quiet_for=seconds, **more)


def run(signals, current, memory=None, policy=POLICY):
    decision = decide(signals, policy, current, memory or ScalerMemory(since=0.0), NOW)
    again = judge(from_record(to_record(decision.inputs)))
    assert (again.replicas, again.reason, again.message) == (decision.replicas, decision.reason, decision.message)
    return decision


# --- going to zero ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("current", [2, 3, 8])
def test_idle_replicas_go_all_at_once_when_the_activator_has_taken_over(current):
    decision = run(quiet(current, IDLE_AFTER, activated=HANDOVER_SECONDS), current)
    assert (decision.replicas, decision.reason, decision.limited_by) == (0, Reason.IDLE, None)
    assert "no request for 60 s" in decision.message


def test_the_service_leads_to_the_activator_before_the_replicas_go():
    decision = run(quiet(2, IDLE_AFTER), 2)
    assert (decision.replicas, decision.reason, decision.inputs.is_idle) == (2, Reason.HANDING_OVER, True)
    answered = run(quiet(2, IDLE_AFTER, activated=HANDOVER_SECONDS - 0.1), 2)
    assert (answered.replicas, answered.reason) == (2, Reason.HANDING_OVER)


def test_samples_from_before_the_hand_over_prove_nothing():
    """Prometheus shows a request up to half a minute late, also one that came through the activator."""
    late = run(quiet(2, IDLE_AFTER, activated=20.0, oldest=15.1), 2)
    assert (late.replicas, late.reason) == (2, Reason.HANDING_OVER)
    assert run(quiet(2, IDLE_AFTER, activated=20.0, oldest=15.0), 2).replicas == 0


@pytest.mark.parametrize(
    "signals",
    [
        quiet(2, IDLE_AFTER - 0.1, activated=99.0),
        quiet(2, None, activated=99.0),
        quiet(2, IDLE_AFTER, activated=99.0, held=1),
        Signals(ready=2, unknown=1, kv_capacity=1000.0, activated=99.0),
        Signals(ready=0, unknown=0, activated=99.0),
    ],
    ids=["too short", "busy or unknown", "a held request", "one without a sample", "none that is ready"],
)
def test_what_is_not_certainly_idle_stays(signals):
    decision = run(signals, 2)
    assert decision.replicas == 2
    assert not decision.inputs.is_idle


def test_without_an_activator_that_answers_nothing_goes_to_zero():
    """Nobody could wake it."""
    memory = ScalerMemory(since=0.0, deaf_since=NOW - BLIND_SECONDS, seen=NOW - 1)
    decision = run(quiet(2, IDLE_AFTER, deaf=True), 2, memory)
    assert (decision.replicas, decision.reason) == (2, Reason.ACTIVATOR_SILENT)
    assert run(quiet(5, IDLE_AFTER, deaf=True), 5, memory).replicas == 4, "an ordinary scale-down goes on"


def test_without_scale_to_zero_idleness_means_the_minimum():
    decision = run(quiet(2, 99_999.0, activated=99.0), 2, policy=replace(POLICY, idle_after=None))
    assert (decision.replicas, decision.limited_by) == (2, Reason.TOO_FEW_REPLICAS)


def test_a_replica_that_was_busy_and_is_gone_counts_as_activity():
    """Its quiet neighbour has been idle for long, and would take the whole pool with it."""
    memory, current = ScalerMemory(since=0.0), 3
    for second in range(40):
        busy = quiet(3, None) if second < 20 else quiet(2, 9_999.0, activated=99.0)
        decision = decide(busy, POLICY, current, memory, NOW + second)
        memory = decision.memory
        assert decision.replicas > 0
    assert decision.inputs.recalled.idle_for == 20.0


def test_a_restarted_operator_counts_anew():
    decision = run(quiet(2, 1.0, activated=99.0), 2, ScalerMemory(since=NOW))
    assert decision.inputs.recalled.idle_for == 0.0


@pytest.mark.parametrize("jump", [-5000.0, GAP_SECONDS + 1])
def test_a_jump_of_the_clock_is_no_idleness(jump):
    first = run(quiet(2, 30.0, activated=99.0), 2)
    later = decide(quiet(2, 9_999.0, activated=99.0), POLICY, 2, first.memory, NOW + jump)
    assert later.replicas == 2


# --- waking -----------------------------------------------------------------------------------------------------------


def test_without_a_request_it_sleeps_on():
    decision = run(ASLEEP, 0)
    assert (decision.replicas, decision.reason, decision.limited_by) == (0, Reason.AT_ZERO, None)


@pytest.mark.parametrize(
    ("held", "tokens", "capacity", "expected"),
    [
        (1, 10, None, 2),  # minReplicas, while there are any
        (12, 10, None, 3),  # 4 at once each
        (13, 10, None, 4),
        (1, 1500, 1000.0, 3),  # 500 tokens each, the target share of what a replica held
        (1, 1500, None, 2),  # what it held is not known
        (100, 10, None, 4),  # one step: at most 4 of none
    ],
)
def test_a_held_request_wakes_as_many_as_carry_what_is_held(held, tokens, capacity, expected):
    memory = ScalerMemory(since=0.0, capacity=capacity)
    decision = run(replace(ASLEEP, held=held, held_tokens=tokens), 0, memory)
    assert (decision.replicas, decision.reason) == (expected, Reason.WOKEN)
    assert decision.candidates.keys() == {"held"}


def test_more_held_requests_wake_more_before_the_first_replica_serves():
    first = run(replace(ASLEEP, held=1), 0)
    more = replace(ASLEEP, held=16)
    second = decide(more, POLICY, first.replicas, first.memory, NOW + 1)
    assert (second.replicas, second.reason) == (4, Reason.WOKEN)
    third = decide(replace(ASLEEP, held=0), POLICY, second.replicas, second.memory, NOW + 2)
    assert (third.replicas, third.reason) == (4, Reason.NO_READY_REPLICAS)


def test_a_woken_pool_is_kept_until_it_was_idle_anew():
    memory, current = ScalerMemory(since=0.0, active_at=0.0), 0
    decision = decide(replace(ASLEEP, held=1), POLICY, current, memory, NOW)
    memory, current, now = decision.memory, decision.replicas, NOW
    while current:
        now += 1
        decision = decide(quiet(2, now - NOW, activated=99.0), POLICY, current, memory, now)
        memory, current = decision.memory, decision.replicas
    assert now - NOW == IDLE_AFTER


def test_held_requests_count_as_waiting_beside_those_of_the_replicas():
    policy = replace(POLICY, waiting_target=3)
    decision = run(replace(quiet(2, None), held=9), 2, policy=policy)
    assert (decision.replicas, decision.reason) == (3, Reason.WAITING_ABOVE_TARGET)
    assert "9 held" in decision.message
    tokens = run(replace(quiet(2, None), held=1, held_tokens=2000), 2)
    assert (tokens.replicas, tokens.reason) == (4, Reason.KV_ABOVE_TARGET)


def test_an_activator_that_is_silent_at_zero_wakes_one():
    """Requests may wait where nobody sees them; and without it there would be no way back."""
    silent = Signals(ready=0, unknown=0, deaf=True)
    first = run(silent, 0)
    assert (first.replicas, first.reason) == (0, Reason.AT_ZERO)
    later = decide(silent, replace(POLICY, min_replicas=1), 0, first.memory, NOW + BLIND_SECONDS)
    assert (later.replicas, later.reason) == (1, Reason.ACTIVATOR_SILENT)
    answered = decide(ASLEEP, POLICY, 0, first.memory, NOW + BLIND_SECONDS)
    assert answered.replicas == 0


def test_a_restarted_operator_wakes_for_what_is_held():
    assert run(replace(ASLEEP, held=1, activated=0.0), 0, ScalerMemory(since=NOW)).replicas == 2


def test_scale_to_zero_that_is_removed_at_zero_brings_the_minimum_back():
    decision = run(ASLEEP, 0, policy=replace(POLICY, idle_after=None))
    assert (decision.replicas, decision.reason) == (2, Reason.TOO_FEW_REPLICAS)


def test_replicas_that_find_no_node_are_not_followed_by_more():
    decision = run(replace(ASLEEP, held=100, unschedulable=2), 2)
    assert (decision.replicas, decision.limited_by) == (2, Reason.NO_CAPACITY)


def test_the_budget_and_the_maximum_bound_a_wake():
    held = replace(ASLEEP, held=100)
    assert run(held, 0, policy=replace(POLICY, affordable=3)).limited_by == Reason.BUDGET_EXHAUSTED
    assert run(held, 0, policy=replace(POLICY, max_replicas=3)).replicas == 3


# --- the spec ---------------------------------------------------------------------------------------------------------


def policy_of(raw_spec, at, **autoscaling):
    scaled = {"maxReplicas": 4, "targets": {"waitingPerReplica": 1}, "scaleToZero": {"idleAfter": "90s"}} | autoscaling
    spec = parse_spec(raw_spec(autoscaling=scaled))
    return ScalingPolicy.of(spec, spec.autoscaling, at)


@pytest.mark.parametrize(("least", "expected"), [(1, 2), (3, 3)])
def test_a_schedule_in_force_keeps_it_awake_and_wakes_it(raw_spec, least, expected):
    """Also one that asks for no more than minReplicas does."""
    schedule = {"name": "morning", "from": "08:00", "to": "09:00", "minReplicas": 2}
    day = {"schedules": [schedule], "minReplicas": least}
    inside, outside = (policy_of(raw_spec, hour * 3600.0, **day) for hour in (8.5, 10))
    assert (inside.may_sleep, inside.min_replicas) == (False, expected)
    assert (outside.may_sleep, outside.min_replicas, outside.idle_after) == (True, least, 90.0)
    assert run(ASLEEP, 0, policy=inside).reason == Reason.SCHEDULED
    awake = run(quiet(3, 9_999.0, activated=99.0), 3, policy=inside)
    assert awake.replicas >= expected
    assert run(quiet(3, 9_999.0, activated=99.0), 3, policy=outside).replicas == 0


# --- idle by the counters ---------------------------------------------------------------------------------------------


def sample(time, tokens=100.0, **more):
    load = {"running": 0, "waiting": 0, "kv_used": 0, "kv_capacity": 1000}
    return Sample(time, **load | {"prompt_tokens": tokens, "generation_tokens": tokens} | more)


def quiet_for(*samples, now=30.0, draining=()):
    window = Window()
    for item in samples:
        window = window.add(item)
    return aggregate({"a": window, **dict(draining)}, {"a": 0.0, **dict.fromkeys(dict(draining), 0.0)}, now).quiet_for


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([sample(time) for time in range(0, 30, 2)], 30.0),
        ([sample(0), sample(2, running=1), sample(28)], 2.0),
        ([sample(0), sample(2, waiting=1), sample(28)], 2.0),
        ([sample(0), sample(26, tokens=101.0), sample(28, tokens=101.0)], 4.0),
        ([sample(0), sample(28, tokens=0.0)], 2.0),
        ([sample(0), sample(28)], 30.0),
        ([sample(28, running=1)], None),
        ([sample(28, prompt_tokens=None)], None),
        ([sample(0)], None),
        ([], None),
    ],
    ids=[
        "quiet",
        "ran",
        "waited",
        "came and went between two samples",
        "restarted",
        "seen before and after a gap, with the same counters",
        "runs",
        "no counter",
        "not fresh",
        "no sample",
    ],
)
def test_a_replica_is_idle_since_its_counters_stand_still(samples, expected):
    assert quiet_for(*samples) == expected


def test_all_replicas_must_be_idle_those_that_drain_too():
    quiet_ones = [sample(time) for time in range(0, 30, 2)]
    draining = Window().add(sample(28, draining=True, running=1))
    assert quiet_for(*quiet_ones, draining={"b": draining}) is None
    assert quiet_for(*quiet_ones, draining={"b": Window().add(sample(26, draining=True))}) == 4.0


# --- what the activator says ------------------------------------------------------------------------------------------


def test_a_report_is_taken_and_its_age_is_kept():
    first = parse_report('{"version": "a-1", "held": 2, "tokens": 30}', 5.0, None)
    assert first == Report(5.0, 5.0, "a-1", 2, 30)
    second = parse_report('{"version": "a-1", "held": 1, "tokens": 3, "more": 1}', 9.0, first)
    assert (second.since, together([second, first], 10.0)) == (5.0, Held(3, 33, 5.0))
    third = parse_report('{"version": "a-2", "held": 1, "tokens": 3}', 11.0, second)
    assert third.since == 11.0, "a request has come, or gone to a replica: the hand-over begins anew"
    assert together([second, None], 10.0) is None
    assert together([second, first], 5.0 + FRESH_SECONDS) is None
    assert together([], 10.0) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '"x"',
        "{}",
        '{"version": "a", "held": -1, "tokens": 0}',
        '{"version": "a", "held": 1e99, "tokens": 0}',
        '{"version": "a", "held": NaN, "tokens": 0}',
        '{"version": "a", "held": 0, "tokens": 99999999999}',
        '{"version": "a", "held": true, "tokens": 0}',
        '{"version": "a", "held": "1", "tokens": 0}',
        '{"version": 1, "held": 1, "tokens": 0}',
        '{"version": "' + "a" * 65 + '", "held": 1, "tokens": 0}',
        "[" * 100_000,
    ],
)
def test_garbage_is_no_report(text):
    assert parse_report(text, 5.0, None) is None


# --- whole lives ------------------------------------------------------------------------------------------------------


@st.composite
def lives(draw):
    """Seconds of a pool: whether something is held, whether replicas are quiet, and whether the activator answers."""
    step = st.tuples(st.integers(0, 400), st.booleans(), st.sampled_from(["yes", "no", "garbage"]))
    return draw(st.lists(st.tuples(st.integers(1, 90), step), min_size=1, max_size=12))


@settings(max_examples=60, deadline=None)
@given(lives(), st.integers(1, 4), st.integers(0, 8), st.sampled_from([1.0, 2.0, 5.0]))
def test_it_sleeps_and_wakes_by_the_rules_alone(life, least, current, period):
    """To 0 only idle, handed over and answered; from 0 only for a held request or a silence; always within bounds."""
    policy = replace(POLICY, min_replicas=least)
    memory, now, active, taken, steps = ScalerMemory(since=0.0), 0.0, 0.0, None, []
    for seconds, (held, busy, answers) in life:
        for _ in range(round(seconds / period)):
            now += period
            taken = None if answers == "no" else now if taken is None else taken
            signals = Signals(
                ready=current,
                unknown=0,
                kv_capacity=1000.0 * current,
                quiet_for=now - active if current and not busy and not held else None,
                held=held if taken is not None else 0,
                held_tokens=1e9 if answers == "garbage" else held,
                activated=None if taken is None else now - taken,
                deaf=taken is None,
            )
            active = now if busy or held or not current else active
            decision = decide(signals, policy, current, memory, now)
            before, current, memory = current, decision.replicas, decision.memory
            if before != current:
                assert judge(from_record(to_record(decision.inputs))).replicas == current
            assert current == 0 or least <= current <= policy.max_replicas
            if before and not current:
                assert now - active >= IDLE_AFTER
                assert now - taken >= HANDOVER_SECONDS
            if current and not before:
                assert signals.held or decision.reason == Reason.ACTIVATOR_SILENT
            if current > max(before, least):
                steps = [(time, size) for time, size in steps if now - time < RATE_PERIOD_SECONDS] + [(now, before)]
                base = min(size for _, size in steps)
                assert current <= max(2 * base, base + 4, least)
