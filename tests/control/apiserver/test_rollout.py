"""Rollouts beside a real Deployment controller, with a played scheduler that has only so many GPUs."""

import pytest

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

SOURCE = {"pvc": {"claimName": "models", "path": "smol"}}


class Rollout:
    """A ModelServer on GPUs, replaced by one with another name for its model; remembers what was seen on the way."""

    def __init__(self, kube, kubelet, wait, replicas, gpus):
        self.kube, self.kubelet, self.wait, self.replicas, self.gpus = kube, kubelet, wait, replicas, gpus
        self.surges, self.least, self.someone_waits = set(), replicas, False
        self.old = set()

    def apply(self, name, **spec):
        model = {"source": SOURCE, "servedName": name}
        self.kube.server(replicas=self.replicas, accelerator={"count": 1}, model=model, **spec)

    def begin(self, **spec):
        self.apply("first", **spec)
        self.wait(lambda: self.kubelet.schedule(self.gpus) and self.is_ready())
        self.old = {pod["metadata"]["name"] for pod in self.kubelet.pods()}
        self.apply("second", **spec)
        self.wait(lambda: self.deployment()["metadata"]["generation"] >= 2)

    def deployment(self):
        return self.kube.get("deployment")

    def is_ready(self):
        server = self.kube.get("modelserver")
        seen = server["status"].get("observedGeneration") == server["metadata"]["generation"]
        return seen and self.kube.condition().get("status") == "True"

    def look(self, serve=lambda: True):
        """One round: notes, then the scheduler's, unless it rests by what was noted. In the other order a gap could be
        over before it is noted.
        """
        pods = self.kubelet.pods()
        self.least = min(self.least, sum(1 for pod in pods if pod["metadata"]["name"] in self.kubelet.replicas))
        self.surges.add(self.deployment()["spec"]["strategy"]["rollingUpdate"]["maxSurge"])
        told = [item for pod in pods for item in pod["status"].get("conditions", ()) if item["type"] == "PodScheduled"]
        self.someone_waits |= bool(told)
        if serve():
            self.kubelet.schedule(self.gpus)
        return pods

    def told_in_place(self):
        """The notes of the events that say so; a condition may be gone before a look."""
        events = self.kube.list("events.events.k8s.io")
        return [event["note"] for event in events if event["reason"] == "ReplacingInPlace"]

    def is_over(self):
        """Whether only new replicas are left, all of them serve, and the Deployment is as before."""
        pods = {pod["metadata"]["name"] for pod in self.look()}
        surge = self.deployment()["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
        return len(pods) == self.replicas and not pods & self.old and self.is_ready() and surge == 1


@pytest.fixture
def rollout(kube, kubelet, wait):
    return lambda replicas, gpus: Rollout(kube, kubelet, wait, replicas, gpus)


def test_with_no_free_gpu_old_replicas_go_first_one_at_a_time(rollout, operator, wait):
    """G13; the operator is replaced in the middle of it and goes on in place."""
    roll = rollout(replicas=2, gpus=2)
    roll.begin()
    wait(lambda: roll.look() and 0 in roll.surges)
    operator.stop()
    operator.start()
    wait(roll.is_over)
    assert roll.surges == {0, 1}
    assert roll.least == 1
    assert roll.told_in_place()


def test_a_single_replica_leaves_a_gap_and_says_so(rollout, wait):
    roll = rollout(replicas=1, gpus=1)
    roll.begin()
    wait(roll.is_over)
    assert "nothing serves in between" in wait(roll.told_in_place)[0]


@pytest.mark.parametrize("free", [1, 9])
def test_with_a_free_gpu_capacity_never_drops(rollout, wait, free):
    roll = rollout(replicas=2, gpus=2 + free)
    roll.begin()
    wait(roll.is_over)
    assert (roll.surges, roll.least) == ({1}, 2)


def test_a_new_revision_that_crashes_in_place_stops_and_the_old_one_serves_on(rollout, operator, wait):
    roll = rollout(replicas=2, gpus=2)
    roll.begin()
    wait(lambda: roll.look(serve=lambda: not roll.someone_waits) and 0 in roll.surges and roll.least == 1)
    last = {"terminated": {"exitCode": 1, "reason": "Error"}}
    roll.kubelet.fail({"waiting": {"reason": "CrashLoopBackOff"}}, restarts=3, last=last)
    wait(lambda: roll.kube.condition().get("reason") == "CrashLoopBackOff")
    wait(lambda: "the rollout stops here, 1 old replicas serve on" in roll.kube.condition()["message"])
    operator.wait_for_resyncs(2)
    assert len([pod for pod in roll.kubelet.pods() if pod["metadata"]["name"] in roll.old]) == 1
    assert roll.kube.condition("Available")["status"] == "True"
    roll.apply("third")
    wait(roll.is_over)


def test_a_new_revision_that_fits_no_node_takes_no_old_one(rollout, operator, wait, kube):
    """A typo in the node selector: the scheduler says so, and the end of an old replica would not help."""
    roll = rollout(replicas=1, gpus=1)
    roll.begin()
    roll.apply("second", podTemplate={"spec": {"nodeSelector": {"pool": "typo"}}})
    lost = wait(lambda: [pod for pod in roll.look(serve=lambda: False) if pod["spec"].get("nodeSelector")])
    new = lost[0]["metadata"]["name"]
    words = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."
    homeless = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words}
    kube.patch("pod", new, {"status": {"conditions": [homeless]}}, subresource="status")
    wait(lambda: kube.condition().get("reason") == "Unschedulable")
    operator.wait_for_resyncs(2)
    roll.look(serve=lambda: False)
    assert roll.surges == {1}
    assert roll.least == 1
    assert words in kube.condition()["message"]
