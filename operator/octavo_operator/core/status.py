"""(spec, observed, decision, previous, now) -> the whole status. Every condition has a reason, numbers and a
generation.

    condition        True when                                          Unknown when
    ─────────        ─────────                                          ────────────
    Ready            see conditions.py
    Available        at least one replica serves, of any revision
    Progressing      replicas start, are replaced, drain or go
    ScalingActive    the load decides the number of replicas            nothing was seen yet
    ScalingLimited   the load asks for another number than is allowed   nothing was seen yet
    MetricsFresh     every ready replica gave a sample                  no replica is ready
    CapacityAvailable, SLOMet, BudgetOK, ModelCached, Routed: see findings.py
    Contended        something else scales the Deployment; absent otherwise

Load is rounded: a status that changes with every scrape would be a write every few seconds per ModelServer.
"""

from fractions import Fraction
from typing import Final

from octavo_operator.core import names
from octavo_operator.core.autoscale import Decision
from octavo_operator.core.capacity import describe_capacity
from octavo_operator.core.clock import to_timestamp
from octavo_operator.core.conditions import Facts, Verdict, in_place, judge
from octavo_operator.core.cost import describe_cost
from octavo_operator.core.findings import Finding, budget_ok, capacity_available, led_here, model_cached, slo_met
from octavo_operator.core.manifest import Owner
from octavo_operator.core.names import Condition, Reason
from octavo_operator.core.observed import DeploymentView
from octavo_operator.core.render import served_name, url
from octavo_operator.core.rollout import is_rolling
from octavo_operator.core.scaling_log import log_decision
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.startup import describe_startup
from octavo_operator.core.status_model import (
    ConditionStatus,
    Load,
    ModelServerStatus,
    ModelStatus,
    Scaling,
)
from octavo_operator.core.units import two_digits
from octavo_operator.core.window import Signals

NOISE_PERIOD_SECONDS: Final = 10.0
"""Load and its wording are written at most this often; everything else at once."""

_MESSAGE_LIMIT: Final = 1024
_BLIND: Final = (
    Reason.METRICS_MISSING,
    Reason.METRICS_UNUSABLE,
    Reason.NO_READY_REPLICAS,
    Reason.ACTIVATOR_SILENT,
)
_NOISY: Final = frozenset(
    {Condition.SCALING_ACTIVE, Condition.SCALING_LIMITED, Condition.METRICS_FRESH, Condition.BUDGET_OK}
)


def compute_status(
    owner: Owner,
    spec: ModelServerSpec | None,
    facts: Facts,
    *,
    signals: Signals,
    decision: Decision | None,
    now: float,
    price: Fraction | None = None,
) -> ModelServerStatus:
    """The status of a ModelServer; `spec` is None where it did not parse, `decision` where nothing was decided.

    `price` is that of one replica for an hour, None where nobody has said.
    """
    verdict = judge(facts)
    findings = [
        *_summary(facts, verdict),
        _available(facts),
        _progressing(facts, verdict),
        *_scaling(facts, spec, signals, decision),
        _metrics_fresh(facts, signals),
        capacity_available(facts),
        *slo_met(spec, signals),
        *budget_ok(spec, decision),
        *model_cached(spec, facts, owner.name),
        *led_here(facts),
        *_contended(facts),
    ]
    deployment = facts.deployment
    return ModelServerStatus(
        observed_generation=facts.generation,
        conditions=tuple(_settle(finding, facts, now) for finding in findings),
        replicas=deployment.replicas if deployment else 0,
        ready_replicas=deployment.available if deployment else 0,
        updated_replicas=deployment.updated if deployment else 0,
        desired_replicas=facts.desired,
        selector=",".join(f"{key}={value}" for key, value in names.selector(owner.name).items()),
        url=url(owner, spec.networking.service.port) if spec else facts.previous.url or url(owner),
        model=ModelStatus(served_name=served_name(spec, owner.name)) if spec else facts.previous.model,
        load=_load(facts, signals),
        startup=describe_startup(facts.pods, facts.progress, facts.previous.startup, facts.phases),
        capacity=describe_capacity(decision, signals, facts.previous.capacity),
        cost=describe_cost(price, deployment.replicas if deployment else 0, signals, facts.previous.cost),
        scaling=_log(facts, spec, decision, now),
    )


def worth_writing(previous: ModelServerStatus, new: ModelServerStatus, since_last_write: float) -> bool:
    """Whether the difference is news, or noise whose time has come."""
    if previous == new:
        return False
    return since_last_write >= NOISE_PERIOD_SECONDS or _without_noise(previous) != _without_noise(new)


def _without_noise(status: ModelServerStatus) -> ModelServerStatus:
    quiet = tuple(
        condition.model_copy(update={"reason": "", "message": ""}) if condition.type in _NOISY else condition
        for condition in status.conditions
        if condition.type != Condition.SLO_MET  # a latency at its limit is on either side of it, look by look
    )
    startup = status.startup and status.startup.model_copy(update={"eta_seconds": None})
    noise = {"load": None, "capacity": None, "cost": None}
    return status.model_copy(update=noise | {"startup": startup, "conditions": quiet})


def _summary(facts: Facts, verdict: Verdict) -> list[Finding]:
    findings = [Finding(Condition.READY, verdict.ready, verdict.reason, verdict.message)]
    if verdict.stalled:
        findings.append(Finding(Condition.STALLED, True, verdict.reason, verdict.message))
    elif not verdict.ready and not facts.paused:
        findings.append(Finding(Condition.RECONCILING, True, verdict.reason, verdict.message))
    return findings


def _available(facts: Facts) -> Finding:
    ready = facts.deployment.available if facts.deployment else 0
    reason = Reason.REPLICAS_AVAILABLE if ready else Reason.NO_REPLICAS_AVAILABLE
    return Finding(Condition.AVAILABLE, ready > 0, reason, f"{ready} replicas serve")


def _progressing(facts: Facts, verdict: Verdict) -> Finding:
    if facts.paused:
        message = "spec.paused is true: the children are left as they are"
        return Finding(Condition.PROGRESSING, False, Reason.PAUSED, message)
    if verdict.stalled or facts.deployment is None:
        return Finding(Condition.PROGRESSING, not verdict.stalled, verdict.reason, verdict.message)
    movement = _movement(facts, facts.deployment)
    if movement is not None:
        return Finding(Condition.PROGRESSING, True, *movement)
    message = f"{facts.deployment.available} of {facts.desired} replicas serve"
    return Finding(Condition.PROGRESSING, False, Reason.SETTLED, message)


def _movement(facts: Facts, deployment: DeploymentView) -> tuple[str, str] | None:
    """What the replicas are doing, or None when they are where they should be."""
    if deployment.in_place and is_rolling(deployment, facts.pods):
        return Reason.REPLACING_IN_PLACE, f"{deployment.updated} of {facts.desired} replicas updated{in_place(facts)}"
    if deployment.replicas > deployment.updated:
        return Reason.ROLLING_OUT, f"{deployment.updated} of {facts.desired} replicas updated"
    if deployment.available < facts.desired:
        return Reason.SCALING_UP, f"{deployment.available} of {facts.desired} replicas serve"
    if deployment.replicas > facts.desired:
        return Reason.SCALING_DOWN, f"{deployment.replicas} replicas, {facts.desired} wanted"
    if facts.draining:
        return Reason.DRAINING, f"{facts.draining} replicas finish their answers"
    return None


def _scaling(
    facts: Facts, spec: ModelServerSpec | None, signals: Signals, decision: Decision | None
) -> tuple[Finding, Finding]:
    active, limited = Condition.SCALING_ACTIVE, Condition.SCALING_LIMITED
    if spec is None or facts.paused or spec.autoscaling is None:
        reason, message = _why_fixed(facts, spec)
        return Finding(active, False, reason, message), Finding(limited, False, reason, message)
    if spec.autoscaling.mode == "Off":
        message = f"autoscaling.mode is Off: {facts.desired} replicas"
        return Finding(active, False, Reason.OFF, message), Finding(limited, False, Reason.OFF, message)
    if decision is None or signals.too_early:
        return _as_before(facts, active), _as_before(facts, limited)
    works = decision.reason not in _BLIND
    by = decision.limited_by
    if spec.autoscaling.mode == "Advisory":
        advice = f"advises {decision.replicas} replicas, {decision.reason}: {decision.message}"
        why = Reason.ADVISORY if works else decision.reason
        active_finding = Finding(active, False, why, advice)
    else:
        active_finding = Finding(active, works, decision.reason, decision.message)
    return (
        active_finding,
        Finding(limited, by is not None, by or Reason.WITHIN_RANGE, decision.message if by else "no limit was met"),
    )


def _why_fixed(facts: Facts, spec: ModelServerSpec | None) -> tuple[str, str]:
    if spec is None:
        return Reason.INVALID_SPEC, "the spec does not parse"
    if facts.paused:
        return Reason.PAUSED, f"spec.paused is true: {facts.desired} replicas kept"
    return Reason.FIXED_REPLICAS, f"no autoscaling: {facts.desired} replicas"


def _as_before(facts: Facts, kind: str) -> Finding:
    previous = facts.previous.condition(kind)
    if previous is None or previous.reason in names.NOT_SCALED:
        return Finding(kind, None, Reason.OBSERVING, "no sample yet")
    status = {"True": True, "False": False}.get(previous.status)
    return Finding(kind, status, previous.reason, previous.message)


def _metrics_fresh(facts: Facts, signals: Signals) -> Finding:
    kind = Condition.METRICS_FRESH
    if signals.ready == 0:
        return Finding(kind, None, Reason.NO_READY_REPLICAS, "no replica is ready")
    if signals.silent:
        message, trouble = f"{signals.silent} of {signals.ready} ready replicas gave no sample", facts.trouble
        if trouble is not None:
            return Finding(kind, False, trouble.reason, f"{message}: {trouble.words}")
        return Finding(kind, False, Reason.METRICS_MISSING, message)
    if signals.unknown and facts.previous.condition(kind) is not None:
        return _as_before(facts, kind)
    known = f"{signals.known} of {signals.ready} ready replicas gave a sample"
    return Finding(kind, True if signals.known else None, Reason.SCRAPED, known)


def _contended(facts: Facts) -> list[Finding]:
    contest = facts.contest
    if not contest.goes_on:
        return []
    message = (
        f"something else has set the Deployment's replicas again and again, to {contest.last} last; they were put back "
        f"to {facts.desired}: let it scale the ModelServer, with spec.replicas, or remove it"
    )
    return [Finding(Condition.CONTENDED, True, Reason.REPLICAS_CHANGED, message)]


def _settle(finding: Finding, facts: Facts, now: float) -> ConditionStatus:
    """The condition, with the time of the previous one where its status did not change."""
    status = {True: "True", False: "False", None: "Unknown"}[finding.status]
    previous = facts.previous.condition(finding.type)
    same = previous is not None and previous.status == status
    message = finding.message[:_MESSAGE_LIMIT]
    said = (status, finding.reason, message, facts.generation)
    if previous and said == (previous.status, previous.reason, previous.message, previous.observed_generation):
        return previous
    return ConditionStatus.model_validate(
        {
            "type": finding.type,
            "status": status,
            "reason": finding.reason,
            "message": message,
            "observedGeneration": facts.generation,
            "lastTransitionTime": previous.last_transition_time if previous and same else to_timestamp(now),
        }
    )


def _load(facts: Facts, signals: Signals) -> Load | None:
    if signals.too_early:
        return facts.previous.load
    if signals.known == 0:
        return None
    return Load(
        kv_utilization_percent=min(100, 5 * round(20 * signals.kv_utilization)),
        waiting=two_digits(signals.waiting),
        running=two_digits(signals.running),
        kv_tokens_in_use=two_digits(signals.kv_used),
        kv_tokens_capacity=round(signals.kv_capacity),
    )


def _log(facts: Facts, spec: ModelServerSpec | None, decision: Decision | None, now: float) -> Scaling | None:
    if spec is not None and spec.autoscaling is None:
        return None
    if spec is None or spec.autoscaling is None or decision is None:
        return facts.previous.scaling
    return log_decision(facts.previous.scaling, decision, advisory=spec.autoscaling.mode == "Advisory", now=now)
