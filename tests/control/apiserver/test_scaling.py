"""The load moves the replicas: real operator, real Deployment controller, pods whose /metrics the test writes."""

import signal

import pytest

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

AUTOSCALING = {
    "minReplicas": 1,
    "maxReplicas": 2,
    "targets": {"kvUtilizationPercent": 70, "waitingPerReplica": 2},
    "behavior": {"scaleUp": {"stabilizationWindow": "1s"}, "scaleDown": {"stabilizationWindow": "3s"}},
}


def scaling(kube):
    return kube.get("modelserver")["status"].get("scaling", {}).get("lastDecision", {})


def wanted(kube):
    return kube.get("deployment")["spec"]["replicas"]


def events(kube, reason):
    return [event for event in kube.list("events.events.k8s.io") if event["reason"] == reason]


@pytest.fixture
def scaled(kube, kubelet, wait):
    """A ModelServer with one ready replica out of one to two, and a fresh sample of it."""
    kube.server(autoscaling=AUTOSCALING)
    wait(lambda: kubelet.serve() and kube.condition("MetricsFresh").get("status") == "True")
    return kube


def test_load_adds_a_replica_and_its_end_removes_it(scaled, kubelet, operator, wait):
    (first,) = kubelet.serve()
    first.waiting, first.running, first.used = 9, 4, 800

    wait(lambda: wanted(scaled) == 2)
    wait(lambda: scaling(scaled).get("to") == 2)
    decision = scaling(scaled)
    assert (decision["from"], decision["to"]) == (1, 2)
    assert decision["reason"] in {"WaitingAboveTarget", "KVUtilizationAboveTarget"}
    assert decision["inputs"]["readyReplicas"] == 1
    assert decision["inputs"]["kvTokensCapacity"] == 1000
    assert {item["signal"] for item in decision["candidates"]} == {"kvUtilizationPercent", "waitingPerReplica"}
    (event,) = wait(lambda: events(scaled, "ScaledUp"))
    assert event["note"].startswith("1 -> 2 replicas")

    wait(lambda: len(kubelet.serve()) == 2 and scaled.get("modelserver")["status"]["readyReplicas"] == 2)
    first.used = 200
    wait(lambda: scaled.condition("ScalingLimited").get("reason") == "TooManyReplicas")
    row = scaled.run("get", "oms", "chat", "--no-headers").stdout.split()
    assert row[1:4] == ["chat", "2", "2"]

    generation = scaled.get("deployment")["metadata"]["generation"]
    for how in (signal.SIGTERM, signal.SIGKILL):  # G9: under load, and nobody touches the number, not for a moment
        operator.stop(how)
        operator.start()
        operator.wait_for_resyncs(1)
    wait(lambda: scaled.condition("ScalingLimited").get("reason") == "TooManyReplicas")
    assert wanted(scaled) == 2
    assert scaled.get("deployment")["metadata"]["generation"] == generation

    for replica in kubelet.serve():
        replica.waiting = replica.running = replica.used = 0
    wait(lambda: wanted(scaled) == 1)
    wait(lambda: scaling(scaled).get("to") == 1)
    assert scaling(scaled)["reason"] == "LoadBelowTarget"
    assert wait(lambda: events(scaled, "ScaledDown"))
    assert scaled.get("modelserver")["metadata"]["generation"] == 1


def test_replicas_that_cannot_be_scraped_change_nothing(scaled, kubelet, operator, wait):
    """The load was high and is now unknown: neither more nor fewer replicas, and the condition says why."""
    (replica,) = kubelet.serve()
    replica.broken = True
    wait(lambda: scaled.condition("MetricsFresh").get("status") == "False")
    active = wait(lambda: (found := scaled.condition("ScalingActive"))["reason"] == "MetricsMissing" and found)
    assert active["status"] == "False"
    (event,) = wait(lambda: events(scaled, "MetricsMissing"))
    assert event["type"] == "Warning"
    series = 'conditions{reason="MetricsMissing",status="False",type="MetricsFresh"} '
    wait(lambda: series in operator.metrics())
    assert wanted(scaled) == 1
    wait(lambda: "load" not in scaled.get("modelserver")["status"])
    replica.broken = False
    wait(lambda: scaled.condition("MetricsFresh").get("status") == "True")


def test_the_number_that_was_decided_survives_an_edit_by_hand(scaled, wait):
    scaled.patch("deployment", "chat", {"spec": {"replicas": 5}})
    wait(lambda: wanted(scaled) == 1)


def test_somebody_who_scales_the_deployment_again_and_again_is_told_of(scaled, wait):
    """An HPA that targets the Deployment and not the ModelServer."""
    for number in (5, 6, 7):
        assert not scaled.condition("Contended")
        scaled.patch("deployment", "chat", {"spec": {"replicas": number}})
        wait(lambda: wanted(scaled) == 1)
    told = wait(lambda: scaled.condition("Contended"))
    assert (told["status"], told["reason"]) == ("True", "ReplicasChangedByOthers")
    assert "to 7 last" in told["message"]
    assert scaled.condition()["status"] == "True"


def test_switching_from_a_fixed_number_starts_from_it(kube, kubelet, wait):
    kube.server(replicas=3)
    wait(lambda: len(kubelet.serve()) == 3)
    kube.server(autoscaling=AUTOSCALING | {"maxReplicas": 5, "behavior": {}})
    wait(lambda: kube.condition("ScalingActive").get("status") == "True")
    assert wanted(kube) == 3
