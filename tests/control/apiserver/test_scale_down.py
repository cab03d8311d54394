"""Who goes when fewer are wanted, with the real ReplicaSet controller."""

import re

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


def scraped(operator):
    found = re.search(r'^octavo_operator_scrapes_total{result="ok"} (\S+)$', operator.http("/metrics"), re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def test_g14_the_replicas_with_the_fewest_tokens_in_flight_go(four, kubelet, operator, wait):
    a, b, c, d = sorted(pod["metadata"]["name"] for pod in kubelet.pods())

    def scale(replicas, **used):
        for name, tokens in zip((a, b, c, d), used.values(), strict=True):
            kubelet.replicas[name].used = tokens
        seen = scraped(operator)
        wait(lambda: scraped(operator) >= seen + 12)  # each at least once since
        four.run("scale", "oms/chat", f"--replicas={replicas}")
        wait(lambda: len(kubelet.pods()) == replicas)
        return {pod["metadata"]["name"]: pod["metadata"]["annotations"] for pod in kubelet.pods()}

    left = scale(2, a=300, b=10, c=200, d=20)
    assert left.keys() == {a, c}
    assert all("controller.kubernetes.io/pod-deletion-cost" not in annotations for annotations in left.values())
    assert scale(1, a=5, b=0, c=200, d=0).keys() == {c}
