"""How many replicas the load needs: `decide(signals, policy, current, memory, now) -> Decision`. No clock, no I/O.

    signals     what the replicas say (window.py)
    demand      per signal, in replicas; unknown ones counted as empty -> low, as full -> high (demand.py)
    tolerance   a signal within 10 % of what `current` replicas carry asks for `current`
    combine     the highest candidate: any signal scales up to low, all must agree to scale down to high
    stabilise   up: the lowest `low` of its window, and of 20 s at least while nobody waits
                down: the highest `high` of its window; after a whole window only
    step        up: at most max(2 * before, before + 4) in 15 s, none while a replica finds no node;
                down: one, 15 s apart, and only if the rest carries the load
    clamp       minReplicas .. maxReplicas, and never more than the budget allows for

With scaleToZero (`_wish`): idle for `idleAfter`, and the Service leads to the activator, which answers -> 0, whatever
the window. At 0 a held request wakes, and so does an activator that is silent for a minute. While no replica is ready,
more held requests ask for more. A schedule in force, maxReplicas, the budget and the step up bound this as ever.

The memory (memory.py) is read once into plain numbers (`Recalled`), and `judge` makes the decision from those: what the
status records of a decision is enough to make it again. Sources: Kubernetes HPA (replica_calculator.go, horizontal.go),
Knative (hold until the window has data), llm-d WVA (N-1).
"""

from dataclasses import dataclass, field, replace
from typing import Final

from octavo_operator.core.demand import (
    SIGNAL_FORECAST,
    SIGNAL_HELD,
    SIGNAL_ITL,
    SIGNAL_KV,
    SIGNAL_PREFILL,
    SIGNAL_QUEUE_WAIT,
    SIGNAL_TTFT,
    SIGNAL_WAITING,
    TOLERANCE,
    View,
    candidates,
    obstacle,
)
from octavo_operator.core.memory import (
    CALM_SECONDS,
    RATE_PERIOD_SECONDS,
    Change,
    Recalled,
    Recommendation,
    ScalerMemory,
    recall,
    remember,
    take_in,
)
from octavo_operator.core.names import Reason
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.rest import asleep, waits_for_activator, woken
from octavo_operator.core.window import Signals
from octavo_operator.core.wish import BLIND_SECONDS, Case, Wish

_REASONS: Final = {
    SIGNAL_KV: Reason.KV_ABOVE_TARGET,
    SIGNAL_WAITING: Reason.WAITING_ABOVE_TARGET,
    SIGNAL_PREFILL: Reason.PREFILL_ABOVE_SUPPLY,
    SIGNAL_TTFT: Reason.SLO_VIOLATED,
    SIGNAL_ITL: Reason.SLO_VIOLATED,
    SIGNAL_QUEUE_WAIT: Reason.SLO_VIOLATED,
    SIGNAL_FORECAST: Reason.LOAD_GROWS,
    SIGNAL_HELD: Reason.WOKEN,
}
HANDOVER_SECONDS: Final = 5.0
"""Time in which every node learns that the Service leads to the activator, before the last replica goes; the samples
that prove it idle are from after that, however seldom they come."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that one decision looks at: recorded in status, and enough to make it again."""

    signals: Signals
    policy: ScalingPolicy
    current: int
    recalled: Recalled

    @property
    def is_idle(self) -> bool:
        """Whether there is no reason for any replica, but for the way to the activator, which may be missing."""
        after = self.policy.idle_after
        return self.policy.may_sleep and after is not None and self.recalled.idle_for >= after


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many replicas, and why. Doing nothing has a reason too. `limiters` are all that held it back, in order."""

    replicas: int
    reason: str
    message: str
    limiters: tuple[str, ...]
    low: dict[str, int]
    high: dict[str, int]


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict with what it was made from, and the memory for the next one. `limited_by` is the limiter that won."""

    replicas: int
    reason: str
    message: str
    memory: ScalerMemory
    limited_by: str | None = None
    candidates: dict[str, int] = field(default_factory=dict)
    signals: Signals | None = None
    limiters: tuple[str, ...] = ()
    inputs: Inputs | None = None


def decide(signals: Signals, policy: ScalingPolicy, current: int, memory: ScalerMemory, now: float) -> Decision:
    """The number of replicas from now on. `current` is the number wanted until now, not the number that is ready."""
    memory = take_in(memory, signals, now)
    inputs = Inputs(signals, policy, current, recall(memory, signals, policy, now))
    verdict = judge(inputs)
    latest = Recommendation(now, max(verdict.low.values()), max(verdict.high.values()))
    change = Change(now, current, verdict.replicas) if verdict.replicas != current else None
    return Decision(
        replicas=verdict.replicas,
        reason=verdict.reason,
        message=verdict.message,
        memory=remember(memory, latest, change, inputs.recalled, policy),
        limited_by=verdict.limiters[-1] if verdict.limiters else None,
        candidates=verdict.low,
        signals=signals,
        limiters=verdict.limiters,
        inputs=inputs,
    )


def judge(inputs: Inputs) -> Verdict:
    """The decision itself, from recorded inputs as from live ones."""
    view = View(inputs.signals, inputs.policy, inputs.current, inputs.recalled)
    case = Case(view, candidates(view, unknown_full=False), candidates(view, unknown_full=True))
    wish = _wish(case, idle=inputs.is_idle)
    return Verdict(wish.replicas, wish.reason, wish.message, wish.limiters, case.low, case.high)


def _wish(case: Case, *, idle: bool) -> Wish:
    """No replica where there is nothing to do; otherwise what the load asks for."""
    signals, policy = case.view.signals, case.view.policy
    if case.current == 0 and policy.idle_after is not None:
        wish = asleep(case)
    elif idle and signals.activated is not None and signals.activated - signals.oldest >= HANDOVER_SECONDS:
        wish = Wish(0, Reason.IDLE, f"no request for {case.view.recalled.idle_for:.0f} s")
    else:
        wish = _stabilise(case)
    wish = _clamp(_step(wish, case), case)
    return waits_for_activator(case) if idle and wish.replicas == case.current > 0 else wish


def _stabilise(case: Case) -> Wish:
    """Up to what was needed throughout the up window, or down to the most needed within the down window."""
    signals, current = case.view.signals, case.current
    if signals.ready == 0:
        return woken(case) if case.at_least > current else case.keep(Reason.NO_READY_REPLICAS, "no replica is ready")
    if signals.known == 0:
        return _blind(case)
    if case.at_least > current:
        return _stabilise_up(case)
    if case.at_most < current:
        return _stabilise_down(case)
    if case.at_least < current:
        return case.keep(Reason.METRICS_MISSING, f"{signals.unknown} of {signals.ready} ready replicas gave no sample")
    return case.keep(Reason.AS_NEEDED, f"the load needs {current}, within {TOLERANCE:.0%}")


def _blind(case: Case) -> Wish:
    signals, blind = case.view.signals, case.view.recalled.blind
    if signals.unusable and blind >= BLIND_SECONDS:
        why = f"{signals.unusable} of {signals.ready} ready replicas answer, but nothing usable for {blind:.0f} s"
        return case.keep(Reason.METRICS_UNUSABLE, why)
    return case.keep(Reason.METRICS_MISSING, f"none of {signals.ready} ready replicas gave a sample")


def _stabilise_up(case: Case) -> Wish:
    window, recalled = case.view.policy.up_window, case.view.recalled
    seen = recalled.lowest if case.waits else recalled.lasting
    lowest = case.at_least if seen is None else min(seen, case.at_least)
    window = window if case.waits else max(window, CALM_SECONDS)
    if lowest <= case.current or recalled.observed < window:
        why = f"{case.at_least} needed, but not throughout the last {window:.0f} s"
        return case.keep(Reason.SCALE_UP_STABILIZED, why)
    leader = max(case.low, key=lambda signal: case.low[signal])
    return Wish(lowest, _REASONS[leader], f"{case.load} needs {lowest} replicas by {leader}")


def _stabilise_down(case: Case) -> Wish:
    recalled = case.view.recalled
    window = recalled.down_window
    highest = case.at_most if recalled.highest is None else max(recalled.highest, case.at_most)
    if recalled.observed < window:
        return case.keep(Reason.OBSERVING, f"observed for {recalled.observed:.0f} of {window:.0f} s since the start")
    if highest >= case.current:
        return case.keep(Reason.SCALE_DOWN_STABILIZED, f"up to {highest} needed within the last {window:.0f} s")
    return Wish(highest, Reason.LOAD_BELOW_TARGET, f"{case.load} needs {highest} replicas")


def _step(wish: Wish, case: Case) -> Wish:
    """How far to go now; to none all at once, since there is nothing that the rest could have to carry."""
    if wish.reason == Reason.IDLE:
        return wish
    if wish.replicas > case.current:
        return _step_up(wish, case)
    if wish.replicas < case.current:
        return _step_down(wish, case)
    return wish


def _step_up(wish: Wish, case: Case) -> Wish:
    base, homeless = case.view.recalled.rate_base, case.view.signals.unschedulable
    if homeless:
        why = f"{homeless} replicas find no node, so {case.current} kept"
        return wish.limited(case.current, Reason.NO_CAPACITY, why)
    before = case.current if base is None else min(case.current, base)
    most = max(2 * before, before + 4, case.current)
    if wish.replicas <= most:
        return wish
    return wish.limited(most, Reason.SCALE_UP_LIMIT, f"at most {most} within {RATE_PERIOD_SECONDS:.0f} s")


def _step_down(wish: Wish, case: Case) -> Wish:
    changed_ago = case.view.recalled.changed_ago
    if changed_ago is not None:
        return case.keep(Reason.RECENTLY_SCALED, f"scaled {changed_ago:.0f} s ago")
    why_not = obstacle(case.view, min(case.view.signals.ready, case.current - 1))
    if why_not is not None:
        return case.keep(Reason.WOULD_NOT_FIT, why_not)
    return replace(wish, replicas=case.current - 1, message=f"{wish.message}, one step at a time")


def _clamp(wish: Wish, case: Case) -> Wish:
    policy = case.view.policy
    if wish.replicas > policy.max_replicas:
        wish = _bounded(wish, case, policy.max_replicas, Reason.TOO_MANY_REPLICAS, "maxReplicas is")
    elif wish.replicas < policy.min_replicas and not (wish.replicas == 0 and policy.may_sleep):
        wish = _raised(wish, case)
    if policy.affordable is not None and wish.replicas > policy.affordable:
        wish = _bounded(wish, case, policy.affordable, Reason.BUDGET_EXHAUSTED, "the budget allows for")
    return wish


def _raised(wish: Wish, case: Case) -> Wish:
    policy = case.view.policy
    if policy.scheduled_by is None:
        return _bounded(wish, case, policy.min_replicas, Reason.TOO_FEW_REPLICAS, "minReplicas is")
    words = f"schedule {policy.scheduled_by} asks for"
    return _bounded(wish, case, policy.min_replicas, Reason.SCHEDULED, words)


def _bounded(wish: Wish, case: Case, bound: int, by: str, words: str) -> Wish:
    """The bound instead of the wish. Where it is the bound that moves the number, it is also the reason."""
    turns = (wish.replicas - case.current) * (bound - case.current) < 0
    reason = by if turns or wish.replicas == case.current else wish.reason
    return replace(wish.limited(bound, by, f"{words} {bound}"), reason=reason)
