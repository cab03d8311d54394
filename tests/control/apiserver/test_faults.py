"""What goes wrong between the operator and the API server, call by call: it converges and lives.

The operator runs behind a proxy that spoils or kills. Longer, as `make soak` does it: OCTAVO_KILL_STRIDE=1, a kill
around every single call, and OCTAVO_LATE_SECONDS=30, calls that are late by so much.
"""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain, product

import pytest

from kit.api_proxy import ApiProxy, Fault, well

pytestmark = pytest.mark.apiserver

STRIDE = int(os.environ.get("OCTAVO_KILL_STRIDE", "11"))
LATE_SECONDS = float(os.environ.get("OCTAVO_LATE_SECONDS", "6"))
"""Longer than a write may take (4 s), so that it is given up, tried again, and arrives after that."""
PATIENCE = 120 + 6 * LATE_SECONDS
CHILDREN = ("serviceaccount", "networkpolicy", "service", "deployment")


@pytest.fixture(scope="module")
def proxied(operator, operator_with, tmp_path_factory):
    """An operator behind a proxy; the session's operator rests."""
    operator.stop()
    folder = tmp_path_factory.mktemp("faults")
    proxy = ApiProxy(operator.kubeconfig, folder)
    one = operator_with(proxy.kubeconfig, folder / "operator.log")
    try:
        one.start()
        yield one, proxy
    finally:
        proxy.fault = well
        one.stop()
        proxy.close()
        operator.start()


@pytest.fixture
def spoiled(proxied):
    """The same, healed after each test."""
    one, proxy = proxied
    yield one, proxy
    proxy.fault = well
    if not one.alive:
        one.stop(signal.SIGKILL)
        one.start()


def ours(call, kube):
    """Whether the call is about the test's namespace and part of a reconcile."""
    return f"/namespaces/{kube.namespace}/" in call.path and not call.watch


def state(kube):
    """What must be the same whatever went wrong: each child once, and what it says."""
    found = {}
    for kind in CHILDREN:
        (child,) = kube.list(kind) if kind != "serviceaccount" else [kube.get(kind)]
        found[kind] = child.get("spec"), child["metadata"]["labels"]
    sets = kube.list("replicasets")
    found["revisions"] = sorted(raw["metadata"]["annotations"]["deployment.kubernetes.io/revision"] for raw in sets)
    found["service"] = found["service"][0]["ports"], found["service"][0]["selector"]
    return found


def numberless(found):
    """The same, with the number of revisions instead of their numbers."""
    return found | {"revisions": len(found["revisions"])}


def settled(kube, replicas, *, port=None):
    """Whether children and status say what the spec says."""
    server, deployment = kube.get("modelserver"), kube.find("deployment")
    status = server.get("status", {})
    assert deployment is not None
    assert deployment["spec"]["replicas"] == replicas
    # Each revision has its ReplicaSet before the next one comes, or their number depends on who is faster.
    assert deployment.get("status", {}).get("observedGeneration") == deployment["metadata"]["generation"]
    assert status.get("observedGeneration") == server["metadata"]["generation"]
    assert status.get("desiredReplicas") == replicas
    arguments = deployment["spec"]["template"]["spec"]["containers"][0].get("args", [])
    assert port is None or str(port) in " ".join(arguments)
    assert all(kube.find(kind) for kind in CHILDREN)
    return True


def life(kube, wait):
    """Create, change, scale, lose a child: after each, everything is as it should be."""
    kube.server(replicas=1)
    wait(lambda: settled(kube, 1), PATIENCE)
    kube.server(replicas=1, runtime={"maxNumSeqs": 17})
    wait(lambda: settled(kube, 1, port=17), PATIENCE)
    kube.server(replicas=3, runtime={"maxNumSeqs": 17})
    wait(lambda: settled(kube, 3), PATIENCE)
    kube.run("delete", "service", "chat")
    wait(lambda: settled(kube, 3), PATIENCE)
    return state(kube)


@pytest.fixture(scope="module")
def expected():
    """The end of an undisturbed life, from the first test of this module that needs it."""
    return {}


def undisturbed(expected, kube, wait):
    if not expected:
        expected.update(life(kube, wait))
        gone(kube, wait)
    return expected


def gone(kube, wait):
    """Deletes the ModelServer and waits until nothing is left of it."""
    kube.run("delete", "modelserver", "chat", "--ignore-not-found", "--wait=true")
    wait(lambda: kube.list("replicasets") == [] and not any(kube.find(kind) for kind in CHILDREN))


class Once:
    """Each different call of a namespace fails so many times, then never again."""

    def __init__(self, kube, fault, times=1):
        self.kube, self.fault, self.times = kube, fault, times
        self.counted, self.lock = Counter(), threading.Lock()
        self.late = self.arrived = 0

    def __call__(self, call):
        if not ours(call, self.kube):
            return None
        with self.lock:
            kind = (call.verb, call.resource, call.status)
            self.counted[kind] += 1
            if self.counted[kind] > self.times:
                return None
            self.late += bool(self.fault.delay)
            return replace(self.fault, after=self.arrive) if self.fault.delay else self.fault

    def arrive(self):
        with self.lock:
            self.arrived += 1


FAULTS = {
    "409": Fault(forward=False, status=409),
    "410": Fault(forward=False, status=410),
    "422": Fault(forward=False, status=422),
    "429": Fault(forward=False, status=429, headers={"Retry-After": "1"}),
    "500": Fault(forward=False, status=500),
    "503": Fault(forward=False, status=503),
    "done, then 500": Fault(status=500),
    "reset": Fault(forward=False, reset=True),
    "done, then reset": Fault(reset=True),
    "truncated": Fault(truncate=True),
    "late": Fault(delay=LATE_SECONDS),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_call_may_fail_once(name, spoiled, kube, wait, expected):
    one, proxy = spoiled
    want = undisturbed(expected, kube, wait)
    proxy.fault = once = Once(kube, FAULTS[name])
    # What is refused for good is tried again after a minute, or when somebody changes something: here the next edit.
    end = life(kube, wait)
    if FAULTS[name].delay:
        # The first creation comes after the update that followed it and is undone: two more revisions of two templates.
        wait(lambda: once.arrived == once.late > 0, PATIENCE)
        wait(lambda: settled(kube, 3, port=17) and numberless(state(kube)) == numberless(want), PATIENCE)
    else:
        assert end == want
    assert one.alive
    assert sum(once.counted.values()) > len(CHILDREN)


def duplicated(lines):
    return chain.from_iterable((line, line) for line in lines)


def swapped(lines):
    """Each second event before the one that it followed; the last one of a pair waits at most for the next."""
    held = None
    for line in lines:
        if held is None:
            held = line
            continue
        yield line
        yield held
        held = None


@pytest.mark.parametrize("order", [duplicated, swapped])
def test_events_may_come_twice_and_in_another_order(order, spoiled, kube, wait, expected):
    one, proxy = spoiled
    want = undisturbed(expected, kube, wait)
    one.stop()
    proxy.fault = lambda call: Fault(events=order) if call.watch else None
    one.start()
    assert life(kube, wait) == want
    assert one.alive


def test_a_stale_list_undoes_nothing(spoiled, kube, wait, expected):
    one, proxy = spoiled
    want = undisturbed(expected, kube, wait)
    one.wait_for_resyncs(1)
    proxy.lists.clear()
    one.wait_for_resyncs(2)  # remembers what the lists say now: nothing of this test
    proxy.fault = lambda call: (
        Fault(stale=True) if call.verb == "GET" and "limit=" in call.path and not call.watch else None
    )
    assert life(kube, wait) == want
    writes = one.wait_for_silence("PATCH|POST|DELETE")
    one.wait_for_resyncs(2)
    assert one.requests("PATCH|POST|DELETE") == writes
    assert one.alive


class Killer:
    """Kills the operator around the n-th call about a namespace."""

    def __init__(self, one, kube, number, *, after):
        self.one, self.kube, self.number, self.after = one, kube, number, after
        self.calls, self.lock, self.done = 0, threading.Lock(), threading.Event()

    def __call__(self, call):
        if not ours(call, self.kube):
            return None
        with self.lock:
            self.calls += 1
            if self.calls != self.number:
                return None
        return Fault(after=self.kill) if self.after else Fault(before=self.kill, forward=False, reset=True)

    def kill(self):
        self.one.stop(signal.SIGKILL)
        self.done.set()

    def disarm(self):
        """From now on it begins no kill. Returns whether it has; that one is over then."""
        with self.lock:
            begun, self.number = self.calls >= self.number, 0
        return begun and self.done.wait(180)


@dataclass(frozen=True)
class Step:
    """A change, and what is so when it is carried out."""

    name: str
    change: Callable[[object], object]
    replicas: int
    sequences: int | None = 17

    def take(self, kube, wait, *, change=True):
        if change:
            self.change(kube)
        wait(lambda: settled(kube, self.replicas, port=self.sequences))


STEPS = (
    Step("create", lambda kube: kube.server(replicas=1), 1, None),
    Step("update", lambda kube: kube.server(replicas=1, runtime={"maxNumSeqs": 17}), 1),
    Step("scale", lambda kube: kube.server(replicas=3, runtime={"maxNumSeqs": 17}), 3),
    Step("lose a child", lambda kube: kube.run("delete", "service", "chat"), 3),
)


def number_of_calls(step, kube, proxy, wait):
    """How many calls a step takes when nothing goes wrong."""
    proxy.fault = counted = Once(kube, None, times=0)
    step.take(kube, wait)
    proxy.fault = well
    return sum(counted.counted.values())


def killed_life(at, killer, spoiled, kube, wait):
    """The life of `STEPS`, with the killer let loose in one of them. Returns whether it killed."""
    one, proxy = spoiled
    killed = False
    for index, step in enumerate(STEPS):
        if index != at:
            step.take(kube, wait)
            continue
        proxy.fault = killer
        step.change(kube)
        if not killer.done.wait(15):  # it may take a call less than the first time, or just be slow
            wait(lambda step=step: killer.done.is_set() or settled(kube, step.replicas, port=step.sequences))
        proxy.fault, killed = well, killer.disarm()
        if killed:
            one.start()
        step.take(kube, wait, change=False)
    return killed


def test_a_kill_around_any_call_changes_nothing_in_the_end(spoiled, kube, wait, expected):
    one, proxy = spoiled
    want = undisturbed(expected, kube, wait)
    numbers = [number_of_calls(step, kube, proxy, wait) for step in STEPS]
    kills = Counter()
    for index, step in enumerate(STEPS):
        for number, after in product(range(1, numbers[index] + 1, STRIDE), (False, True)):
            gone(kube, wait)
            killer = Killer(one, kube, number, after=after)
            kills[step.name] += killed_life(index, killer, spoiled, kube, wait)
            assert state(kube) == want, f"killed {'after' if after else 'before'} call {number} of {step.name}"
    print("calls:", numbers, "kills:", dict(kills))
    assert all(kills[step.name] for step in STEPS)


def left(kube):
    """What there is of a ModelServer that was deleted."""
    return [kind for kind in ("modelserver", *CHILDREN) if kube.find(kind)] + kube.list("replicasets")


def test_a_kill_around_any_call_of_a_deletion_leaves_nothing(spoiled, kube, wait):
    """Owner references do it: as a rule the operator makes no call, and is killed right after the request."""
    one, proxy = spoiled

    def delete(cascade, fault):
        kube.server(replicas=1)
        wait(lambda: settled(kube, 1))
        proxy.fault = fault
        kube.run("delete", "modelserver", "chat", "--wait=false", f"--cascade={cascade}")

    around = [("background", 0, False)]
    for cascade in ("background", "foreground"):
        counted = Once(kube, None, times=0)
        delete(cascade, counted)
        wait(lambda: not left(kube))
        proxy.fault, number = well, sum(counted.counted.values())
        print(f"calls of a deletion ({cascade}):", dict(counted.counted))
        around += [(cascade, *call) for call in product(range(1, number + 1, STRIDE), (False, True))]
    for cascade, call, after in around:
        killer = Killer(one, kube, call, after=after)
        delete(cascade, killer)
        if call:
            killer.done.wait(15)  # it may take a call less this time
        else:
            killer.kill()
        proxy.fault, killed = well, killer.disarm()
        wait(lambda: not left(kube))  # with nobody there to do it
        if killed:
            one.start()
        one.wait_for_resyncs(1)
        assert not left(kube), f"killed around call {call} of a deletion ({cascade})"
