"""How many replicas the load needs: `decide(signals, policy, current, memory, now) -> Decision`. No clock, no I/O.

    demand      per signal, in replicas: kv_used / (capacity per replica * target), waiting / target
    tolerance   a signal within 10 % of what `current` replicas carry asks for `current`      (relative to current: HPA)
    missing     every unknown replica counted as empty -> low, as full -> high; up only to low, down only to high
    combine     the highest candidate: any signal scales up, all must agree to scale down
    stabilise   up: the lowest `low` of its window; down: the highest `high` of its window; after a whole window only
    step        up: at most max(2 * before, before + 4) in 15 s; down: one, 15 s apart, and only if the rest carries it
    clamp       minReplicas .. maxReplicas

Sources: Kubernetes HPA (replica_calculator.go, horizontal.go), Knative (hold until the window has data), llm-d WVA
(N-1).
"""

import math
from dataclasses import dataclass, field, replace
from typing import Final

from octavo_operator.core.names import Reason
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.spec_scaling import Autoscaling
from octavo_operator.core.window import Signals

TOLERANCE: Final = 0.1
RATE_PERIOD_SECONDS: Final = 15.0
DEFAULT_KV_TARGET: Final = 0.8
"""For the N-1 check where only waitingPerReplica is a target."""
_GRAIN_SECONDS: Final = 1.0

SIGNAL_KV: Final = "kvUtilizationPercent"
SIGNAL_WAITING: Final = "waitingPerReplica"


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """What the spec asks for, resolved. `max_num_seqs` is what one replica runs at once, where the spec says so."""

    min_replicas: int
    max_replicas: int
    kv_target: float | None
    waiting_target: int | None
    up_window: float
    down_window: float
    max_num_seqs: int | None = None

    @classmethod
    def of(cls, spec: ModelServerSpec, autoscaling: Autoscaling) -> "ScalingPolicy":
        """The policy of a spec."""
        percent = autoscaling.targets.kv_utilization_percent
        return cls(
            min_replicas=autoscaling.min_replicas,
            max_replicas=autoscaling.max_replicas,
            kv_target=percent / 100 if percent else None,
            waiting_target=autoscaling.targets.waiting_per_replica,
            up_window=autoscaling.behavior.scale_up.stabilization_window,
            down_window=autoscaling.behavior.scale_down.stabilization_window,
            max_num_seqs=spec.runtime.max_num_seqs,
        )


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
    """What `decide` remembers. A new one, with the changes read from status, is a correct one: it only waits longer."""

    since: float
    recommendations: tuple[Recommendation, ...] = ()
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas, and why. Doing nothing has a reason too."""

    replicas: int
    reason: str
    message: str
    memory: ScalerMemory
    limited_by: str | None = None
    candidates: dict[str, int] = field(default_factory=dict)
    signals: Signals | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """Everything that one decision looks at. `low` and `high` are the candidates per signal."""

    signals: Signals
    policy: ScalingPolicy
    current: int
    memory: ScalerMemory
    now: float
    low: dict[str, int]
    high: dict[str, int]

    @property
    def at_least(self) -> int:
        """Replicas needed now if the unknown ones are idle."""
        return max(self.low.values())

    @property
    def at_most(self) -> int:
        """Replicas needed now if the unknown ones are full."""
        return max(self.high.values())

    @property
    def observed(self) -> float:
        return self.now - self.memory.since

    @property
    def load(self) -> str:
        signals = self.signals
        return f"KV {signals.kv_utilization:.0%}, {signals.waiting:.0f} waiting on {signals.ready} ready replicas"

    def within(self, seconds: float) -> list[Recommendation]:
        """What was needed at any moment of that time: each recommendation holds until the next one."""
        return _since(self.memory.recommendations, self.now - seconds)

    def keep(self, reason: str, why: str) -> "_Wish":
        return _Wish(self.current, reason, f"{why}: {self.current} kept ({self.load})")


@dataclass(frozen=True, slots=True)
class _Wish:
    """A number on its way through the stages."""

    replicas: int
    reason: str
    message: str
    limited_by: str | None = None


def decide(signals: Signals, policy: ScalingPolicy, current: int, memory: ScalerMemory, now: float) -> Decision:
    """The number of replicas from now on. `current` is the number wanted until now, not the number that is ready."""
    low = _candidates(signals, policy, current, unknown_full=False)
    high = _candidates(signals, policy, current, unknown_full=True)
    memory = _remember(memory, Recommendation(now, max(low.values()), max(high.values())), policy, now)
    case = _Case(signals, policy, current, memory, now, low, high)
    wish = _clamp(_step(_stabilise(case), case), case)
    if wish.replicas != current:
        memory = replace(memory, changes=(*memory.changes, Change(now, current, wish.replicas)))
    return Decision(wish.replicas, wish.reason, wish.message, memory, wish.limited_by, low, signals)


def _candidates(signals: Signals, policy: ScalingPolicy, current: int, *, unknown_full: bool) -> dict[str, int]:
    """What each signal alone asks for; without a single sample, what is there."""
    extra = signals.unknown if unknown_full else 0
    demands: dict[str, float] = {}
    if policy.kv_target is not None:
        demands[SIGNAL_KV] = (signals.kv_utilization * signals.known + extra) / policy.kv_target
    if policy.waiting_target is not None:
        demands[SIGNAL_WAITING] = signals.waiting / policy.waiting_target + extra
    if signals.known == 0:
        return dict.fromkeys(demands, current)
    return {signal: _tolerant(demand, current) for signal, demand in demands.items()}


def _tolerant(demand: float, current: int) -> int:
    if current and abs(demand / current - 1) <= TOLERANCE:
        return current
    return max(1, math.ceil(demand - 1e-9))


def _remember(memory: ScalerMemory, latest: Recommendation, policy: ScalingPolicy, now: float) -> ScalerMemory:
    """One recommendation per second at most, none older than the longer window; changes while they limit a rate."""
    horizon = now - max(policy.up_window, policy.down_window)
    kept = _since(memory.recommendations, horizon)
    if kept and latest.time - kept[-1].time < _GRAIN_SECONDS:
        last = kept.pop()
        latest = Recommendation(last.time, min(last.low, latest.low), max(last.high, latest.high))
    changes = tuple(change for change in memory.changes if now - change.time < RATE_PERIOD_SECONDS)
    return replace(memory, recommendations=(*kept, latest), changes=changes)


def _since(recommendations: tuple[Recommendation, ...], start: float) -> list[Recommendation]:
    """The recommendation in force at `start`, and all later ones."""
    earlier = [item for item in recommendations if item.time <= start]
    return earlier[-1:] + [item for item in recommendations if item.time > start]


def _stabilise(case: _Case) -> _Wish:
    """Up to what was needed throughout the up window, or down to the most needed within the down window."""
    signals, current = case.signals, case.current
    if signals.ready == 0:
        return case.keep(Reason.NO_READY_REPLICAS, "no replica is ready")
    if signals.known == 0:
        return case.keep(Reason.METRICS_MISSING, f"none of {signals.ready} ready replicas gave a sample")
    if case.at_least > current:
        return _stabilise_up(case)
    if case.at_most < current:
        return _stabilise_down(case)
    if case.at_least < current:
        return case.keep(Reason.METRICS_MISSING, f"{signals.unknown} of {signals.ready} ready replicas gave no sample")
    return case.keep(Reason.AS_NEEDED, f"the load needs {current}, within {TOLERANCE:.0%}")


def _stabilise_up(case: _Case) -> _Wish:
    window = case.policy.up_window
    lowest = min(item.low for item in case.within(window))
    if lowest <= case.current or case.observed < window:
        why = f"{case.at_least} needed, but not throughout the last {window:.0f} s"
        return case.keep(Reason.SCALE_UP_STABILIZED, why)
    leader = max(case.low, key=lambda signal: case.low[signal])
    reason = Reason.KV_ABOVE_TARGET if leader == SIGNAL_KV else Reason.WAITING_ABOVE_TARGET
    return _Wish(lowest, reason, f"{case.load} needs {lowest} replicas by {leader}")


def _stabilise_down(case: _Case) -> _Wish:
    window = case.policy.down_window
    highest = max(item.high for item in case.within(window))
    if case.observed < window:
        return case.keep(Reason.OBSERVING, f"observed for {case.observed:.0f} of {window:.0f} s since the start")
    if highest >= case.current:
        return case.keep(Reason.SCALE_DOWN_STABILIZED, f"up to {highest} needed within the last {window:.0f} s")
    return _Wish(highest, Reason.LOAD_BELOW_TARGET, f"{case.load} needs {highest} replicas")


def _step(wish: _Wish, case: _Case) -> _Wish:
    """How far to go now."""
    if wish.replicas > case.current:
        return _step_up(wish, case)
    if wish.replicas < case.current:
        return _step_down(wish, case)
    return wish


def _step_up(wish: _Wish, case: _Case) -> _Wish:
    changes = case.memory.changes
    before = min([case.current, *(change.before for change in changes if change.after > change.before)])
    most = max(2 * before, before + 4, case.current)
    if wish.replicas <= most:
        return wish
    message = f"{wish.message}; at most {most} within {RATE_PERIOD_SECONDS:.0f} s"
    return replace(wish, replicas=most, message=message, limited_by=Reason.SCALE_UP_LIMIT)


def _step_down(wish: _Wish, case: _Case) -> _Wish:
    if case.memory.changes:
        return case.keep(Reason.RECENTLY_SCALED, f"scaled {case.now - case.memory.changes[-1].time:.0f} s ago")
    survivors = min(case.signals.ready, case.current - 1)
    obstacle = _obstacle(case, survivors)
    if obstacle is not None:
        return case.keep(Reason.WOULD_NOT_FIT, obstacle)
    return replace(wish, replicas=case.current - 1, message=f"{wish.message}, one step at a time")


def _obstacle(case: _Case, survivors: int) -> str | None:
    """Why `survivors` replicas would not carry the load, or None when they would. Unknown replicas count as full."""
    signals, limit = case.signals, case.policy.max_num_seqs
    target = case.policy.kv_target or DEFAULT_KV_TARGET
    capacity = signals.kv_capacity / signals.known
    used = signals.kv_used + signals.unknown * capacity
    if used > survivors * capacity * target:
        return f"{used:.0f} KV tokens in use do not fit into {survivors} replicas at {target:.0%}"
    requests = signals.running + signals.waiting
    if limit is not None and requests > survivors * limit:
        return f"{requests:.0f} requests do not fit into {survivors} replicas that run {limit} each"
    return None


def _clamp(wish: _Wish, case: _Case) -> _Wish:
    policy = case.policy
    if wish.replicas > policy.max_replicas:
        return _limited(wish, case, policy.max_replicas, Reason.TOO_MANY_REPLICAS, "maxReplicas")
    if wish.replicas < policy.min_replicas:
        return _limited(wish, case, policy.min_replicas, Reason.TOO_FEW_REPLICAS, "minReplicas")
    return wish


def _limited(wish: _Wish, case: _Case, bound: int, by: str, field_name: str) -> _Wish:
    """The bound instead of the wish. Where it is the bound that moves the number, it is also the reason."""
    reason = by if wish.replicas == case.current else wish.reason
    return _Wish(bound, reason, f"{wish.message}; {field_name} is {bound}", by)
