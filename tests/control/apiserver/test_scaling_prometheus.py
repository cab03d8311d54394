"""Scaling by what a real Prometheus has scraped: it moves the replicas, its end moves nothing, it is the only source.

The operator and Prometheus are told apart at the replicas by their User-Agent.
"""

import re

import pytest

from cluster.prometheus import Target

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

AUTOSCALING = {
    "maxReplicas": 2,
    "targets": {"waitingPerReplica": 2},
    "behavior": {"scaleDown": {"stabilizationWindow": "3s"}},
    "metrics": {"source": "Prometheus", "staleAfter": "10s"},
}


def wanted(kube):
    return kube.get("deployment")["spec"]["replicas"]


def decisions(operator):
    counted = re.findall(r"^octavo_operator_decisions_total{.*} (\S+)$", operator.metrics(), re.MULTILINE)
    return sum(map(float, counted))


@pytest.fixture
def scraped(kube, kubelet, prometheus):
    """Makes every pod ready and lets Prometheus scrape it; returns the replicas."""

    def serve():
        replicas = kubelet.serve()
        known = kubelet.replicas.items()
        prometheus.scrape([Target(kube.namespace, name, "chat", f"{it.address}:8000") for name, it in known])
        return replicas

    yield serve
    prometheus.scrape(())
    prometheus.stop()


def test_a_life_by_prometheus(kube, scraped, prometheus, operator, wait):
    kube.server(autoscaling=AUTOSCALING)
    (first,) = wait(scraped)

    def unavailable():
        found = kube.condition("MetricsFresh")
        assert found["reason"] == "PrometheusUnavailable"
        return found

    words = "1 of 1 ready replicas gave no sample: Prometheus could not be asked"
    wait(lambda: words in unavailable()["message"])
    prometheus.start()
    wait(lambda: kube.condition("MetricsFresh").get("status") == "True")
    first.waiting, first.running, first.used = 9, 4, 800
    wait(lambda: wanted(kube) == 2)
    wait(lambda: len(scraped()) == 2)
    wait(lambda: kube.condition("MetricsFresh").get("message", "").startswith("2 of 2"))

    prometheus.stop()
    for replica in scraped():
        replica.waiting = replica.running = replica.used = 0
    assert wait(unavailable)["status"] == "False"
    before = decisions(operator)
    wait(lambda: decisions(operator) >= before + 10)
    assert wanted(kube) == 2
    active = wait(lambda: (found := kube.condition("ScalingActive"))["reason"] == "MetricsMissing" and found)
    assert active["status"] == "False"

    prometheus.start()
    wait(lambda: wanted(kube) == 1)
    assert {visitor for replica in scraped() for visitor in replica.visitors} == {"Prometheus"}


def test_the_source_can_be_changed_while_it_serves(kube, scraped, prometheus, wait):
    kube.server(autoscaling=AUTOSCALING | {"metrics": {"source": "Direct"}})
    wait(scraped)
    wait(lambda: kube.condition("MetricsFresh").get("status") == "True")
    kube.server(autoscaling=AUTOSCALING)
    wait(lambda: kube.condition("MetricsFresh").get("reason") == "PrometheusUnavailable")
    prometheus.start()
    wait(lambda: kube.condition("MetricsFresh").get("status") == "True")
