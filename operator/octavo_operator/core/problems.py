"""Why a pod does not serve, as its status says it.

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
    the whole pod failed: its node refused or evicted   EndedByNode, with the node's words (`ended_by_node`)

The replica's own container is asked first, then those that spec.podTemplate has added, init containers too: a pod with
a sidecar that does not start serves as little. Their messages begin with their names.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from octavo_operator.core import names
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
_MANY_ENDS: Final = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a replica does not serve. `stalled`: waiting will not help. `failed`: its container ran or tried to."""

    reason: str
    message: str
    stalled: bool
    failed: bool


_NOT_READY: Final = Problem(Reason.NOT_READY, "started, but its readiness probe fails", stalled=False, failed=False)


def problem_of(status: Raw) -> Problem | None:
    """What the status of a pod that is not ready says; None while there is nothing to say."""
    scheduled = find_condition(status, "PodScheduled")
    if scheduled.get("status") == "False":
        return Problem(Reason.UNSCHEDULABLE, scheduled.get("message", ""), stalled=False, failed=False)
    own = find_container(status)
    found = [_problem(own) if own else None, *map(_problem_beside, _others(status))]
    problems = [problem for problem in found if problem is not None]
    return next((problem for problem in problems if problem.failed), problems[0] if problems else None)


def ended_by_node(raws: Iterable[Raw]) -> Problem | None:
    """Why nodes refuse these pods, of one revision, or have ended them; None as soon as one that came later runs.

    A pod without a device that works, say, fails before it runs, and the next one comes at once, and the next.
    """
    speaking = [raw for raw in raws if _is_ended(raw) or _runs(raw)]
    last = max(speaking, key=lambda raw: (raw["metadata"].get("creationTimestamp", ""), _runs(raw)), default=None)
    if last is None or _runs(last):
        return None
    status, node = last["status"], last.get("spec", {}).get("nodeName", "the node")
    words = f"{node}: {status['reason']}: {status.get('message', '')}"  # no pod's name: the next one has another
    return Problem(Reason.ENDED_BY_NODE, words[:512], stalled=sum(map(_is_ended, speaking)) >= _MANY_ENDS, failed=True)


def _runs(raw: Raw) -> bool:
    return "running" in find_container(raw.get("status", {})).get("state", {})


def _is_ended(raw: Raw) -> bool:
    """By its node: containers alone never let a pod of a Deployment fail."""
    status = raw.get("status", {})
    return status.get("phase") == "Failed" and bool(status.get("reason"))


def find_condition(status: Raw, kind: str) -> Raw:
    """The condition of that type, or {}."""
    found: Raw = next((item for item in status.get("conditions", ()) if item["type"] == kind), {})
    return found


def find_container(status: Raw) -> Raw:
    """The status of the replica's own container, or {}."""
    found: Raw = next((item for item in status.get("containerStatuses", ()) if item["name"] == names.CONTAINER), {})
    return found


def told(text: str) -> Raw | None:
    """The runtime's reason and words in its termination message, if it is one of ours."""
    for line in reversed(text.strip().splitlines()):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.get("reason") in names.RUNTIME_REASONS:
            return found
    return None


def _others(status: Raw) -> Iterator[Raw]:
    yield from status.get("initContainerStatuses", ())
    yield from (item for item in status.get("containerStatuses", ()) if item["name"] != names.CONTAINER)


def _problem_beside(container: Raw) -> Problem | None:
    problem = _problem(container)
    return problem and replace(problem, message=f"container {container['name']}: {problem.message}")


def _problem(container: Raw) -> Problem | None:
    state: Raw = container.get("state", {})
    waiting: Raw = state.get("waiting", {})
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    if reason in _IMAGE_REASONS:
        return Problem(Reason.IMAGE_PULL, message or f"image {container.get('image')}", stalled=True, failed=True)
    if reason in _CONFIG_REASONS:
        return Problem(Reason.CONTAINER_CONFIG, message, stalled=True, failed=True)
    if "running" in state and container.get("started"):
        return None if container.get("ready") else _NOT_READY
    ended: Raw | None = state.get("terminated") or container.get("lastState", {}).get("terminated")
    backing_off = reason == Reason.CRASH_LOOP
    if ended is None or (ended.get("exitCode", 0) == 0 and not backing_off):
        return None
    return _failure(container, ended, backing_off=backing_off)


def _failure(container: Raw, ended: Raw, *, backing_off: bool) -> Problem:
    """What the last end of a container says: the runtime's own words first."""
    own, restarts = container["name"] == names.CONTAINER, container.get("restartCount", 0)
    said = told(ended.get("message", "")) if own else None
    looping = backing_off or restarts >= _MANY_RESTARTS
    if said is not None:
        reason, words = str(said["reason"]), str(said.get("message", ""))[:512]
    elif ended.get("reason") == Reason.OOM_KILLED:
        limit = "runtime.resources.limits.memory" if own else "its limit of memory"
        reason, words = Reason.OOM_KILLED, f"killed for using more memory than {limit}"
    else:
        reason = Reason.CRASH_LOOP if looping else Reason.CONTAINER_FAILED
        words = f"ended with exit code {ended.get('exitCode')}"
    if reason == Reason.LEADER_GONE:  # the other pod says why, or goes because fewer groups are wanted
        return Problem(reason, words, stalled=False, failed=False)
    stalled = looping or reason in _FINAL_REASONS
    return Problem(reason, f"{words} (restarted {restarts} times)" if restarts else words, stalled=stalled, failed=True)
