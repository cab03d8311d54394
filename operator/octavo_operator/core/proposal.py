"""observed -> parse -> decide -> render -> plan, as one function from values to values; the shell only carries it out.

With scaleToZero the Service leads to the activator while no replica is available, and shortly before the last one goes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Final

from octavo_operator.core import desired, failures, names
from octavo_operator.core.autoscale import Decision
from octavo_operator.core.conditions import Facts, Failure
from octavo_operator.core.contest import follow
from octavo_operator.core.desired import Scaler
from octavo_operator.core.groups import view_workload, without_a_node
from octavo_operator.core.held import Held
from octavo_operator.core.manifest import Defaults
from octavo_operator.core.observed import (
    DeploymentView,
    PodView,
    leads_to_activator,
    live_pods,
    staying,
    view_deployment,
)
from octavo_operator.core.pace import RESTING, Pace
from octavo_operator.core.plan import Plan, belongs_to
from octavo_operator.core.problems import ended_by_node
from octavo_operator.core.profiles import ProfileError, price_of
from octavo_operator.core.rollout import replaces_in_place
from octavo_operator.core.routed import view_route
from octavo_operator.core.server import Server
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.startup import Progress, startup_p90
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.victims import make_marks
from octavo_operator.core.wanted import ACTIVATOR, Wanted, plan_for
from octavo_operator.core.window import Signals, Trouble, Window, aggregate
from octavo_operator.core.zero import address, needs_activator, sleeps, with_held

Raw = Mapping[str, Any]

_REPLICAS: Final = f"Service{names.OF_REPLICAS}"


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
    chooses: bool = False
    """Whether it says which replicas go, by their load."""


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
    spec, failure = failures.settled(server, defaults)
    pace = spec.autoscaling.metrics.pace if spec and spec.autoscaling else RESTING
    views, others = live_pods(pods), live_pods(workers)
    deployment = view_workload(server.spec, children, views, others)
    signals = _signals(views, others, windows, since=scaler.memory.since, pace=pace, now=now)
    own = _own(children, server, ACTIVATOR, _REPLICAS)
    activator = _deployment(own, ACTIVATOR)
    if spec is not None and sleeps(spec):
        signals = with_held(signals, held, activator, asked=leads_to_activator(children.get("Service")))
    if spec is None or spec.paused:
        kept, price = deployment.wanted if deployment else 0, _price(server.spec, defaults)
        return Proposal(server, Plan(), kept, replace(scaler, desired=None), None, signals, failure, price)
    active, current = desired.is_active(spec), desired.current(spec, scaler, deployment, previous)
    decision = desired.decided(spec, current, scaler.memory, signals, now)
    number = decision.replicas if decision and active else current
    no_activator = failures.no_activator(spec, defaults)
    to_activator = no_activator is None and needs_activator(spec, number, deployment, activator, decision)
    in_place = replaces_in_place(spec, number, deployment, (*views, *others), now, left=scaler.left)
    upstream = address(own.get(_REPLICAS))
    wanted = Wanted(spec, server.owner, number, defaults, in_place, to_activator, upstream)
    plan, settled = plan_for(wanted, children, scaler.settled)
    chooses = deployment is not None and 0 < number < deployment.wanted and not deployment.grouped
    if deployment is not None and chooses:
        marks = make_marks(server.owner.namespace, views, windows, deployment.wanted - number, now)
        plan = replace(plan, marks=marks)
    contest = follow(scaler.contest, plan, children.get("Deployment"), now)
    left = now if any(pod.terminating for pod in (*views, *others)) else scaler.left
    memory = desired.memory_after(spec, scaler.memory, decision)
    after = Scaler(number if active else None, memory, contest, left, settled)
    failure = failures.conflict(plan) or no_activator or failures.missing(spec, defaults)
    return Proposal(server, plan, number, after, decision, signals, failure, _price(spec, defaults), chooses)


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
    routes_beside: tuple[Raw, ...] = (),
) -> Facts:
    """What the status is computed from, after the plan was carried out (or failed to be)."""
    spec = proposal.server.spec
    floor = spec.autoscaling.min_replicas if spec and spec.autoscaling and desired.is_active(spec) else proposal.desired
    views, others = live_pods(pods), live_pods(workers)
    deployment = view_workload(spec, children, views, others)
    return Facts(
        generation=proposal.server.generation,
        desired=proposal.desired,
        needed=min(floor, proposal.desired),
        paused=spec is not None and spec.paused,
        failure=failure,
        deployment=deployment,
        pods=views,
        previous=previous,
        trouble=trouble,
        contest=proposal.scaler.contest,
        progress=progress,
        phases=phases or {},
        workers=others,
        ended=ended_by_node(staying((*pods, *workers), deployment.revision)) if deployment else None,
        route=view_route(children["HTTPRoute"]) if "HTTPRoute" in children else None,
        routes_beside=tuple(map(view_route, routes_beside)),
    )


def _price(spec: ModelServerSpec | None, defaults: Defaults) -> Fraction | None:
    """Also of one that is paused, or whose spec does not fit: its replicas serve on."""
    try:
        return price_of(spec, defaults.profiles) if spec is not None else None
    except ProfileError:
        return None


def _own(children: Mapping[str, Raw], server: Server, *places: str) -> dict[str, Raw]:
    """Those children that are not another ModelServer's, whose name may be one of ours with a suffix: requests that are
    held for one must never be led to the other's replicas.
    """
    uid, name = server.owner.uid, server.owner.name
    return {place: children[place] for place in places if place in children and belongs_to(children[place], uid, name)}


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
