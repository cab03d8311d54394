"""What a pod says about why it does not serve, and which pod is listened to."""

import json

import pytest

from octavo_operator.core.names import RUNTIME_REASONS, Reason
from octavo_operator.core.observed import gravest_problem, live_pods, staying, view_deployment, view_pod
from octavo_operator.core.problems import ended_by_node


def ended(message="", *, code=2, reason="Error"):
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def told(reason, message="words"):
    return json.dumps({"reason": reason, "message": message})


BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}

CASES = {
    "nothing yet": ({"state": {"waiting": {"reason": "ContainerCreating"}}}, None, False),
    "starting": ({"state": {"running": {}}, "started": False}, None, False),
    "readiness fails": ({"state": {"running": {}}, "started": True}, Reason.NOT_READY, False),
    "pull backs off": ({"state": {"waiting": {"reason": "ImagePullBackOff"}}}, Reason.IMAGE_PULL, True),
    "pull fails": ({"state": {"waiting": {"reason": "ErrImagePull"}}}, Reason.IMAGE_PULL, True),
    "image name": ({"state": {"waiting": {"reason": "InvalidImageName"}}}, Reason.IMAGE_PULL, True),
    "registry away": ({"state": {"waiting": {"reason": "RegistryUnavailable"}}}, Reason.IMAGE_PULL, True),
    "secret missing": ({"state": {"waiting": {"reason": "CreateContainerConfigError"}}}, Reason.CONTAINER_CONFIG, True),
    "first end": ({"state": ended()}, Reason.CONTAINER_FAILED, False),
    "loop": ({"state": BACK_OFF, "lastState": ended(), "restartCount": 1}, Reason.CRASH_LOOP, True),
    "runs again in a loop": (
        {"state": {"running": {}}, "started": False, "lastState": ended(), "restartCount": 4},
        Reason.CRASH_LOOP,
        True,
    ),
    "killed for memory": ({"state": ended(reason="OOMKilled", code=137)}, Reason.OOM_KILLED, False),
    "killed for memory, looping": (
        {"state": BACK_OFF, "lastState": ended(reason="OOMKilled", code=137)},
        Reason.OOM_KILLED,
        True,
    ),
    "no model": ({"state": ended(told("ModelNotFound"))}, Reason.MODEL_NOT_FOUND, True),
    "no model, looping": ({"state": BACK_OFF, "lastState": ended(told("ModelNotFound"))}, Reason.MODEL_NOT_FOUND, True),
    "words before the reason": ({"state": ended(f"log\n{told('InvalidArgument')}\n")}, Reason.INVALID_ARGUMENT, True),
    "engine, first time": ({"state": ended(told("EngineFailed"))}, Reason.ENGINE_FAILED, False),
    "foreign reason": ({"state": ended(told("Whatever"))}, Reason.CONTAINER_FAILED, False),
    "no json object": ({"state": ended('["ModelNotFound"]')}, Reason.CONTAINER_FAILED, False),
    "ended well": ({"state": {"running": {}}, "lastState": ended(code=0)}, None, False),
}


@pytest.mark.parametrize("case", CASES)
def test_the_container_tells_the_reason(raw_pod, case):
    container, reason, stalled = CASES[case]
    problem = view_pod(raw_pod(container=container)).problem
    assert (problem.reason if problem else None) == reason
    assert (problem.stalled if problem else False) == stalled


@pytest.mark.parametrize("reason", sorted(RUNTIME_REASONS))
def test_every_reason_of_the_runtime_is_understood(raw_pod, reason):
    problem = view_pod(raw_pod(container={"state": ended(told(reason, "some words"))})).problem
    assert problem is not None
    assert (problem.reason, problem.message) == (reason, "some words")


def test_the_number_of_restarts_is_told(raw_pod):
    container = {"state": BACK_OFF, "lastState": ended(told("EngineFailed", "boom")), "restartCount": 3}
    problem = view_pod(raw_pod(container=container)).problem
    assert problem is not None
    assert problem.message == "boom (restarted 3 times)"


def test_a_pod_without_a_node_repeats_the_scheduler(raw_pod):
    words = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    conditions = {"PodScheduled": {"status": "False", "reason": "Unschedulable", "message": words}}
    problem = view_pod(raw_pod(conditions=conditions)).problem
    assert problem is not None
    assert (problem.reason, problem.message, problem.stalled) == (Reason.UNSCHEDULABLE, words, False)


def beside(raw_pod, other, *, init=False, own=None):
    """The problem of a pod with a container of a podTemplate beside the replica's own."""
    pod = raw_pod(container=own or {"state": {"running": {}}, "started": True, "ready": True})
    other = {"name": "proxy", **other}
    if init:
        pod["status"]["initContainerStatuses"] = [other]
    else:
        pod["status"]["containerStatuses"].append(other)
    return view_pod(pod).problem


@pytest.mark.parametrize("init", [True, False], ids=["init container", "sidecar"])
@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"state": {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}}, Reason.IMAGE_PULL),
        ({"state": {"waiting": {"reason": "CreateContainerConfigError"}}}, Reason.CONTAINER_CONFIG),
        ({"state": BACK_OFF, "lastState": ended(), "restartCount": 1}, Reason.CRASH_LOOP),
        ({"state": BACK_OFF, "lastState": ended(code=0), "restartCount": 5}, Reason.CRASH_LOOP),
        ({"state": ended(told("ModelNotFound"))}, Reason.CONTAINER_FAILED),
        ({"state": ended(reason="OOMKilled", code=137)}, Reason.OOM_KILLED),
    ],
)
def test_a_container_of_the_users_that_fails_is_told_with_its_name(raw_pod, init, other, reason):
    waits = {"state": {"waiting": {"reason": "PodInitializing"}}}
    problem = beside(raw_pod, other, init=init, own=waits if init else None)
    assert problem is not None
    assert (problem.reason, problem.failed) == (reason, True)
    assert problem.message.startswith("container proxy: ")
    assert "runtime.resources" not in problem.message


def test_of_two_containers_the_one_that_is_not_ready_is_named_and_one_that_failed_first(raw_pod):
    unready = {"state": {"running": {}}, "started": True, "ready": False}
    problem = beside(raw_pod, unready)
    assert problem is not None
    assert (problem.reason, problem.message[:16]) == (Reason.NOT_READY, "container proxy:")
    assert beside(raw_pod, ended(code=0), init=True) is None
    failed = beside(raw_pod, {"state": BACK_OFF, "lastState": ended()}, own=unready)
    assert failed is not None
    assert failed.reason == Reason.CRASH_LOOP


def test_a_ready_pod_has_no_problem_whatever_happened_before(raw_pod):
    """G5: a restarted pod that serves again is like any other."""
    container = {"state": {"running": {}}, "lastState": ended(), "restartCount": 9}
    pod = view_pod(raw_pod(ready=True, container=container))
    assert pod.problem is None
    assert pod.ready_since == 1767225630.0


def test_pods_that_ended_do_not_count(raw_pod):
    failed = raw_pod("a")
    failed["status"]["phase"] = "Failed"
    assert [pod.name for pod in live_pods([failed, raw_pod("b")])] == ["b"]


def test_only_the_newest_revision_is_listened_to(raw_pod):
    loop = {"state": BACK_OFF, "lastState": ended()}
    pods = live_pods([raw_pod("old", container=loop, revision="r1"), raw_pod("new", revision="r2")])
    assert gravest_problem(pods, "r1") is not None
    assert gravest_problem(pods, "r2") is None


def test_terminating_pods_are_not_listened_to(raw_pod):
    loop = {"state": BACK_OFF, "lastState": ended()}
    assert gravest_problem(live_pods([raw_pod(container=loop, terminating=True)]), "r1") is None


def test_a_failing_pod_outweighs_a_pending_one(raw_pod):
    pending = raw_pod("a", conditions={"PodScheduled": {"status": "False", "message": "no nodes"}})
    failing = raw_pod("b", container={"state": ended()})
    problem = gravest_problem(live_pods([pending, failing]), "r1")
    assert problem is not None
    assert problem.reason == Reason.CONTAINER_FAILED


def test_a_new_deployment_has_no_counts_and_is_not_current():
    view = view_deployment({"metadata": {"generation": 1}, "spec": {"replicas": 3}})
    assert (view.wanted, view.current, view.available) == (3, False, 0)


def test_a_deployments_complaints_are_read():
    conditions = [
        {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "too slow"},
        {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"},
    ]
    raw = {"metadata": {"generation": 1}, "spec": {}, "status": {"observedGeneration": 1, "conditions": conditions}}
    view = view_deployment(raw)
    assert (view.deadline_exceeded, view.pods_refused, view.current) == ("too slow", "exceeded quota", True)


def refused(raw_pod, second, reason="UnexpectedAdmissionError", **changes):
    pod = raw_pod(f"refused-{second}", created=f"2026-01-01T00:00:{second:02}Z", **changes)
    pod["status"] = {"phase": "Failed", "reason": reason, "message": "no healthy devices"}
    return pod | {"spec": {"nodeName": "gpu-3"}}


def test_a_node_that_refuses_a_replica_is_heard_and_at_the_third_nobody_waits_any_more(raw_pod):
    pods = [refused(raw_pod, 1)]
    problem = ended_by_node(pods)
    assert problem is not None
    assert (problem.reason, problem.stalled, problem.failed) == (Reason.ENDED_BY_NODE, False, True)
    assert problem.message == "gpu-3: UnexpectedAdmissionError: no healthy devices"
    pods += [refused(raw_pod, 2), refused(raw_pod, 3)]
    third = ended_by_node(reversed(pods))
    assert third is not None
    assert third.stalled
    assert third.message == problem.message, "the same words for each, so that the status is not written for each"


def test_a_node_is_heard_until_a_replica_that_came_later_runs(raw_pod):
    running = {"state": {"running": {}}}
    before, after = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"
    evicted = refused(raw_pod, 1, "Evicted")
    assert ended_by_node([evicted, raw_pod("old", created=before, container=running)]) is not None
    assert ended_by_node([evicted, raw_pod("new", created=after)]) is not None
    assert ended_by_node([raw_pod("new", created=after, container=running), evicted]) is None
    assert ended_by_node([raw_pod("new", created=after, container=running)]) is None


def test_only_pods_of_the_revision_that_stay_are_asked(raw_pod):
    pods = [refused(raw_pod, 1, revision="r0"), refused(raw_pod, 2, terminating=True), refused(raw_pod, 3)]
    assert list(staying(pods, "r1")) == pods[2:]
