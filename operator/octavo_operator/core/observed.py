"""Raw objects of the API server -> the few facts that the operator uses. Nothing deeper reads a raw object."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from octavo_operator.core import names
from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.footprint import NO_FOOTPRINT, Footprint, footprint_of
from octavo_operator.core.names import Reason
from octavo_operator.core.problems import Problem, find_condition, find_container, problem_of, told

Raw = Mapping[str, Any]

_SIZE: Final = re.compile(r"[1-9][0-9]{0,3}")


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
    ready = find_condition(status, "Ready")
    is_ready, group = ready.get("status") == "True", _group(metadata)
    problem = None if is_ready else problem_of(status)
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
        scheduled_at=_moment(find_condition(status, "PodScheduled"), "lastTransitionTime"),
        started_at=_moment(find_container(status).get("state", {}).get("running") or {}, "startedAt"),
        marked=names.DELETION_COST in metadata.get("annotations", {}),
        group=group,
        restarted=find_container(status).get("restartCount", 0) > 0,
    )


def ending(raw: Raw) -> Ending | None:
    """The end of a replica that says it has cut requests: those still under way at the end of its drain."""
    ended: Raw = find_container(raw.get("status", {})).get("state", {}).get("terminated") or {}
    words = told(ended.get("message", ""))
    cut = words.get("requests") if words and words["reason"] == Reason.REQUESTS_CUT else None
    return Ending(_moment(ended, "finishedAt"), cut) if isinstance(cut, int) and cut > 0 else None


def _group(metadata: Raw) -> Group | None:
    """Anybody can write such a pod: what is no size is one of 1."""
    index = metadata.get("labels", {}).get(names.GROUP_INDEX)
    size = metadata.get("annotations", {}).get(names.GROUP_SIZE, "")
    return Group(index, int(size) if _SIZE.fullmatch(size) else 1) if index is not None else None


def _moment(raw: Raw, field: str) -> float:
    return from_timestamp(raw[field]) if raw.get(field) else 0.0


def live_pods(raws: Iterable[Raw]) -> tuple[PodView, ...]:
    """The pods that have not ended, by name. A failed pod is already being replaced."""
    views = [view_pod(raw) for raw in raws if raw.get("status", {}).get("phase") not in ("Failed", "Succeeded")]
    return tuple(sorted(views, key=lambda pod: pod.name))


def staying(raws: Iterable[Raw], revision: str | None) -> Iterator[Raw]:
    """The pods of a revision that are not going, those that have ended too."""
    for raw in raws:
        if _revision(raw["metadata"]) == revision and "deletionTimestamp" not in raw["metadata"]:
            yield raw


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
