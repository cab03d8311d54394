"""Advice without deeds, bounds in money and time: what the API server takes, and what the operator makes of it."""

import pytest

from octavo_operator.core.autoscale import judge
from octavo_operator.core.record import from_record

pytestmark = pytest.mark.apiserver

AUTOSCALING = {
    "mode": "Advisory",
    "minReplicas": 1,
    "maxReplicas": 4,
    "targets": {"waitingPerReplica": 2},
    "behavior": {"scaleUp": {"stabilizationWindow": "0s"}, "scaleDown": {"stabilizationWindow": "5m"}},
}
BUDGET = {"maxCostPerHour": "5.00", "replicaCostPerHour": "2.5"}


def last(kube):
    return kube.get("modelserver")["status"].get("scaling", {}).get("lastDecision", {})


@pytest.mark.usefixtures("operator")
def test_advice_then_the_deed_within_the_budget(kube, kubelet, wait):
    kube.server(replicas=1, autoscaling=AUTOSCALING)
    (replica,) = wait(kubelet.serve)
    replica.waiting, replica.running = 7, 4
    decision = wait(lambda: (found := last(kube)).get("to") == 4 and found)
    assert (decision["mode"], decision["from"]) == ("Advisory", 1)
    assert judge(from_record(decision["record"])).replicas == 4
    assert kube.get("deployment")["spec"]["replicas"] == 1
    active = wait(lambda: (found := kube.condition("ScalingActive")).get("reason") == "Advisory" and found)
    assert active["message"].startswith("advises 4 replicas")

    kube.server(autoscaling=AUTOSCALING | {"mode": "Active", "budget": BUDGET})
    wait(lambda: kube.get("deployment")["spec"]["replicas"] == 2)
    decision = wait(lambda: (found := last(kube)).get("mode") == "Active" and found)
    assert (decision["from"], decision["to"], decision["limitedBy"]) == (1, 2, "BudgetExhausted")
    assert judge(from_record(decision["record"])).replicas == 2
    (before,) = kube.get("modelserver")["status"]["scaling"]["history"]
    assert (before["mode"], before["to"]) == ("Advisory", 4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mode": "Active"}, "exclude each other"),
        ({"minReplicas": 3, "budget": BUDGET}, "does not pay for minReplicas"),
        ({"budget": BUDGET | {"maxCostPerHour": "ten"}}, "positive quantity"),
        ({"slo": {}}, "set ttftP95, itlP95, queueWait"),
        ({"slo": {"ttftP95": "1m"}}, "milliseconds or seconds"),
        ({"slo": {"itlP95": "61s"}}, "between 1ms and 60s"),
        ({"mode": "Passive"}, "Unsupported value"),
        (
            {"schedules": [{"name": "day", "from": "08:00", "to": "20:00", "minReplicas": 5}]},
            "greater than maxReplicas",
        ),
        ({"schedules": [{"name": "day", "from": "8:00", "to": "20:00", "minReplicas": 2}]}, "schedules[0].from"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_makes_no_sense_is_refused_with_a_reason(kube, changes, words):
    spec = {
        "model": {"source": {"pvc": {"claimName": "models"}}},
        "replicas": 1,
        "autoscaling": AUTOSCALING | changes,
    }
    manifest = {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": "odd"}, "spec": spec}
    done = kube.run("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=manifest, check=False)
    assert done.returncode != 0
    assert words in done.stderr
