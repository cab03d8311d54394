"""How replicas go on a real node, under streams: a node that is drained, a spot instance's end, fewer that are wanted;
and one that the node will not have.

The node is alone, so a replica that must leave it waits until it may come back; `kubectl drain` takes the ModelServer's
pods only, since the operator would be on another node. The replicas run the simulated runner.
"""

from __future__ import annotations

import copy
import json
import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from cluster.node_config import NODE_NAME
from kit import prepare
from kit.install import RELEASE, SYSTEM_NAMESPACE
from kit.kube import NAME_LABEL, wait_reachable, wait_until
from kit.load import Load
from soak.goals import Goal, lost

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kubernetes.client import V1Pod

    from kit.kube import ModelServerView
    from kit.target import Target

NAMESPACE: Final = "octavo-drains"
NAME: Final = "drained"
REFUSED: Final = "refused"
SECONDS: Final = 600.0
STEP_SECONDS: Final = 0.05
SPOT_SECONDS: Final = 10
"""What the handler of a cloud's warning gives a pod."""
RUNTIME: Final = {
    "args": ["--runner", "sim", "--sim-step-time", str(STEP_SECONDS)],
    "maxNumSeqs": 16,
    "kvCache": {"size": "256Mi"},
    "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}},
}


def run() -> Iterator[Goal]:
    """The local node is brought up, and is left up."""
    with prepare.demo_node(NAMESPACE) as where:
        where.kube.apply(_server())
        _wait_two(where)
        wait_reachable(where.url(NAME, NAMESPACE))
        yield from _drain(where)
        yield from _spot(where)
        for fuller in ("younger", "older"):
            yield from _fewer(where, fuller)
        yield from _refuse(where)


def _server() -> dict[str, Any]:
    server = prepare.demo_server(NAME, NAMESPACE)
    spec = server["spec"]
    del spec["autoscaling"]
    spec["replicas"], spec["runtime"] = 2, RUNTIME
    return server


# --- the node is drained ----------------------------------------------------------------------------------------------


def _drain(where: Target) -> Iterator[Goal]:
    name, old = "kubectl drain of the one node, 2 replicas", _pods(where)
    with ExitStack() as stack:
        loads = [stack.enter_context(_load(where, seconds=seconds)) for seconds in (1, 15)]
        _wait_finished(loads[0])
        done = stack.enter_context(ThreadPoolExecutor(1)).submit(where.kube.kubectl, *_drain_command())
        stack.callback(where.kube.kubectl, "uncordon", NODE_NAME)
        wait_until("a replica that waits for a node", lambda: _waits_for_a_node(where), seconds=SECONDS)
        _wait_finished(loads[0])
        kept = [pod for pod in _pods(where).values() if pod.metadata.uid in _uids(old)]
        words = f"{len(kept)} of 2 old ones kept, drain {'ended' if done.done() else 'waits'}"
        met = len(kept) == 1 and not done.done()
        yield Goal(f"{name}: while no replica can come back", "one is kept, the drain waits", words, met)
        yield from _told(where, name)

        where.kube.kubectl("uncordon", NODE_NAME)
        done.result(timeout=SECONDS)
        wait_until("two new ones", lambda: not _uids(old) & _uids(_pods(where)), seconds=SECONDS)
        _wait_two(where)
        _wait_finished(loads[0])
        yield Goal(f"{name}: after uncordon", "the drain ends, 2 new ones Ready", "so it is", met=True)
    yield lost(f"{name}: streams failed or cut", (load.tally for load in loads))


def _drain_command() -> tuple[str, ...]:
    selector = f"--pod-selector={NAME_LABEL}={NAME}"
    return "drain", NODE_NAME, selector, "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={SECONDS:.0f}s"


def _waits_for_a_node(where: Target) -> bool:
    return bool(_view(where, NAME).condition("CapacityAvailable")["status"] == "False")


def _told(where: Target, name: str) -> Iterator[Goal]:
    """Whether the conditions have the scheduler's own words."""
    view = _view(where, NAME)
    (waiting,) = [pod for pod in where.kube.pods(NAME, NAMESPACE) if pod.status.phase == "Pending"]
    scheduled = next(item for item in waiting.status.conditions if item.type == "PodScheduled")
    for kind in ("CapacityAvailable", "Ready"):
        found = view.condition(kind)
        met = (found["status"], found["reason"]) == ("False", "Unschedulable") and scheduled.message in found["message"]
        goal = "False, in the scheduler's words"
        yield Goal(f"{name}: {kind}", goal, f"{found['status']}, {found['reason']}: {found['message']}", met)


# --- a spot instance ends ---------------------------------------------------------------------------------------------


def _spot(where: Target) -> Iterator[Goal]:
    """Streams of 4 s that fit into the time, and of 40 s that do not, on the replica that goes and on the other one."""
    name, pods = f"a pod deleted with {SPOT_SECONDS} s to end, 2 replicas", _pods(where)
    victim, other = sorted(pods)
    with ExitStack() as stack:
        fits, long, elsewhere = (
            stack.enter_context(_load(where, pods[pod], seconds=seconds, users=users, asks=1))
            for pod, seconds, users in ((victim, 4, 3), (victim, 40, 5), (other, 40, 2))
        )
        for load in (fits, long, elsewhere):
            _wait_running(load)
        steady = stack.enter_context(_load(where, seconds=1))
        before = _metric(where)
        where.kube.kubectl("delete", "pod", victim, "-n", NAMESPACE, f"--grace-period={SPOT_SECONDS}")
        _wait_two(where)
        _wait_finished(steady)
    yield lost(f"{name}: streams that fit, and of the other one", (load.tally for load in (fits, elsewhere, steady)))
    cut = len(long.tally.cut) + len(long.tally.failed)
    wait_until("the metric", lambda: _metric(where) > before, seconds=120)
    counted, told = _metric(where) - before, wait_until("the event", lambda: _event(where, victim), seconds=120)
    words = f"{cut} by the clients, {counted:.0f} by the metric, {told} by the event"
    yield Goal(f"{name}: streams cut, as counted", "the same by all", words, 0 < cut == counted == told)


def _metric(where: Target) -> float:
    """Requests that the operator has counted as cut for the ModelServer."""
    selector = f"app.kubernetes.io/instance={RELEASE}"
    (pod,) = where.kube.core.list_namespaced_pod(SYSTEM_NAMESPACE, label_selector=selector).items
    with urllib.request.urlopen(f"http://{pod.status.pod_ip}:8080/metrics", timeout=30) as answer:
        text = answer.read().decode()
    series = re.escape(f'octavo_operator_requests_cut_total{{name="{NAME}",namespace="{NAMESPACE}"}}')
    found = re.search(rf"^{series} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def _event(where: Target, pod: str) -> int | None:
    """Requests that an event says a pod has cut."""
    events = json.loads(where.kube.kubectl("get", "events.events.k8s.io", "-n", NAMESPACE, "-o", "json"))["items"]
    notes = [event["note"] for event in events if event["reason"] == "RequestsCut"]
    told = [found for note in notes if (found := re.match(rf"{pod} ended with (\d+) requests cut", note))]
    return int(told[0][1]) if told else None


# --- fewer are wanted -------------------------------------------------------------------------------------------------


def _fewer(where: Target, which: str) -> Iterator[Goal]:
    """Scaled down in the moment in which streams have begun: the fuller replica is the older or the younger one."""
    name, pods = f"2 replicas scaled to 1, the {which} one fuller", _pods(where)
    older, younger = sorted(pods, key=lambda pod: pods[pod].status.start_time)
    fuller, emptier = (younger, older) if which == "younger" else (older, younger)
    with ExitStack() as stack:
        loads = [
            stack.enter_context(_load(where, pods[pod], seconds=seconds, users=users, asks=1))
            for pod, seconds, users in ((fuller, 30, 4), (emptier, 15, 2))
        ]
        for load in loads:
            _wait_running(load)
        where.kube.kubectl("scale", "modelserver", NAME, "-n", NAMESPACE, "--replicas=1")
        wait_until("one replica", lambda: len(_pods(where)) == 1, seconds=SECONDS)
        (left,) = _pods(where)
    words = "the fuller one" if left == fuller else "the emptier one"
    yield Goal(f"{name}: stays", "the fuller one", words, left == fuller)
    yield lost(f"{name}: streams failed or cut", (load.tally for load in loads))
    where.kube.kubectl("scale", "modelserver", NAME, "-n", NAMESPACE, "--replicas=2")
    _wait_two(where)


# --- the node refuses one ---------------------------------------------------------------------------------------------


def _refuse(where: Target) -> Iterator[Goal]:
    """A replica that is put on the node past the scheduler and wants more cores than there are; then one that fits."""
    fits = _server()
    fits["metadata"]["name"] = REFUSED
    fits["spec"] |= {"replicas": 1, "podTemplate": {"spec": {"nodeName": NODE_NAME}}}
    large = copy.deepcopy(fits)
    large["spec"]["runtime"]["resources"] = {"requests": {"cpu": "48", "memory": "256Mi"}}
    where.kube.apply(large)
    name = "a replica for which the node has too few cores"
    words = wait_until("three refusals", lambda: _stalled(where), seconds=120)
    met = words.startswith(f"EndedByNode: {NODE_NAME}: OutOfcpu: ")
    yield Goal(f"{name}: refused by the kubelet", f"EndedByNode: {NODE_NAME}: OutOfcpu: …", words, met)
    where.kube.apply(fits)
    wait_until("one that fits", lambda: _view(where, REFUSED).ready, seconds=SECONDS)
    yield Goal(f"{name}: with fewer", "Ready", "Ready", met=True)
    where.kube.kubectl("delete", "modelserver", REFUSED, "-n", NAMESPACE)


def _stalled(where: Target) -> str | None:
    """Reason and words of Stalled, while it is."""
    found = _view(where, REFUSED).condition("Stalled")
    return f"{found['reason']}: {found['message']}" if found["status"] == "True" else None


# --- what all of them use ---------------------------------------------------------------------------------------------


def _load(where: Target, pod: V1Pod | None = None, *, seconds: float, users: int = 4, asks: int | None = None) -> Load:
    """Streams that take so long each, through the Service or straight to one pod."""
    url = f"http://{pod.status.pod_ip}:8000" if pod else where.url(NAME, NAMESPACE)
    return Load(url, NAME, users=users, max_tokens=round(seconds / STEP_SECONDS), asks=asks)


def _wait_running(load: Load) -> None:
    """Until each of its users reads a stream."""
    tally = load.tally
    wait_until("running streams", lambda: len(tally.first_piece_seconds) == tally.started > 0, seconds=120, every=0.1)


def _wait_finished(load: Load) -> None:
    before = load.tally.finished
    wait_until("finished streams", lambda: load.tally.finished >= before + 8, seconds=SECONDS)


def _pods(where: Target) -> dict[str, V1Pod]:
    """The pods that are not going, by name."""
    pods = where.kube.pods(NAME, NAMESPACE)
    return {pod.metadata.name: pod for pod in pods if pod.metadata.deletion_timestamp is None}


def _view(where: Target, name: str) -> ModelServerView:
    view = where.kube.modelserver(name, NAMESPACE)
    assert view is not None, "it was applied"
    return view


def _uids(pods: dict[str, V1Pod]) -> set[str]:
    return {pod.metadata.uid for pod in pods.values()}


def _wait_two(where: Target) -> None:
    """Until two replicas serve, and no third one is still going."""

    def two() -> bool:
        view = _view(where, NAME)
        return view.ready and view.ready_replicas == 2 and len(where.kube.pods(NAME, NAMESPACE)) == 2

    wait_until("two replicas that serve", two, seconds=SECONDS)
