"""Who goes when fewer are wanted, with the real ReplicaSet controller; and what is said of requests that were cut."""

import json

import pytest

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

ADVISORY = {"mode": "Advisory", "maxReplicas": 4, "targets": {"waitingPerReplica": 2}}
"""Scraped as often as what is scaled, and scaled by hand."""


@pytest.fixture
def four(kube, kubelet, wait):
    """A ModelServer with four replicas that serve."""
    kube.server(replicas=4, autoscaling=ADVISORY)
    wait(lambda: len(kubelet.serve()) == 4)
    wait(lambda: kube.condition().get("status") == "True")
    return kube


def test_the_replicas_with_the_fewest_tokens_in_flight_go(four, kubelet, wait):
    a, b, c, d = sorted(pod["metadata"]["name"] for pod in kubelet.pods())

    def scale(replicas, **used):
        for name, tokens in zip((a, b, c, d), used.values(), strict=True):
            kubelet.replicas[name].used = tokens
        seen = {pod["metadata"]["name"]: kubelet.replicas[pod["metadata"]["name"]].visits for pod in kubelet.pods()}
        # Whoever asks once more has taken the answer before.
        wait(lambda: all(kubelet.replicas[name].visits >= visits + 3 for name, visits in seen.items()))
        four.run("scale", "oms/chat", f"--replicas={replicas}")
        wait(lambda: len(kubelet.pods()) == replicas)
        return {pod["metadata"]["name"]: pod["metadata"]["annotations"] for pod in kubelet.pods()}

    left = scale(2, a=300, b=10, c=200, d=20)
    assert left.keys() == {a, c}
    assert all("controller.kubernetes.io/pod-deletion-cost" not in annotations for annotations in left.values())
    assert scale(1, a=5, b=0, c=200, d=0).keys() == {c}


def test_requests_that_a_replica_cut_are_counted_and_told(four, kubelet, operator, wait):
    pod = kubelet.pods()[0]
    four.patch("pod", pod["metadata"]["name"], {"metadata": {"finalizers": ["octavo.test/kubelet"]}})
    four.run("delete", "pod", pod["metadata"]["name"], "--wait=false")
    told = json.dumps({"reason": "RequestsCut", "message": "3 requests cut", "requests": 3})
    now = "2026-01-01T00:00:00Z"
    ended = {"exitCode": 0, "reason": "Completed", "message": told, "startedAt": now, "finishedAt": now}
    container = pod["status"]["containerStatuses"][0] | {"ready": False, "state": {"terminated": ended}}
    status = {"phase": "Succeeded", "containerStatuses": [container]}
    four.patch("pod", pod["metadata"]["name"], {"status": status}, subresource="status")
    four.patch("pod", pod["metadata"]["name"], {"metadata": {"finalizers": []}})
    (event,) = wait(lambda: [e for e in four.list("events.events.k8s.io") if e["reason"] == "RequestsCut"])
    assert event["type"] == "Warning"
    assert event["note"].startswith(f"{pod['metadata']['name']} ended with 3 requests cut")
    series = f'octavo_operator_requests_cut_total{{name="chat",namespace="{four.namespace}"}} 3.0'
    wait(lambda: series in operator.metrics())
