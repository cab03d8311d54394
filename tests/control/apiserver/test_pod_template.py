"""The patch of the pod template against a real API server: applied once, and refused with words."""

import json

import pytest

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

SERVER = {
    "apiVersion": "octavo.dev/v1alpha1",
    "kind": "ModelServer",
    "metadata": {"name": "deep"},
    "spec": {"model": {"source": {"pvc": {"claimName": "models"}}}},
}
# Written as people write: in other units, with defaults and with values that the API server leaves out of its answers.
ODD = {
    "metadata": {"labels": {"team": "ml", "empty": ""}, "annotations": {"note": ""}},
    "spec": {
        "priorityClassName": "",
        "serviceAccountName": "other",
        "hostAliases": [],
        "dnsConfig": {"nameservers": []},
        "imagePullSecrets": [{"name": "registry"}],
        "shareProcessNamespace": False,
        "schedulerName": "",
        "preemptionPolicy": "Never",
        "affinity": {"podAntiAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
        ],
        "tolerations": [{"key": "spot", "operator": "Exists", "value": ""}],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": "1024Mi"}},
            {"name": "config", "configMap": {"name": "c", "optional": False, "items": []}},
            {"name": "tmp", "emptyDir": {"sizeLimit": "3072Mi"}},
        ],
        "initContainers": [
            {
                "name": "proxy",
                "image": "example.invalid/proxy:1",
                "restartPolicy": "Always",
                "stdin": False,
                "command": [],
                "ports": [{"containerPort": 9000, "hostPort": 0}],
                "startupProbe": {"tcpSocket": {"port": 9000}, "initialDelaySeconds": 0},
                "resources": {"requests": {"cpu": 0.5, "memory": "0.5Gi"}, "limits": {"cpu": "1000m"}},
            }
        ],
        "containers": [
            {
                "name": "runtime",
                "env": [
                    {"name": "EMPTY", "value": ""},
                    {"name": "CPUS", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1000m"}}},
                ],
                "envFrom": [{"prefix": "", "configMapRef": {"name": "c"}}],
                "resources": {"limits": {"cpu": "2000m", "ephemeral-storage": "1000M", "example.com/nic": 1}},
                "volumeMounts": [
                    {"name": "scratch", "mountPath": "/a", "readOnly": False, "subPath": ""},
                    {"name": "scratch", "mountPath": "/b", "subPath": "b"},
                ],
            }
        ],
    },
}  # fmt: skip


def test_an_odd_patch_is_applied_once(kube, operator, wait):
    """What the API server writes in another way must not look like drift for ever."""
    kube.server(podTemplate=ODD)
    wait(lambda: kube.find("deployment"))
    operator.wait_for_resyncs(2)
    template = kube.get("deployment")["spec"]["template"]
    assert [container["name"] for container in template["spec"]["initContainers"]] == ["proxy"]
    assert template["metadata"]["labels"]["team"] == "ml"
    writes = operator.wait_for_silence("PATCH")
    operator.wait_for_resyncs(2)
    assert operator.requests("PATCH") == writes
    assert kube.get("deployment")["metadata"]["generation"] == 1
    assert not [event for event in kube.list("events.events.k8s.io") if event["reason"] == "DriftRepaired"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"nodeSelektor": {"a": "b"}}, "nodeSelektor"),
        ({"containers": [{"name": "runtime", "workingDirectory": "/"}]}, "workingDirectory"),
        ({"volumes": [{"name": "scratch"}], "containers": "none"}, "containers"),
        ({"topologySpreadConstraints": [{"maxSkew": 0}]}, "topologySpreadConstraints"),
    ],
    ids=["unknown", "unknown inside", "another type", "invalid"],
)
@pytest.mark.parametrize("there", [False, True], ids=["new", "changed"])
def test_what_is_no_pod_is_said_in_the_api_servers_words(kube, wait, spec, words, there):
    if there:
        kube.server()
        wait(lambda: kube.find("deployment"))
    kube.server(podTemplate={"spec": spec})
    wait(lambda: kube.condition().get("reason") == "ApplyRejected")
    assert words in kube.condition()["message"]
    assert kube.condition("Stalled")["status"] == "True"
    kube.server()
    wait(lambda: kube.find("deployment") and kube.condition()["reason"] != "ApplyRejected")


def test_what_the_operator_owns_is_refused_by_name(kube, wait):
    kube.server(podTemplate={"spec": {"containers": [{"name": "runtime", "image": "x"}]}})
    wait(lambda: kube.condition().get("reason") == "InvalidSpec")
    assert "spec.containers[runtime].image: set spec.runtime.image" in kube.condition()["message"]


def test_one_that_is_thousands_of_levels_deep_is_refused_and_the_others_are_served(kube, operator, wait):
    """The API server keeps it, and Python reads a thousand levels: the operator ended, and so did each one after it."""
    text, levels = json.dumps(SERVER | {"spec": SERVER["spec"] | {"podTemplate": {"spec": "DEEP"}}}), 9000
    kube.run("create", "-f", "-", stdin=text.replace('"DEEP"', '{"a":' * levels + "1" + "}" * levels))
    wait(
        lambda: "InvalidSpec" in kube.run("get", "oms", "deep", "-o", "jsonpath={.status.conditions[*].reason}").stdout
    )
    operator.stop()
    operator.start()
    kube.server()
    wait(lambda: kube.find("deployment"))
