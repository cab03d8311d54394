"""What the autoscaler remembers from one decision to the next, and what one decision takes from it.

A new memory, with the changes read from status, is a correct one: it only waits longer. The clock may jump: what lies
in the future is moved to now, and after a gap the windows begin anew, because nobody saw what was needed meanwhile.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from octavo_operator.core.learn import NOTHING_LEARNED, Learned, TrendPoint, follow, growth, learn
from octavo_operator.core.pace import LATENCY_SECONDS
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.window import Signals

RATE_PERIOD_SECONDS: Final = 15.0
GAP_SECONDS: Final = 120.0
"""Twice the longest period of decisions that the settings allow."""
STARTUPS_TO_WAIT: Final = 2
"""The down window is at least so many start-ups: what is taken away too early is missing for that long."""
CALM_SECONDS: Final = 20.0
"""While nobody waits, more replicas must have been needed for so long: peaks of the means are chance."""
_GRAIN_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What was needed at one moment, with unknown replicas taken as empty and as full."""

    time: float
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the number of replicas."""

    time: float
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class ScalerMemory:
    """`since`: from when on everything was seen. `blind_since`: from when on no ready replica gave a sample.

    `active_at`: when there was something to do last, or it was not known. `deaf_since`: from when on the activator
    was not there, or gave no answer. `capacity`: KV tokens of a replica, as the last of them told.
    """

    since: float
    recommendations: tuple[Recommendation, ...] = ()
    changes: tuple[Change, ...] = ()
    learned: Learned = NOTHING_LEARNED
    trend: tuple[TrendPoint, ...] = ()
    blind_since: float | None = None
    seen: float | None = None
    active_at: float | None = None
    deaf_since: float | None = None
    capacity: float | None = None


@dataclass(frozen=True, slots=True)
class Recalled:
    """What one decision takes from the memory: plain numbers, so that a decision can be recorded and made again.

    `lowest` and `highest` were needed within the up and the down window, None where those are empty, and `lasting` was
    needed throughout the last 20 s; `rate_base` is the least number of replicas before any increase of the last 15 s,
    `changed_ago` the seconds since a change in those. `idle_for`, `deaf` and `capacity` are told where there may be no
    replica.
    """

    observed: float
    lowest: int | None
    highest: int | None
    down_window: float
    lasting: int | None = None
    rate_base: int | None = None
    changed_ago: float | None = None
    added_ago: float | None = None
    blind: float = 0.0
    kv_tokens: float | None = None
    prompt_rate: float | None = None
    proven_rate: float | None = None
    growth: float = 1.0
    idle_for: float = 0.0
    deaf: float = 0.0
    capacity: float | None = None


def take_in(memory: ScalerMemory, signals: Signals, now: float) -> ScalerMemory:
    """The memory at `now`: the clock's jumps mended, the new signals learned from."""
    memory = _mended(memory, now)
    blind = signals.ready > 0 and signals.known == 0
    return replace(
        memory,
        learned=learn(memory.learned, signals, now),
        trend=follow(memory.trend, signals, now),
        blind_since=(memory.blind_since if memory.blind_since is not None else now) if blind else None,
        seen=now,
        active_at=_active_at(memory, signals, now),
        deaf_since=(memory.deaf_since if memory.deaf_since is not None else now) if signals.deaf else None,
        capacity=signals.kv_capacity / signals.known if signals.known else memory.capacity,
    )


def _active_at(memory: ScalerMemory, signals: Signals, now: float) -> float:
    """What is unknown counts as active. A replica that was active and is gone counts as well."""
    if signals.quiet_for is None or signals.held:
        return now
    before = memory.since if memory.active_at is None else memory.active_at
    return max(before, now - signals.quiet_for)


def _mended(memory: ScalerMemory, now: float) -> ScalerMemory:
    seen = memory.seen if memory.seen is not None else now
    if -_GRAIN_SECONDS < now - seen <= GAP_SECONDS and memory.since <= now:
        return memory
    return replace(
        memory,
        since=now,
        recommendations=(),
        changes=tuple(replace(change, time=min(change.time, now)) for change in memory.changes),
        learned=replace(memory.learned, time=min(memory.learned.time, now)),
        trend=(),
        blind_since=None,
        active_at=now,
        deaf_since=None,
    )


def recall(memory: ScalerMemory, signals: Signals, policy: ScalingPolicy, now: float) -> Recalled:
    """What the decision at `now` needs to know of the past."""
    down_window = _down_window(policy, signals)
    recent = [change for change in memory.changes if now - change.time < RATE_PERIOD_SECONDS]
    added = [change for change in memory.changes if change.after > change.before]
    rests = policy.idle_after is not None
    return Recalled(
        observed=now - memory.since,
        lowest=min((item.low for item in _within(memory, now, policy.up_window)), default=None),
        highest=max((item.high for item in _within(memory, now, down_window)), default=None),
        down_window=down_window,
        lasting=min((item.low for item in _within(memory, now, CALM_SECONDS)), default=None),
        rate_base=min((change.before for change in recent if change.after > change.before), default=None),
        changed_ago=now - recent[-1].time if recent else None,
        added_ago=now - added[-1].time if added else None,
        blind=_ago(memory.blind_since, now),
        kv_tokens=memory.learned.kv_tokens,
        prompt_rate=memory.learned.prompt_rate,
        proven_rate=memory.learned.proven_rate if memory.learned.prompt_rate is None else None,
        growth=growth(memory.trend, signals.startup_p90),
        idle_for=_ago(memory.active_at, now) if rests else 0.0,
        deaf=_ago(memory.deaf_since, now) if rests else 0.0,
        capacity=memory.capacity if rests else None,
    )


def _ago(time: float | None, now: float) -> float:
    return now - time if time is not None else 0.0


def _down_window(policy: ScalingPolicy, signals: Signals) -> float:
    return max(policy.down_window, STARTUPS_TO_WAIT * (signals.startup_p90 or 0.0))


def _within(memory: ScalerMemory, now: float, seconds: float) -> list[Recommendation]:
    """What was needed at any moment of that time before now: each recommendation holds until the next one."""
    return _since(memory.recommendations, now - seconds) if seconds > 0 else []


def _since(recommendations: Iterable[Recommendation], start: float) -> list[Recommendation]:
    """The recommendation in force at `start`, and all later ones."""
    listed = list(recommendations)
    earlier = [item for item in listed if item.time <= start]
    return earlier[-1:] + [item for item in listed if item.time > start]


def remember(
    memory: ScalerMemory, latest: Recommendation, change: Change | None, recalled: Recalled, policy: ScalingPolicy
) -> ScalerMemory:
    """One recommendation per second at most, none older than the longer window; changes while they matter."""
    now = latest.time
    kept = _since(memory.recommendations, now - max(policy.up_window, CALM_SECONDS, recalled.down_window))
    if kept and now - kept[-1].time < _GRAIN_SECONDS:
        last = kept.pop()
        latest = Recommendation(last.time, min(last.low, latest.low), max(last.high, latest.high))
    changes = tuple(item for item in memory.changes if now - item.time < LATENCY_SECONDS)
    return replace(
        memory,
        recommendations=(*kept, latest),
        changes=(*changes, change) if change is not None else changes,
    )
