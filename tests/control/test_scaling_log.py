"""What the status keeps of decisions: enough to make each of them again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.core.autoscale import decide, judge
from octavo_operator.core.events import status_events
from octavo_operator.core.learn import Learned
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.record import from_record
from octavo_operator.core.scaling_log import ADVICE_PERIOD_SECONDS, HISTORY_LENGTH, log_decision
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.window import Signals

NOW = 1_800_000_000.0
POLICY = ScalingPolicy(1, 40, 0.7, 3, up_window=0, down_window=0, ttft_p95=1.0, affordable=30)


def load(ready, waiting, kv=100.0):
    return Signals(ready, 0, waiting=waiting, kv_used=kv, kv_capacity=1000.0 * ready, prompt_rate=1 / 3, ttft_p95=0.1)


def through_the_api(log):
    """The same as a later process reads it from the status."""
    return ModelServerStatus.model_validate(json.loads(json.dumps(ModelServerStatus(scaling=log).wire()))).scaling


@given(
    ready=st.integers(1, 12),
    unknown=st.integers(0, 3),
    waiting=st.floats(0, 100),
    used=st.floats(0, 1),
    ttft=st.none() | st.floats(0, 5),
    learned=st.none() | st.floats(1, 1000),
    since=st.floats(NOW - 1000, NOW),
)
def test_a_recorded_decision_can_be_made_again(*, ready, unknown, waiting, used, ttft, learned, since):
    """Fed with what the status recorded, `judge` comes to the same number, reason, limiters and words."""
    capacity = 777.7 * ready
    signals = Signals(ready + unknown, unknown, waiting=waiting, kv_used=used * capacity, kv_capacity=capacity)
    memory = ScalerMemory(since, learned=Learned(learned, learned, since) if learned else Learned())
    policy = POLICY if ttft is None else ScalingPolicy(1, 20, 0.7, None, 0, 0, ttft_p95=1.0)
    current = 4
    for step in range(3):
        decision = decide(signals, policy, current, memory, NOW + 5 * step)
        log = log_decision(None, decision, advisory=False, now=NOW + 5 * step)
        if log is not None:
            again = judge(from_record(through_the_api(log).last_decision.record))
            assert (again.replicas, again.reason, again.message) == (
                decision.replicas,
                decision.reason,
                decision.message,
            )
            assert (again.limiters, again.low) == (decision.limiters, decision.candidates)
        current, memory = decision.replicas, decision.memory


def test_a_wait_in_the_queue_is_recorded_and_a_record_from_before_it_is_read():
    """A record is of the version that wrote it: what it does not name had its default then."""
    policy = ScalingPolicy(1, 40, None, 3, up_window=0, down_window=0, queue_wait_p95=1.0)
    signals = Signals(4, 0, waiting=12.0, kv_used=900.0, kv_capacity=1000.0, queue_wait_p95=1.5)
    decision = decide(signals, policy, 4, ScalerMemory(NOW), NOW)
    last = through_the_api(log_decision(None, decision, advisory=False, now=NOW)).last_decision
    assert last.inputs.queue_wait_p95_milliseconds == 1500
    assert "queueWait" in {candidate.signal for candidate in last.candidates}
    again = judge(from_record(last.record))
    assert (again.replicas, again.reason) == (last.to, last.reason) == (6, "SLOViolated")
    raw = json.loads(last.record)
    del raw["signals"]["queue_wait_p95"], raw["policy"]["queue_wait_p95"]
    before = from_record(json.dumps(raw))
    assert (before.signals.queue_wait_p95, before.policy.queue_wait_p95) == (None, None)


def changes(count):
    """So many scale-ups from 2 to 4, 20 s apart."""
    log = None
    for step in range(count):
        now = NOW + 20 * step
        log = log_decision(log, decide(load(2, 12.0), POLICY, 2, ScalerMemory(NOW), now), advisory=False, now=now)
    return log


def test_at_most_ten_decisions_before_the_last_are_kept_and_each_can_be_made_again():
    log = through_the_api(changes(13))
    assert log.last_decision.time == "2027-01-15T08:04:00Z"
    assert [item.time[14:19] for item in log.history][::9] == ["00:40", "03:40"]
    assert len(log.history) == HISTORY_LENGTH
    for item in log.history:
        assert judge(from_record(item.record)).replicas == item.to == 4


def test_the_log_stays_small():
    assert len(json.dumps(ModelServerStatus(scaling=changes(13)).wire())) < 16_384


def test_what_changes_nothing_is_no_news():
    log = changes(1)
    decision = decide(load(3, waiting=9.0), POLICY, 3, ScalerMemory(NOW), NOW + 60)
    assert decision.replicas == 3
    assert log_decision(log, decision, advisory=False, now=NOW + 60) is log


def test_advice_is_news_once_and_at_most_once_a_minute():
    """A load that goes to and fro must not write a status, and an event, with every look."""
    log, written = None, []
    for step in range(60):
        now = NOW + 5 * step
        decision = decide(load(2, waiting=12.0 if step % 2 else 20.0), POLICY, 2, ScalerMemory(NOW), now)
        after = log_decision(log, decision, advisory=True, now=now)
        if after is not log:
            written.append(now)
        log = after
    assert len(written) <= 300 / ADVICE_PERIOD_SECONDS
    assert log.last_decision.mode == "Advisory"


def test_advice_is_an_event_of_its_own():
    decision = decide(load(2, waiting=12.0), POLICY, 2, ScalerMemory(NOW), NOW)
    log = log_decision(None, decision, advisory=True, now=NOW)
    (event,) = status_events(ModelServerStatus(), ModelServerStatus(scaling=log))
    assert (event.reason, event.note[:18]) == ("Advised", "2 -> 4 replicas, W")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"signals":{"later":1},"policy":{},"current":1,"recalled":{}}']
)
def test_what_is_no_record_says_so(text):
    with pytest.raises(ValueError):  # noqa: PT011  JSON's own error is one, too
        from_record(text)
