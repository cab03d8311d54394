"""Who goes when fewer are wanted, with the real ReplicaSet controller."""

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


def test_g14_the_replicas_with_the_fewest_tokens_in_flight_go(four, kubelet, wait):
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
