from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from octavo_operator.core.autoscale import decide
from octavo_operator.core.errors import SpecError
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.names import Reason
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.schedules import Cron, Daily, Floor, floor_at
from octavo_operator.core.spec import parse_spec
from octavo_operator.core.window import Signals

BERLIN = "Europe/Berlin"
OFFICE = Daily("office", frozenset(range(5)), 8 * 60, 20 * 60, BERLIN, 4)
NIGHT = Daily("night", frozenset({4}), 22 * 60, 6 * 60, BERLIN, 2)
SATURDAY = Daily("saturday", frozenset({5}), 0, 0, BERLIN, 3)


def at(text: str, zone: str = BERLIN) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("schedule", "moment", "expected"),
    [
        (OFFICE, "2026-03-02T08:00", True),
        (OFFICE, "2026-03-02T07:59", False),
        (OFFICE, "2026-03-02T20:00", False),
        (OFFICE, "2026-03-07T12:00", False),
        (NIGHT, "2026-03-06T23:00", True),
        (NIGHT, "2026-03-07T05:59", True),
        (NIGHT, "2026-03-07T06:00", False),
        (NIGHT, "2026-03-06T05:00", False),
        (SATURDAY, "2026-03-07T00:00", True),
        (SATURDAY, "2026-03-07T23:59", True),
        (SATURDAY, "2026-03-08T00:00", False),
        (OFFICE, "2026-07-06T08:00", True),
        (OFFICE, "2026-07-06T07:59", False),
    ],
)
def test_local_time_decides_in_summer_as_in_winter(schedule, moment, expected):
    assert schedule.in_force(at(moment)) is expected


def test_a_change_of_the_clocks_skips_no_schedule():
    """On 29 March 2026 the clocks in Berlin go from 2:00 to 3:00: what begins at 2:30 is in force from 3:00."""
    early = Daily("early", frozenset({6}), 2 * 60 + 30, 4 * 60, BERLIN, 2)
    change = at("2026-03-29T01:59:59") + 1
    assert (early.in_force(change - 1), early.in_force(change)) == (False, True)


def test_the_highest_floor_counts():
    later = Daily("rush", frozenset(range(7)), 9 * 60, 10 * 60, BERLIN, 6)
    assert floor_at([OFFICE, later], at("2026-03-02T09:30")) == Floor(6, "rush")
    assert floor_at([OFFICE, later], at("2026-03-02T11:00")) == Floor(4, "office")
    assert floor_at([OFFICE, later], at("2026-03-02T23:00")) is None


@pytest.mark.parametrize(
    ("start", "end", "moment", "expected"),
    [
        ("45 7 * * 1-5", "0 20 * * MON-FRI", "2026-03-02T07:44", False),
        ("45 7 * * 1-5", "0 20 * * MON-FRI", "2026-03-02T07:45", True),
        ("45 7 * * 1-5", "0 20 * * MON-FRI", "2026-03-02T19:59", True),
        ("45 7 * * 1-5", "0 20 * * MON-FRI", "2026-03-02T20:00", False),
        ("45 7 * * 1-5", "0 20 * * MON-FRI", "2026-03-07T12:00", False),  # Saturday
        ("0 22 * * 5", "0 6 * * 1", "2026-03-08T12:00", True),  # from Friday night through the weekend
        ("0 0 1 * *", "0 0 3 * *", "2026-04-02T23:59", True),
        ("0 0 1 * *", "0 0 3 * *", "2026-04-03T00:00", False),
        ("0 9 * * *", "0 9 * * *", "2026-03-02T09:00", False),  # the end wins
    ],
)
def test_cron_expressions_are_in_force_between_their_moments(start, end, moment, expected):
    assert Cron("c", start, end, BERLIN, 2).in_force(at(moment)) is expected


def test_a_change_of_the_clocks_skips_no_cron_expression():
    early = Cron("early", "30 2 * * 0", "0 4 * * 0", BERLIN, 2)
    assert early.in_force(at("2026-03-29T03:00")), "02:30 did not exist on that day"
    assert not early.in_force(at("2026-03-29T04:00"))


def test_a_schedule_may_be_written_as_cron_expressions(raw_spec):
    item = {"name": "office", "cron": {"start": "0 8 * * 1", "end": "0 20 * * 1"}, "timeZone": BERLIN, "minReplicas": 4}
    spec = parse_spec(raw_spec(autoscaling=autoscaling() | {"schedules": [item]}))
    policy = ScalingPolicy.of(spec, spec.autoscaling, at("2026-03-02T12:00"))
    assert (policy.min_replicas, policy.scheduled_by) == (4, "office")


def autoscaling(**schedule):
    item = {"name": "office", "days": ["Mon"], "from": "08:00", "to": "20:00", "timeZone": BERLIN, "minReplicas": 4}
    return {"maxReplicas": 9, "targets": {"waitingPerReplica": 3}, "schedules": [item | schedule]}


def test_a_schedule_raises_the_minimum_and_is_the_reason(raw_spec):
    spec = parse_spec(raw_spec(autoscaling=autoscaling()))
    now = at("2026-03-02T12:00")
    policy = ScalingPolicy.of(spec, spec.autoscaling, now)
    decision = decide(Signals(2, 0, kv_capacity=2000.0), policy, 2, ScalerMemory(now), now)
    assert (decision.replicas, decision.reason, decision.limited_by) == (4, Reason.SCHEDULED, Reason.SCHEDULED)
    assert decision.message.endswith("schedule office asks for 4")
    evening = ScalingPolicy.of(spec, spec.autoscaling, at("2026-03-02T21:00"))
    assert (evening.min_replicas, evening.scheduled_by) == (1, None)


def test_a_schedule_below_the_minimum_changes_nothing(raw_spec):
    spec = parse_spec(raw_spec(autoscaling=autoscaling() | {"minReplicas": 5}))
    policy = ScalingPolicy.of(spec, spec.autoscaling, at("2026-03-02T12:00"))
    assert (policy.min_replicas, policy.scheduled_by) == (5, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"timeZone": "Mars/Olympus"}, "timeZone Mars/Olympus is not known"),
        ({"timeZone": "../etc/passwd"}, "is not known"),
        ({"from": "24:00"}, "from"),
        ({"days": ["Montag"]}, "days"),
        ({"to": None}, "set from and to, or cron"),
        ({"cron": {"start": "0 8 * * *", "end": "0 9 * * *"}}, "set from and to, or cron"),
        (
            {"cron": {"start": "0 25 * * *", "end": "0 9 * * *"}},
            "start '0 25 \\* \\* \\*' is no cron expression: Bad hour",
        ),
        ({"cron": {"start": "@daily", "end": "0 9 * * *"}}, "cron.start"),
    ],
)
def test_what_is_no_schedule_is_refused(raw_spec, changes, words):
    with pytest.raises(SpecError, match=words):
        parse_spec(raw_spec(autoscaling=autoscaling(**changes)))
