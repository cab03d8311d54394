"""Accelerator profiles that the installation adds in a ConfigMap, with the chart's own rights."""

import pytest
import yaml

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

NAME = "octavo-operator-profiles"


@pytest.fixture
def profiles(kube):
    """Writes the ConfigMap; it is gone after the test."""
    where = {"name": NAME, "namespace": "octavo-system"}

    def write(**data):
        kube.run(
            "apply", "--server-side", "--force-conflicts", "--namespace=octavo-system", "-f", "-",
            stdin={"apiVersion": "v1", "kind": "ConfigMap", "metadata": where, "data": data},
        )  # fmt: skip

    yield write
    kube.run("delete", "configmap", NAME, "--namespace=octavo-system", "--ignore-not-found")


def nodes(kube):
    return kube.get("deployment")["spec"]["template"]["spec"].get("nodeSelector")


def test_profiles_come_change_break_and_go(kube, profiles, operator, wait):
    kube.server(accelerator={"profile": "mine"})
    wait(lambda: kube.condition().get("reason") == "UnknownProfile")
    assert "known are A100-40, A100-80, B200, H100, H200, L40S" in kube.condition()["message"]
    assert kube.condition("Stalled")["status"] == "True"

    profiles(mine="gpuMemory: 8Gi\nnodeSelector: {pool: a}")
    wait(lambda: kube.find("deployment") and nodes(kube) == {"pool": "a"})
    wait(lambda: kube.condition()["reason"] != "UnknownProfile")
    profiles(mine="gpuMemory: 8Gi\nnodeSelector: {pool: b}")
    wait(lambda: nodes(kube) == {"pool": "b"})

    profiles(mine="gpuMemory: much", other="gpuMemory: 1Gi")
    wait(lambda: "gpuMemory" in kube.condition().get("message", ""))
    assert nodes(kube) == {"pool": "b"}, "what is there stays as it is"
    operator.wait_for_resyncs(2)
    assert operator.log.read_text().count("accelerator profile is wrong") == 1, "once, not at each list"


def test_a_profile_is_applied_once(kube, operator, wait):
    kube.server(accelerator={"profile": "H100"})
    wait(lambda: kube.find("deployment"))
    operator.wait_for_resyncs(2)
    assert kube.get("deployment")["metadata"]["generation"] == 1


def test_the_charts_profiles_are_what_the_operator_reads(chart):
    manifests = chart(
        "--set=acceleratorProfiles.L4.gpuMemory=24Gi", "--set=acceleratorProfiles.L4.products={NVIDIA-L4}"
    )
    (config,) = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
    (deployment,) = [manifest for manifest in manifests if manifest["kind"] == "Deployment"]
    environment = {
        item["name"]: item.get("value") for item in deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert config["metadata"]["name"] == environment["OCTAVO_PROFILES_CONFIGMAP"] == NAME
    assert yaml.safe_load(config["data"]["L4"]) == {"gpuMemory": "24Gi", "products": ["NVIDIA-L4"]}
