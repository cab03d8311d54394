"""Conditions of their own beside Ready: whether every replica has a node, the latencies are kept, the budget is enough,
the model is where it is kept, and Gateways lead requests here.

    CapacityAvailable   True      no replica waits for a node
                        False     one does (the scheduler's words), or the namespace takes no more pods (a quota's)
                        Unknown   there is no replica
    SLOMet              True      every latency of the last minute that autoscaling.slo names is kept
                        False     one is not
                        Unknown   too few requests to say
                        absent    the spec names none
    BudgetOK            True      the budget allows for what the load asks for
                        False     it does not: fewer replicas than asked for
                        absent    the spec names none, or nothing is decided
    ModelCached         True      a replica of the newest revision has fetched, or found, the model on the claim
                        False     it is being fetched, how far
                        Unknown   no replica has said
                        absent    nothing is kept on one: neither model.cache.claim nor model.cache.pvc is set
    Routed              see routed.py

Ready tells of a node that is missing only while a replica that must serve lacks one; one that the autoscaler has asked
for, beyond minReplicas, would wait unseen.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from octavo_operator.core.autoscale import Decision
from octavo_operator.core.conditions import Facts
from octavo_operator.core.names import Condition, Reason
from octavo_operator.core.routed import routed
from octavo_operator.core.sources import model_argument
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.window import Signals


@dataclass(frozen=True, slots=True)
class Finding:
    """A condition before it is compared with the previous one."""

    type: str
    status: bool | None
    reason: str
    message: str


def capacity_available(facts: Facts) -> Finding:
    """Whether every replica has a node."""
    kind, refused = Condition.CAPACITY_AVAILABLE, facts.deployment.pods_refused if facts.deployment else None
    if refused:
        return Finding(kind, False, Reason.PODS_REFUSED, refused)
    staying = [pod for pod in (*facts.pods, *facts.workers) if not pod.terminating]
    waiting = [pod.problem for pod in staying if pod.problem and pod.is_homeless]
    kinds = "pods" if facts.workers else "replicas"
    if waiting:
        message = f"{len(waiting)} of {len(staying)} {kinds} wait for a node: {waiting[0].message}"
        return Finding(kind, False, Reason.UNSCHEDULABLE, message)
    if not staying:
        return Finding(kind, None, Reason.NO_REPLICAS, "there is no replica")
    return Finding(kind, True, Reason.NO_REPLICA_WAITS, f"0 of {len(staying)} {kinds} wait for a node")


def slo_met(spec: ModelServerSpec | None, signals: Signals) -> list[Finding]:
    """Whether the latencies are kept; none where the spec names none."""
    if spec is None or spec.autoscaling is None or spec.autoscaling.slo is None:
        return []
    kind, figures = Condition.SLO_MET, list(_latencies(spec, signals))
    known = [(seconds, limit, words) for seconds, limit, words in figures if seconds is not None]
    missed = [words for seconds, limit, words in known if seconds > limit]
    if missed:
        return [Finding(kind, False, Reason.SLO_VIOLATED, " and ".join(missed))]
    if len(known) < len(figures):
        return [Finding(kind, None, Reason.TOO_FEW_REQUESTS, "too few requests in the last minute to say")]
    return [Finding(kind, True, Reason.WITHIN_LIMITS, " and ".join(words for *_, words in known))]


def budget_ok(spec: ModelServerSpec | None, decision: Decision | None) -> list[Finding]:
    """Whether the budget allows for what is asked; none where the spec names none or nothing is decided."""
    affordable = decision.inputs.policy.affordable if decision and decision.inputs else None
    if spec is None or decision is None or affordable is None:
        return []
    kind = Condition.BUDGET_OK
    if Reason.BUDGET_EXHAUSTED in decision.limiters:
        asked = max(decision.candidates.values(), default=decision.replicas)
        message = f"{asked} replicas are asked for, the budget allows for {affordable}"
        return [Finding(kind, False, Reason.BUDGET_EXHAUSTED, message)]
    return [
        Finding(kind, True, Reason.WITHIN_BUDGET, f"{decision.replicas} of {affordable} replicas that it allows for")
    ]


def model_cached(spec: ModelServerSpec | None, facts: Facts, server: str) -> list[Finding]:
    """Whether the model's files are on the claim that keeps them; none where there is no such claim."""
    claim = spec.model.cache.claim_name(server) if spec and spec.model.cache else None
    if spec is None or claim is None:
        return []
    kind = Condition.MODEL_CACHED
    there = f"{model_argument(spec.model)} is on the claim {claim}"
    newest = facts.deployment.revision if facts.deployment else None
    serves = any(pod.ready and pod.revision == newest for pod in facts.pods)
    before, progress = facts.previous.condition(kind), facts.progress
    if serves or (before is not None and before.message == there) or (progress is not None and progress.is_fetched):
        return [Finding(kind, True, Reason.ON_CLAIM, there)]
    if progress is not None and progress.phase == "fetch":
        return [Finding(kind, False, Reason.FETCHING, str(progress))]
    return [Finding(kind, None, Reason.NO_REPLICAS, "no replica has said that it has the model")]


def led_here(facts: Facts) -> list[Finding]:
    """Whether Gateways lead requests here; none where there is no HTTPRoute."""
    said = routed(facts.route, facts.routes_beside)
    return [Finding(Condition.ROUTED, *said)] if said else []


def _latencies(spec: ModelServerSpec, signals: Signals) -> Iterator[tuple[float | None, float, str]]:
    """Of each latency that the spec names: its p95 in seconds if known, its limit, and both in words."""
    slo = spec.autoscaling.slo if spec.autoscaling else None
    if slo is None:
        return
    for name, limit, found in (
        ("ttftP95", slo.ttft_p95, signals.ttft_p95),
        ("itlP95", slo.itl_p95, signals.itl_p95),
        ("queueWait", slo.queue_wait, signals.queue_wait_p95),
    ):
        if limit is not None:
            yield found, limit / 1000, f"{name} {1000 * (found or 0):.0f} ms of {limit} ms"
