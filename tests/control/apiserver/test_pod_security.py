"""Every kind of pod that the operator makes, in a namespace that enforces the restricted profile: admission decides."""

import pytest
import yaml

from octavo_operator.__main__ import main

pytestmark = pytest.mark.apiserver

PVC = {"source": {"pvc": {"claimName": "models", "path": "smol"}}}
HUB = {"source": {"hub": {"repo": "org/model", "tokenSecretRef": {"name": "hub", "key": "token"}}}}
SCALED = {"maxReplicas": 3, "targets": {"waitingPerReplica": 1}}
SPECS = {
    "the smallest": {"model": PVC},
    "hub, onto the node": {"model": HUB},
    "hub, onto a claim": {"model": HUB | {"cache": {"claim": {"size": "20Gi"}}}},
    "s3": {"model": {"source": {"s3": {"uri": "s3://models/smol", "credentialsSecretRef": {"name": "s3"}}}}},
    "oci": {"model": {"source": {"oci": {"image": "example.invalid/smol:1", "pullSecretRef": {"name": "pull"}}}}},
    "several GPUs": {"model": PVC, "accelerator": {"profile": "H100", "count": 8}},
    "several nodes": {"model": PVC, "accelerator": {"profile": "H100", "count": 8, "nodes": 2}},
    "an activator": {"model": PVC, "autoscaling": SCALED | {"scaleToZero": {}}},
    "a patch": {"model": PVC, "podTemplate": {"metadata": {"annotations": {"note": "mine"}}}},
}


def templates(spec, tmp_path, capsys):
    """The pod templates among the children, by the kind and name of their owner."""
    server = {"apiVersion": "octavo.dev/v1alpha1", "kind": "ModelServer", "metadata": {"name": "chat"}, "spec": spec}
    (tmp_path / "server.yaml").write_text(yaml.safe_dump(server))
    images = ("--runtime-image=example.invalid/runtime:1", "--activator-image=example.invalid/operator:1")
    assert main(["render", str(tmp_path / "server.yaml"), *images]) == 0
    for child in yaml.safe_load_all(capsys.readouterr().out):
        spec, name = child.get("spec", {}), f"{child['kind']} {child['metadata']['name']}"
        if child["kind"] == "Deployment":
            yield name, spec["template"]
        if child["kind"] == "LeaderWorkerSet":
            yield f"{name}, leader", spec["leaderWorkerTemplate"]["leaderTemplate"]
            yield f"{name}, worker", spec["leaderWorkerTemplate"]["workerTemplate"]


@pytest.fixture
def admitted(kube):
    """What admission says of a pod of that template; "" where it takes it."""
    kube.run("label", "namespace", kube.namespace, "pod-security.kubernetes.io/enforce=restricted")
    kube.run("create", "serviceaccount", "chat")

    def ask(template):
        labels = template.get("metadata", {}).get("labels", {})
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one", "labels": labels}}
        asked = kube.run("create", "--dry-run=server", "-f", "-", stdin=pod | {"spec": template["spec"]}, check=False)
        return asked.stderr if asked.returncode else ""

    return ask


def test_every_kind_of_pod_passes_and_admission_would_say_so(admitted, wait, tmp_path, capsys):
    ((_, template),) = templates(SPECS["the smallest"], tmp_path, capsys)
    wait(lambda: admitted(template) == "")  # the ServiceAccount takes a moment to be known
    for change in ({"hostNetwork": True}, {"securityContext": {}}):
        assert "violates PodSecurity" in admitted({"spec": template["spec"] | change})
    for name, spec in SPECS.items():
        found = dict(templates(spec, tmp_path, capsys))
        assert len(found) == {"several nodes": 2, "an activator": 2}.get(name, 1)
        assert {who: words for who, each in found.items() if (words := admitted(each))} == {}, name
