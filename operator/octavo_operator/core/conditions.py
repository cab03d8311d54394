"""Why a ModelServer is ready or not: a ladder of named checks; the first that finds something gives the verdict.

    Ready   Reconciling  Stalled   when
    ─────   ───────────  ───────   ────
    True    -            -         every replica that must serve does, all of the newest revision
    False   True         -         it is on the way there, or waits for something that may come (nodes)
    False   -            True      it will not get there without a change: spec, image, model, quota
    False   -            -         paused

`Reconciling` and `Stalled` are there only while true (kstatus, "abnormal-true"), never both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from octavo_operator.core.contest import NO_CONTEST, Contest
from octavo_operator.core.names import ENDINGS, Condition, Reason
from octavo_operator.core.observed import DeploymentView, PodView, gravest_problem
from octavo_operator.core.problems import Problem
from octavo_operator.core.routed import RouteView
from octavo_operator.core.startup import Progress
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.window import Trouble


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the children could not be written, in the API server's words or ours; `stalled` unless it may pass."""

    reason: str
    message: str
    stalled: bool = True


@dataclass(frozen=True, slots=True)
class Facts:
    """What the verdict looks at. `needed` replicas must serve; `desired` are wanted; `trouble` is the samples'."""

    generation: int
    desired: int
    needed: int
    paused: bool
    failure: Failure | None
    deployment: DeploymentView | None
    pods: tuple[PodView, ...]
    previous: ModelServerStatus
    trouble: Trouble | None = None
    contest: Contest = NO_CONTEST
    progress: Progress | None = None
    """Of the start of the replica that is furthest."""
    phases: Mapping[str, int] = field(default_factory=dict)
    """Seconds that each phase of a start takes here, as far as they were seen."""
    workers: tuple[PodView, ...] = ()
    """The pods of groups that are not leaders (groups.py)."""
    ended: Problem | None = None
    """What the nodes say that refuse, or have ended, replicas of the newest revision."""
    route: RouteView | None = None
    routes_beside: tuple[RouteView, ...] = ()
    """Of other ModelServers, for one of the same host names."""

    @property
    def draining(self) -> int:
        """Pods that finish their answers before they go."""
        return sum(1 for pod in self.pods if pod.terminating)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Ready or not, and why."""

    ready: bool
    reason: str
    message: str
    stalled: bool = False


def judge(facts: Facts) -> Verdict:
    """The verdict on a ModelServer."""
    for check in _LADDER:
        verdict = check(facts)
        if verdict is not None:
            return verdict
    return Verdict(ready=True, reason=Reason.READY, message=_serving(facts))


def _cannot_be_written(facts: Facts) -> Verdict | None:
    if facts.failure is None:
        return None
    return Verdict(False, facts.failure.reason, facts.failure.message, facts.failure.stalled)


def _does_not_exist_yet(facts: Facts) -> Verdict | None:
    if facts.deployment is not None:
        return None
    if facts.paused:
        return Verdict(ready=False, reason=Reason.PAUSED, message="paused before anything was created")
    return Verdict(ready=False, reason=Reason.CREATING, message="its replicas are being created")


def _was_not_looked_at_yet(facts: Facts) -> Verdict | None:
    """The Deployment's status is behind its spec. Nobody knows, so what was known stays."""
    deployment, previous = facts.deployment, facts.previous.condition(Condition.READY)
    if deployment is None or deployment.current:
        return None
    if previous is None or facts.previous.observed_generation != facts.generation:
        return Verdict(
            ready=False, reason=Reason.ROLLING_OUT, message="the Deployment's controller has not seen it yet"
        )
    stalled = facts.previous.condition(Condition.STALLED) is not None
    return Verdict(previous.status == "True", previous.reason, previous.message, stalled)


def _refuses_pods(facts: Facts) -> Verdict | None:
    refused = facts.deployment.pods_refused if facts.deployment else None
    if refused is None:
        return None
    return Verdict(ready=False, reason=Reason.PODS_REFUSED, message=refused, stalled=True)


def _has_failing_pods(facts: Facts) -> Verdict | None:
    problem = _problem(facts)
    if problem is None or not problem.failed:
        return None
    message = problem.message + _old_ones(facts)
    return Verdict(ready=False, reason=problem.reason, message=message, stalled=problem.stalled)


def _old_ones(facts: Facts) -> str:
    """A rollout stops at a new replica that fails; what that leaves."""
    deployment = facts.deployment
    if deployment is None or deployment.replicas <= deployment.updated:
        return ""
    old = sum(1 for pod in facts.pods if pod.ready and not pod.terminating and pod.revision != deployment.revision)
    return f"; the rollout stops here, {old} old replicas serve on"


def in_place(facts: Facts) -> str:
    """How replicas are replaced, where that takes capacity away."""
    if facts.deployment is None or not facts.deployment.in_place:
        return ""
    gap = ", so that nothing serves in between" if facts.desired == 1 else ""
    return f", in place: an old one goes before a new one comes{gap}"


def _problem(facts: Facts) -> Problem | None:
    """The gravest of the newest revision; pods of an older one are on their way out, and their problems with them.

    Nodes that end them speak while there are too few, unless a pod that is there has something to say.
    """
    if facts.deployment is None:
        return None
    found = gravest_problem((*facts.pods, *facts.workers), facts.deployment.revision)
    least = facts.desired if facts.ended and facts.ended.stalled else facts.needed
    return found or (facts.ended if facts.deployment.available < least else None)


def _missed_its_deadline(facts: Facts) -> Verdict | None:
    message = facts.deployment.deadline_exceeded if facts.deployment else None
    if message is None:
        return None
    return Verdict(ready=False, reason=Reason.PROGRESS_DEADLINE, message=message, stalled=True)


def _rolls_out(facts: Facts) -> Verdict | None:
    deployment = facts.deployment
    if deployment is None or deployment.replicas <= deployment.updated:
        return None
    done = f"{deployment.updated} of {facts.desired} replicas updated, {deployment.available} serve"
    return _waiting(facts, Reason.ROLLING_OUT, done + in_place(facts))


def _lacks_replicas(facts: Facts) -> Verdict | None:
    deployment = facts.deployment
    if deployment is None or deployment.available >= facts.needed:
        return None
    reason = Reason.SCALING_UP if _more_are_created(facts) else Reason.STARTING
    return _waiting(facts, reason, f"{deployment.available} of {facts.needed} replicas serve")


def _more_are_created(facts: Facts) -> bool:
    """Whether all pods are ready, and yet fewer than needed; one that was ready only just now still starts."""
    return 0 < len(facts.pods) < facts.needed and all(pod.ready for pod in facts.pods)


def _waiting(facts: Facts, reason: str, message: str) -> Verdict:
    """Not ready yet; when the newest pods say what they wait for, that is the reason."""
    problem = _problem(facts)
    if problem is not None:
        return Verdict(
            ready=False, reason=problem.reason, message=f"{message}: {problem.message}", stalled=problem.stalled
        )
    if (told := _told_before(facts)) is not None:
        return told
    started = f"; one is {facts.progress}" if facts.progress else ""
    return Verdict(ready=False, reason=reason, message=f"{message}{started}")


def _told_before(facts: Facts) -> Verdict | None:
    """A group whose container has ended starts anew, with new pods that know nothing of it: what was said stays."""
    said, deployment = facts.previous.condition(Condition.READY), facts.deployment
    if deployment is None or not deployment.grouped or said is None or said.observed_generation != facts.generation:
        return None
    if said.status != "False" or said.reason not in ENDINGS:
        return None
    return Verdict(False, said.reason, said.message, facts.previous.condition(Condition.STALLED) is not None)


def _is_wanted_away(facts: Facts) -> Verdict | None:
    if facts.desired > 0:
        return None
    if facts.pods:
        return Verdict(ready=False, reason=Reason.DRAINING, message=f"{len(facts.pods)} replicas finish their answers")
    return Verdict(ready=True, reason=Reason.SCALED_TO_ZERO, message="0 replicas wanted, none left")


def _serving(facts: Facts) -> str:
    ready = facts.deployment.available if facts.deployment else 0
    return f"{ready} of {facts.desired} replicas serve"


_LADDER: Final[tuple[Callable[[Facts], Verdict | None], ...]] = (
    _cannot_be_written,
    _does_not_exist_yet,
    _was_not_looked_at_yet,
    _refuses_pods,
    _has_failing_pods,
    _missed_its_deadline,
    _rolls_out,
    _lacks_replicas,
    _is_wanted_away,
)
