"""observed -> parse -> decide -> render -> plan, as one function from values to values; the shell only carries it out.

number of replicas      where it comes from
──────────────────      ───────────────────
paused, InvalidSpec     what the Deployment has
replicas                spec.replicas
autoscaling             decide(), starting from what was wanted last: this process's memory, else the Deployment (a
                        restart between its write and the status' loses nothing), else status, else minReplicas
none of these           1
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from octavo_operator.core import names
from octavo_operator.core.autoscale import (
    RATE_PERIOD_SECONDS,
    Change,
    Decision,
    ScalerMemory,
    ScalingPolicy,
    decide,
)
from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.conditions import Facts, Failure
from octavo_operator.core.errors import SpecError
from octavo_operator.core.names import Reason
from octavo_operator.core.observed import DeploymentView, PodView, live_pods, view_deployment
from octavo_operator.core.plan import Plan, make_plan
from octavo_operator.core.render import Defaults, Manifest, Owner, render
from octavo_operator.core.spec import ModelServerSpec, parse_spec
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.window import Signals, Window, aggregate

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """A ModelServer after admission, parsed once per generation. `spec` is None where `error` says why."""

    owner: Owner
    generation: int
    spec: ModelServerSpec | None
    error: SpecError | None


@dataclass(frozen=True, slots=True)
class Scaler:
    """What survives from one reconcile to the next: the number wanted last, and what `decide` remembers."""

    desired: int | None
    memory: ScalerMemory


@dataclass(frozen=True, slots=True)
class Proposal:
    """What should happen now, and everything that the status will be computed from."""

    server: Server
    plan: Plan
    desired: int
    scaler: Scaler
    decision: Decision | None
    signals: Signals
    failure: Failure | None


def parse_server(raw: Raw) -> Server:
    """The ModelServer in a raw object."""
    metadata = raw["metadata"]
    owner = Owner(metadata["namespace"], metadata["name"], metadata["uid"])
    try:
        spec, error = parse_spec(raw.get("spec", {})), None
    except SpecError as caught:
        spec, error = None, caught
    return Server(owner, metadata["generation"], spec, error)


def parse_status(raw: Raw) -> ModelServerStatus:
    """The status that the operator wrote last; an empty one where it was never written or does not parse."""
    try:
        return ModelServerStatus.model_validate(raw.get("status", {}))
    except ValueError:
        return ModelServerStatus()


def fresh_scaler(status: ModelServerStatus, now: float) -> Scaler:
    """What a new process, or one that sees a ModelServer for the first time, starts from."""
    last = status.scaling.last_decision if status.scaling else None
    if last is None or now - from_timestamp(last.time) >= RATE_PERIOD_SECONDS:
        return Scaler(None, ScalerMemory(since=now))
    change = Change(from_timestamp(last.time), last.from_, last.to)
    return Scaler(None, ScalerMemory(since=now, changes=(change,)))


def propose(
    server: Server,
    previous: ModelServerStatus,
    *,
    children: Mapping[str, Raw],
    pods: tuple[Raw, ...],
    windows: Mapping[str, Window],
    scaler: Scaler,
    defaults: Defaults,
    now: float,
) -> Proposal:
    """What should happen to one ModelServer now."""
    deployment = _deployment(children)
    signals = _signals(live_pods(pods), windows, scaler.memory.since, now)
    spec = server.spec
    if spec is None or spec.paused:
        kept = deployment.wanted if deployment else 0
        failure = _invalid(server)
        return Proposal(server, Plan(), kept, replace(scaler, desired=None), None, signals, failure)
    decision = _decide(spec, scaler, deployment or previous, signals, now)
    desired = decision.replicas if decision else _fixed(spec)
    plan = make_plan(render(spec, server.owner, desired, defaults), _as_manifests(children))
    after = Scaler(desired, decision.memory) if decision else Scaler(None, ScalerMemory(scaler.memory.since))
    return Proposal(server, plan, desired, after, decision, signals, _conflict(plan))


def facts_of(
    proposal: Proposal,
    failure: Failure | None,
    children: Mapping[str, Raw],
    pods: tuple[Raw, ...],
    previous: ModelServerStatus,
) -> Facts:
    """What the status is computed from, after the plan was carried out (or failed to be)."""
    spec = proposal.server.spec
    floor = spec.autoscaling.min_replicas if spec and spec.autoscaling else proposal.desired
    return Facts(
        generation=proposal.server.generation,
        desired=proposal.desired,
        needed=min(floor, proposal.desired),
        paused=spec is not None and spec.paused,
        failure=failure,
        deployment=_deployment(children),
        pods=live_pods(pods),
        previous=previous,
    )


def _deployment(children: Mapping[str, Raw]) -> DeploymentView | None:
    raw = children.get("Deployment")
    return view_deployment(raw) if raw is not None else None


def _signals(pods: tuple[PodView, ...], windows: Mapping[str, Window], since: float, now: float) -> Signals:
    ready = {pod.uid: max(pod.ready_since, since) for pod in pods if pod.ready and not pod.terminating}
    return aggregate(windows, ready, now)


def _decide(
    spec: ModelServerSpec, scaler: Scaler, before: DeploymentView | ModelServerStatus, signals: Signals, now: float
) -> Decision | None:
    if spec.autoscaling is None:
        return None
    observed = before.wanted if isinstance(before, DeploymentView) else before.desired_replicas
    current = scaler.desired or observed or spec.autoscaling.min_replicas
    return decide(signals, ScalingPolicy.of(spec, spec.autoscaling), current, scaler.memory, now)


def _fixed(spec: ModelServerSpec) -> int:
    return spec.replicas if spec.replicas is not None else 1


def _invalid(server: Server) -> Failure | None:
    return Failure(Reason.INVALID_SPEC, str(server.error)) if server.error else None


def _conflict(plan: Plan) -> Failure | None:
    if not plan.conflicts:
        return None
    taken = " and ".join(plan.conflicts)
    return Failure(Reason.NAME_TAKEN, f"{taken} exists and does not belong to this {names.KIND}: rename one of them")


def _as_manifests(children: Mapping[str, Raw]) -> dict[str, Manifest]:
    return {kind: dict(raw) for kind, raw in children.items()}
