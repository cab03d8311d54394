"""observed -> parse -> decide -> render -> plan, as one function from values to values; the shell only carries it out.

number of replicas      where it comes from
──────────────────      ───────────────────
paused, InvalidSpec     what the Deployment has
replicas                spec.replicas
mode Off, Advisory      spec.replicas, else what is there; Advisory also reports what decide() says
mode Active             decide(), starting from what was wanted last: this process's memory, else the Deployment (a
                        restart between its write and the status' loses nothing), else status, else minReplicas; with
                        scaleToZero these may be 0
none of these           1

With scaleToZero the Service leads to the activator while no replica is available, and shortly before the last one goes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

from octavo_operator.core import names
from octavo_operator.core.activator import why_none
from octavo_operator.core.autoscale import Decision, decide
from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.conditions import Facts, Failure
from octavo_operator.core.contest import NO_CONTEST, Contest, follow
from octavo_operator.core.errors import SpecError
from octavo_operator.core.groups import missing_kind, view_workload, without_a_node
from octavo_operator.core.held import Held
from octavo_operator.core.learn import FORGET_SECONDS, NOTHING_LEARNED, Learned
from octavo_operator.core.manifest import Defaults, Manifest, Owner
from octavo_operator.core.memory import RATE_PERIOD_SECONDS, Change, Recalled, ScalerMemory
from octavo_operator.core.names import Reason
from octavo_operator.core.observed import DeploymentView, PodView, leads_to_activator, live_pods, view_deployment
from octavo_operator.core.pace import RESTING, Pace
from octavo_operator.core.plan import Plan, make_plan
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.profiles import ProfileError, price_of, settle
from octavo_operator.core.record import from_record
from octavo_operator.core.render import render
from octavo_operator.core.rollout import replaces_in_place
from octavo_operator.core.routes import missing_kinds
from octavo_operator.core.spec import ModelServerSpec, parse_spec
from octavo_operator.core.startup import Progress, startup_p90
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.victims import make_marks
from octavo_operator.core.window import Signals, Trouble, Window, aggregate
from octavo_operator.core.zero import address, needs_activator, sleeps, with_held

Raw = Mapping[str, Any]

_REPLICAS: Final = f"Service{names.OF_REPLICAS}"
_ACTIVATOR: Final = f"Deployment{names.OF_ACTIVATOR}"


@dataclass(frozen=True, slots=True)
class Server:
    """A ModelServer after admission, parsed once per generation. `spec` is None where `error` says why."""

    owner: Owner
    generation: int
    spec: ModelServerSpec | None
    error: SpecError | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that the children are rendered from."""

    spec: ModelServerSpec
    owner: Owner
    replicas: int
    defaults: Defaults
    in_place: bool
    to_activator: bool
    upstream: str | None

    def manifests(self) -> tuple[Manifest, ...]:
        """The children."""
        return render(
            self.spec,
            self.owner,
            self.replicas,
            self.defaults,
            in_place=self.in_place,
            to_activator=self.to_activator,
            upstream=self.upstream,
        )


Versions = frozenset[tuple[str, str]]
"""Children by slot and resource version."""


@dataclass(frozen=True, slots=True)
class Scaler:
    """What survives from one reconcile to the next: the last number, the autoscaler's memory, who else scales."""

    desired: int | None
    memory: ScalerMemory
    contest: Contest = NO_CONTEST
    left: float | None = None
    """When a pod that ends was seen last; None where none was."""
    settled: tuple[Wanted, Versions] | None = None
    """What was wanted, and the children, when nothing was to be done. While both are the same, nothing is, and most
    looks are such: rendering and comparing was two thirds of what they cost."""


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
    price: Fraction | None = None
    """Of one replica for an hour; None where nobody has said."""


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
    if last is None:
        return Scaler(None, ScalerMemory(since=now))
    time = from_timestamp(last.time)
    recent = last.mode == "Active" and 0 <= now - time < RATE_PERIOD_SECONDS
    changes = (Change(time, last.from_, last.to),) if recent else ()
    recalled = _recalled(last.record) if 0 <= now - time < FORGET_SECONDS else None
    learned = Learned(recalled.kv_tokens, recalled.prompt_rate, time) if recalled else NOTHING_LEARNED
    capacity = recalled.capacity if recalled else None
    return Scaler(None, ScalerMemory(since=now, changes=changes, learned=learned, capacity=capacity))


def _recalled(record: str | None) -> Recalled | None:
    """What a replica carries, and more, as it was known at the last decision."""
    try:
        return from_record(record).recalled if record is not None else None
    except ValueError:
        return None


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
    held: Held | None = None,
    workers: tuple[Raw, ...] = (),
) -> Proposal:
    """What should happen to one ModelServer now; `held` is what its activator says, while the Service leads to it.

    `pods` are its replicas, of groups the leaders; `workers` are the groups' other pods.
    """
    spec, failure = _settled(server, defaults)
    pace = spec.autoscaling.metrics.pace if spec and spec.autoscaling else RESTING
    views, others = live_pods(pods), live_pods(workers)
    deployment = view_workload(server.spec, children, views, others)
    signals = _signals(views, others, windows, since=scaler.memory.since, pace=pace, now=now)
    activator = _deployment(children, _ACTIVATOR)
    if spec is not None and sleeps(spec):
        signals = with_held(signals, held, activator, asked=leads_to_activator(children.get("Service")))
    if spec is None or spec.paused:
        kept = deployment.wanted if deployment else 0
        return Proposal(server, Plan(), kept, replace(scaler, desired=None), None, signals, failure)
    current = _current(spec, scaler, _observed(spec, deployment, previous))
    decision = _decide(spec, current, scaler.memory, signals, now)
    desired = decision.replicas if decision and _is_active(spec) else current
    no_activator = _no_activator(spec, defaults)
    to_activator = no_activator is None and needs_activator(spec, desired, deployment, activator, decision)
    upstream = address(children.get(_REPLICAS))
    in_place = replaces_in_place(spec, desired, deployment, (*views, *others), now, left=scaler.left)
    wanted = Wanted(spec, server.owner, desired, defaults, in_place, to_activator, upstream)
    plan, settled = _plan(wanted, children, scaler.settled)
    if deployment is not None and 0 < desired < deployment.wanted and not deployment.grouped:
        marks = make_marks(server.owner.namespace, views, windows, deployment.wanted - desired, now)
        plan = replace(plan, marks=marks)
    contest = follow(scaler.contest, plan, children.get("Deployment"), now)
    left = now if any(pod.terminating for pod in (*views, *others)) else scaler.left
    memory = _memory_after(spec, scaler.memory, decision)
    after = Scaler(desired if _is_active(spec) else None, memory, contest, left, settled)
    failure = _conflict(plan) or no_activator or _missing(spec, defaults)
    price = price_of(spec, defaults.profiles)
    return Proposal(server, plan, desired, after, decision, signals, failure, price)


def facts_of(
    proposal: Proposal,
    failure: Failure | None,
    children: Mapping[str, Raw],
    pods: tuple[Raw, ...],
    previous: ModelServerStatus,
    *,
    trouble: Trouble | None = None,
    progress: Progress | None = None,
    phases: Mapping[str, int] | None = None,
    workers: tuple[Raw, ...] = (),
) -> Facts:
    """What the status is computed from, after the plan was carried out (or failed to be)."""
    spec = proposal.server.spec
    floor = spec.autoscaling.min_replicas if spec and spec.autoscaling and _is_active(spec) else proposal.desired
    views, others = live_pods(pods), live_pods(workers)
    return Facts(
        generation=proposal.server.generation,
        desired=proposal.desired,
        needed=min(floor, proposal.desired),
        paused=spec is not None and spec.paused,
        failure=failure,
        deployment=view_workload(spec, children, views, others),
        pods=views,
        previous=previous,
        trouble=trouble,
        contest=proposal.scaler.contest,
        progress=progress,
        phases=phases or {},
        workers=others,
    )


def _deployment(children: Mapping[str, Raw], place: str = "Deployment") -> DeploymentView | None:
    raw = children.get(place)
    return view_deployment(raw) if raw is not None else None


def _signals(
    pods: tuple[PodView, ...],
    workers: tuple[PodView, ...],
    windows: Mapping[str, Window],
    *,
    since: float,
    pace: Pace,
    now: float,
) -> Signals:
    staying = [pod for pod in pods if not pod.terminating]
    ready = {pod.uid: pod.ready_since for pod in staying if pod.ready}
    homeless = without_a_node((*pods, *workers))
    startup = startup_p90(staying)
    return aggregate(windows, ready, now, since=since, pace=pace, unschedulable=homeless, startup_p90=startup)


def _is_active(spec: ModelServerSpec) -> bool:
    return spec.autoscaling is not None and spec.autoscaling.mode == "Active"


def _observed(spec: ModelServerSpec, deployment: DeploymentView | None, previous: ModelServerStatus) -> int:
    """The number that was wanted until now, as the cluster knows it; 0 only where it is one that was decided."""
    if deployment is not None:
        return deployment.wanted
    first = spec.autoscaling.min_replicas if spec.autoscaling and previous.observed_generation <= 0 else 0
    return previous.desired_replicas or first


def _current(spec: ModelServerSpec, scaler: Scaler, observed: int) -> int:
    """The number wanted until now; where nothing is scaled, also from now on."""
    if spec.autoscaling is None:
        return spec.replicas if spec.replicas is not None else 1
    if spec.replicas is not None:
        return spec.replicas
    if sleeps(spec):
        return scaler.desired if scaler.desired is not None else observed
    return scaler.desired or observed or spec.autoscaling.min_replicas


def _decide(spec: ModelServerSpec, current: int, memory: ScalerMemory, signals: Signals, now: float) -> Decision | None:
    if spec.autoscaling is None or spec.autoscaling.mode == "Off":
        return None
    return decide(signals, ScalingPolicy.of(spec, spec.autoscaling, now), current, memory, now)


def _memory_after(spec: ModelServerSpec, memory: ScalerMemory, decision: Decision | None) -> ScalerMemory:
    """What is remembered. Advice that nobody carried out is no change, and must not limit the next advice."""
    if decision is None:
        return ScalerMemory(memory.since)
    return decision.memory if _is_active(spec) else replace(decision.memory, changes=memory.changes)


def _settled(server: Server, defaults: Defaults) -> tuple[ModelServerSpec | None, Failure | None]:
    """The spec with what its profile says, or why there is none; a paused one is not asked for more than to parse."""
    if server.spec is None or server.spec.paused:
        return server.spec, Failure(Reason.INVALID_SPEC, str(server.error)) if server.error else None
    if missing := missing_kind(server.spec, defaults):
        return None, _kinds_missing(missing)
    try:
        return settle(server.spec, defaults.profiles), None
    except ProfileError as error:
        return None, Failure(Reason.UNKNOWN_PROFILE, str(error))
    except SpecError as error:
        return None, Failure(Reason.INVALID_SPEC, str(error))


def _conflict(plan: Plan) -> Failure | None:
    if not plan.conflicts:
        return None
    taken = " and ".join(plan.conflicts)
    return Failure(Reason.NAME_TAKEN, f"{taken} exists and does not belong to this {names.KIND}: rename one of them")


def _missing(spec: ModelServerSpec, defaults: Defaults) -> Failure | None:
    missing = missing_kinds(spec, defaults)
    return _kinds_missing(*missing) if missing else None


def _kinds_missing(*missing: str) -> Failure:
    advice = "which the cluster does not have: install it, or remove the field"
    return Failure(Reason.KIND_MISSING, f"{' and '.join(missing)}, {advice}")


def _no_activator(spec: ModelServerSpec, defaults: Defaults) -> Failure | None:
    why = why_none(spec, defaults)
    return Failure(Reason.APPLY_REJECTED, f"spec.autoscaling.scaleToZero: {why}") if why else None


def _plan(
    wanted: Wanted, children: Mapping[str, Raw], settled: tuple[Wanted, Versions] | None
) -> tuple[Plan, tuple[Wanted, Versions] | None]:
    """The plan, and what is settled by it."""
    versions = frozenset((place, raw["metadata"].get("resourceVersion", "")) for place, raw in children.items())
    if settled == (wanted, versions):
        return Plan(), settled
    without = (_ACTIVATOR,) if sleeps(wanted.spec) and not wanted.upstream else ()
    plan = make_plan(wanted.manifests(), _as_manifests(children, without))
    return plan, (wanted, versions) if plan == Plan() else None


def _as_manifests(children: Mapping[str, Raw], without: tuple[str, ...]) -> dict[str, Manifest]:
    """An activator whose Service is missing for a moment is not unwanted."""
    return {place: dict(raw) for place, raw in children.items() if place not in without}
