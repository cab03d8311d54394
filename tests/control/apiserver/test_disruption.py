"""A node that is drained or taken away: its replicas end as in a scale-down, others come, and what was cut is told.

`kubectl drain` asks for evictions, and so does whoever is warned of a spot instance's end. What a kubelet would do is
played: a finalizer keeps a pod that ends, as its drain would.
"""

import json
import time

import pytest

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

KEEP = {"metadata": {"finalizers": ["octavo.test/kubelet"]}}
LET_GO = {"metadata": {"finalizers": []}}


@pytest.fixture
def two(kube, kubelet, wait):
    """A ModelServer with two replicas that serve, whose pods stay until the test lets them go."""
    kube.server(replicas=2, drain={"timeout": "5m"})
    wait(lambda: len(kubelet.serve()) == 2)
    wait(lambda: kube.condition().get("status") == "True")
    wait(lambda: kube.get("poddisruptionbudget").get("status", {}).get("disruptionsAllowed") == 1)
    names = [pod["metadata"]["name"] for pod in kubelet.pods()]
    for name in names:
        kube.patch("pod", name, KEEP)
    yield kube, names
    for name in names:
        if kube.find("pod", name):
            kube.patch("pod", name, LET_GO)


def evict(kube, name):
    """Asks as `kubectl drain` does; returns what the API server answers when it refuses."""
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": kube.namespace}}
    path = f"/api/v1/namespaces/{kube.namespace}/pods/{name}/eviction"
    return kube.run("create", "--raw", path, "-f", "-", stdin=eviction, check=False).stderr


def end(kube, name, cut, *, phase="Succeeded"):
    """The container ends with these last words."""
    words = json.dumps({"reason": "RequestsCut", "message": f"{cut} requests cut", "requests": cut})
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ended = {"exitCode": 0, "reason": "Completed", "message": words, "startedAt": now, "finishedAt": now}
    pod = kube.get("pod", name)
    container = pod["status"]["containerStatuses"][0] | {"ready": False, "state": {"terminated": ended}}
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": now}
    status = {"phase": phase, "containerStatuses": [container], "conditions": [ready]}
    kube.patch("pod", name, {"status": status}, subresource="status")


def told_of_cuts(kube):
    return [event["note"] for event in kube.list("events.events.k8s.io") if event["reason"] == "RequestsCut"]


def test_g14_a_node_drain_takes_one_replica_after_the_other_and_each_drains(two, kubelet, operator, wait):
    kube, (first, second) = two
    assert evict(kube, first) == ""
    assert "disruption budget" in evict(kube, second)
    leaving = kube.get("pod", first)
    assert leaving["spec"]["terminationGracePeriodSeconds"] > 300  # the drain's time, whoever asks for the end
    wait(lambda: len(kubelet.serve()) == 2)  # another one comes while that one drains
    wait(lambda: kube.condition().get("status") == "True")
    wait(lambda: kube.condition("Progressing")["reason"] == "Draining")
    assert kube.get("modelserver")["status"]["desiredReplicas"] == kube.get("deployment")["spec"]["replicas"] == 2
    end(kube, first, 2)
    kube.patch("pod", first, LET_GO)
    wait(lambda: told_of_cuts(kube))
    series = f'octavo_operator_requests_cut_total{{name="chat",namespace="{kube.namespace}"}} 2.0'
    wait(lambda: series in operator.metrics())
    wait(lambda: evict(kube, second) == "")
    wait(lambda: len(kubelet.serve()) == 2)
    wait(lambda: kube.condition().get("status") == "True")


def test_a_node_that_ends_its_pods_by_itself_leaves_failed_ones_that_are_told_of_at_once(two, kubelet, wait):
    """A spot instance's end, or a shutdown: the kubelet ends the containers, and nobody deletes the pod."""
    kube, (first, _) = two
    end(kube, first, 3, phase="Failed")
    (note,) = wait(lambda: told_of_cuts(kube))
    assert note.startswith(f"{first} ended with 3 requests cut")
    assert "deletionTimestamp" not in kube.get("pod", first)["metadata"]
    wait(lambda: len([pod for pod in kubelet.pods() if pod["metadata"]["name"] != first]) == 2)
    wait(lambda: kubelet.serve() and kube.get("modelserver")["status"]["readyReplicas"] == 2)
    wait(lambda: kube.condition().get("status") == "True")
    kube.run("delete", "pod", first, "--wait=false")
    kube.patch("pod", first, LET_GO)
    wait(lambda: not kube.find("pod", first))
    assert len(told_of_cuts(kube)) == 1
