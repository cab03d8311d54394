"""Raw objects of the API server -> the few facts that the operator uses. Nothing deeper reads a raw object.

A replica's `problem` is what its pod says about why it does not serve:

    pod / container status                              reason
    ──────────────────────                              ──────
    PodScheduled=False                                  Unschedulable, in the scheduler's words
    waiting: image cannot be pulled                     ImagePullBackOff
    waiting: config or secret missing                   CreateContainerConfigError
    terminated with a termination message of ours       ModelNotFound, ModelUnsupported, OutOfMemory, …
    terminated because its leader has gone              LeaderGone, no failure of its own
    terminated: killed for memory                       OOMKilled
    terminated otherwise, back-off                      CrashLoopBackOff
    terminated otherwise, first time                    ContainerFailed
    running again after one of these, not yet started   the same, so that the reason does not flicker
    started, readiness probe fails                      NotReady

In a group of several pods (groups.py) the message begins with the pod's name.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from octavo_operator.core import names
from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.footprint import NO_FOOTPRINT, Footprint, footprint_of
from octavo_operator.core.names import Reason

Raw = Mapping[str, Any]

_IMAGE_REASONS: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
        "SignatureValidationFailed",
    }
)
"""Of kubelet's images/types.go and of the CRI's errors.go; the model's image and the runtime's alike."""
_CONFIG_REASONS: Final = frozenset({"CreateContainerConfigError", "CreateContainerError"})
_FINAL_REASONS: Final = frozenset(
    {Reason.MODEL_NOT_FOUND, Reason.MODEL_ACCESS_DENIED, Reason.MODEL_UNSUPPORTED, Reason.INVALID_ARGUMENT}
)
_MANY_RESTARTS: Final = 2
_SIZE: Final = re.compile(r"[1-9][0-9]{0,3}")


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a replica does not serve. `stalled`: waiting will not help. `failed`: its container ran or tried to."""

    reason: str
    message: str
    stalled: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class Ending:
    """When a container ended, by its node's clock in whole seconds, 0 where it does not say; what it had to cut."""

    time: float
    requests_cut: int


@dataclass(frozen=True, slots=True)
class Group:
    """Which group a pod belongs to, and how many pods that has."""

    index: str
    size: int


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a ModelServer."""

    uid: str
    name: str
    ip: str | None
    ready: bool
    ready_since: float
    terminating: bool
    created: str
    revision: str | None
    problem: Problem | None
    ends_by: float = 0.0
    """When it is killed at the latest; 0 for one that stays."""
    footprint: Footprint = NO_FOOTPRINT
    scheduled_at: float = 0.0
    """When it got its node; 0 before."""
    started_at: float = 0.0
    """When its container began to run, for the last time; 0 while it does not."""
    marked: bool = False
    """Whether it goes before others when fewer are wanted (victims.py)."""
    group: Group | None = None
    """None for a replica of one pod."""
    restarted: bool = False
    """Whether a container of it has ended since it was created; in a group that is the end of all its pods."""

    @property
    def is_homeless(self) -> bool:
        """Whether the scheduler finds no node for it."""
        return self.problem is not None and self.problem.reason == Reason.UNSCHEDULABLE


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """The Deployment's own account of its pods."""

    wanted: int
    revision: str | None
    """The newest: that of its pod template."""
    current: bool
    """Whether its status speaks of its newest spec."""
    replicas: int
    updated: int
    available: int
    """Replicas that serve: ready for long enough that every node's Service leads to them (render.py)."""
    deadline_exceeded: str | None
    pods_refused: str | None
    in_place: bool = False
    """Whether an old replica goes before a new one comes."""
    footprint: Footprint = NO_FOOTPRINT
    grouped: bool = False
    """Whether each replica is a group of pods: then these are the facts of a LeaderWorkerSet (groups.py)."""


def view_template(template: Raw) -> DeploymentView:
    """What a pod template says, with nothing made of it yet."""
    return DeploymentView(
        wanted=0,
        revision=_revision(template.get("metadata", {})),
        current=True,
        replicas=0,
        updated=0,
        available=0,
        deadline_exceeded=None,
        pods_refused=None,
        footprint=footprint_of(template.get("spec", {})),
    )


def view_deployment(raw: Raw) -> DeploymentView:
    """The facts of a raw Deployment."""
    status: Raw = raw.get("status", {})
    conditions = {item["type"]: item for item in status.get("conditions", ())}
    progressing: Raw = conditions.get("Progressing", {})
    failure: Raw = conditions.get("ReplicaFailure", {})
    rolling: Raw = raw["spec"].get("strategy", {}).get("rollingUpdate", {})
    exceeded = progressing.get("reason") == "ProgressDeadlineExceeded"
    return replace(
        view_template(raw["spec"].get("template", {})),
        wanted=raw["spec"].get("replicas", 1),
        current=status.get("observedGeneration", 0) >= raw["metadata"].get("generation", 0),
        replicas=status.get("replicas", 0),
        updated=status.get("updatedReplicas", 0),
        available=status.get("availableReplicas", 0),
        deadline_exceeded=progressing.get("message", "") if exceeded else None,
        pods_refused=failure.get("message", "") if failure.get("status") == "True" else None,
        in_place=rolling.get("maxSurge") == 0,
    )


def view_pod(raw: Raw) -> PodView:
    """The facts of a raw Pod."""
    metadata, status = raw["metadata"], raw.get("status", {})
    ready = _condition(status, "Ready")
    is_ready, group = ready.get("status") == "True", _group(metadata)
    problem = None if is_ready else _problem(status)
    return PodView(
        uid=metadata["uid"],
        name=metadata["name"],
        ip=status.get("podIP"),
        ready=is_ready,
        ready_since=from_timestamp(ready["lastTransitionTime"]) if is_ready and "lastTransitionTime" in ready else 0.0,
        terminating="deletionTimestamp" in metadata,
        created=metadata.get("creationTimestamp", ""),
        revision=_revision(metadata),
        problem=replace(problem, message=f"{metadata['name']}: {problem.message}") if problem and group else problem,
        ends_by=from_timestamp(metadata["deletionTimestamp"]) if "deletionTimestamp" in metadata else 0.0,
        footprint=footprint_of(raw.get("spec", {})),
        scheduled_at=_moment(_condition(status, "PodScheduled"), "lastTransitionTime"),
        started_at=_moment(_container(status).get("state", {}).get("running") or {}, "startedAt"),
        marked=names.DELETION_COST in metadata.get("annotations", {}),
        group=group,
        restarted=_container(status).get("restartCount", 0) > 0,
    )


def ending(raw: Raw) -> Ending | None:
    """The end of a replica that says it has cut requests: those still under way at the end of its drain."""
    ended: Raw = _container(raw.get("status", {})).get("state", {}).get("terminated") or {}
    told = _told(ended.get("message", ""))
    cut = told.get("requests") if told and told["reason"] == Reason.REQUESTS_CUT else None
    return Ending(_moment(ended, "finishedAt"), cut) if isinstance(cut, int) and cut > 0 else None


def _group(metadata: Raw) -> Group | None:
    """Anybody can write such a pod: what is no size is one of 1."""
    index = metadata.get("labels", {}).get(names.GROUP_INDEX)
    size = metadata.get("annotations", {}).get(names.GROUP_SIZE, "")
    return Group(index, int(size) if _SIZE.fullmatch(size) else 1) if index is not None else None


def _moment(raw: Raw, field: str) -> float:
    return from_timestamp(raw[field]) if raw.get(field) else 0.0


def _container(status: Raw) -> Raw:
    found: Raw = next((item for item in status.get("containerStatuses", ()) if item["name"] == names.CONTAINER), {})
    return found


def live_pods(raws: Iterable[Raw]) -> tuple[PodView, ...]:
    """The pods that have not ended, by name. A failed pod is already being replaced."""
    views = [view_pod(raw) for raw in raws if raw.get("status", {}).get("phase") not in ("Failed", "Succeeded")]
    return tuple(sorted(views, key=lambda pod: pod.name))


def leads_to_activator(service: Raw | None) -> bool:
    """Whether a Service leads to the activator and not to replicas."""
    selector: Raw = service.get("spec", {}).get("selector", {}) if service else {}
    return names.is_activators(selector.get(names.LABEL_MODEL_SERVER, ""))


def gravest_problem(pods: Iterable[PodView], revision: str | None) -> Problem | None:
    """The gravest problem among the pods of a revision that stay, or go because a container of theirs has ended.

    The pods of such a group are deleted in the same moment, so nobody else would ever hear why.
    """
    ours = [pod for pod in pods if pod.revision == revision and (not pod.terminating or (pod.group and pod.restarted))]
    problems = [pod.problem for pod in ours if pod.problem is not None]
    return max(problems, key=lambda problem: (problem.failed, problem.stalled), default=None)


def _revision(metadata: Raw) -> str | None:
    revision: str | None = metadata.get("annotations", {}).get(names.ANNOTATION_TEMPLATE)
    return revision


def _condition(status: Raw, kind: str) -> Raw:
    found: Raw = next((item for item in status.get("conditions", ()) if item["type"] == kind), {})
    return found


def _problem(status: Raw) -> Problem | None:
    scheduled = _condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return Problem(Reason.UNSCHEDULABLE, scheduled.get("message", ""), stalled=False, failed=False)
    for container in status.get("containerStatuses", ()):
        if container["name"] == names.CONTAINER:
            return _container_problem(container)
    return None


def _container_problem(container: Raw) -> Problem | None:
    state: Raw = container.get("state", {})
    waiting: Raw = state.get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_REASONS:
        return Problem(Reason.IMAGE_PULL, message or f"image {container.get('image')}", stalled=True, failed=True)
    if reason in _CONFIG_REASONS:
        return Problem(Reason.CONTAINER_CONFIG, message, stalled=True, failed=True)
    if "running" in state and container.get("started"):
        return Problem(Reason.NOT_READY, "started, but its readiness probe fails", stalled=False, failed=False)
    ended: Raw | None = state.get("terminated") or container.get("lastState", {}).get("terminated")
    if ended is None or ended.get("exitCode", 0) == 0:
        return None
    return _failure(ended, container.get("restartCount", 0), backing_off=reason == Reason.CRASH_LOOP)


def _failure(ended: Raw, restarts: int, *, backing_off: bool) -> Problem:
    """What the last end of the container says: the runtime's own words first."""
    told = _told(ended.get("message", ""))
    looping = backing_off or restarts >= _MANY_RESTARTS
    if told is not None:
        reason, words = str(told["reason"]), str(told.get("message", ""))[:512]
    elif ended.get("reason") == Reason.OOM_KILLED:
        reason, words = Reason.OOM_KILLED, "killed for using more memory than runtime.resources.limits.memory"
    else:
        reason = Reason.CRASH_LOOP if looping else Reason.CONTAINER_FAILED
        words = f"ended with exit code {ended.get('exitCode')}"
    if reason == Reason.LEADER_GONE:  # the other pod says why, or goes because fewer groups are wanted
        return Problem(reason, words, stalled=False, failed=False)
    stalled = looping or reason in _FINAL_REASONS
    return Problem(reason, f"{words} (restarted {restarts} times)" if restarts else words, stalled=stalled, failed=True)


def _told(text: str) -> Raw | None:
    """The runtime's reason and words in its termination message, if it is one of ours."""
    for line in reversed(text.strip().splitlines()):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        if isinstance(told, dict) and told.get("reason") in names.RUNTIME_REASONS:
            return told
    return None
