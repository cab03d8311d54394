"""`octavo-operator render`: children from files, without a cluster; what is wrong is named by file and field."""

import io

import pytest
import yaml

from octavo_operator.__main__ import main

GOOD = """
apiVersion: octavo.dev/v1alpha1
kind: ModelServer
metadata: { name: chat, namespace: team-a }
spec:
  model: { source: { pvc: { claimName: models } } }
"""


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Renders a text as a file (or as stdin); returns the exit status, the manifests and stderr."""

    def render(text, *options, stdin=False):
        monkeypatch.setenv("OCTAVO_RUNTIME_IMAGE", "example.invalid/runtime:1")
        path = tmp_path / "servers.yaml"
        path.write_text(text)
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        status = main(["render", "-" if stdin else str(path), *options])
        captured = capsys.readouterr()
        return status, list(yaml.safe_load_all(captured.out)), captured.err.replace(str(path), "FILE")

    return render


def kinds(manifests):
    return [manifest["kind"] for manifest in manifests]


@pytest.mark.parametrize("stdin", [False, True])
def test_the_children_are_printed(run, stdin):
    status, manifests, errors = run(GOOD, stdin=stdin)
    assert (status, errors) == (0, "")
    assert kinds(manifests) == ["ServiceAccount", "NetworkPolicy", "Service", "Deployment"]
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"team-a"}
    assert manifests[-1]["spec"]["template"]["spec"]["containers"][0]["image"] == "example.invalid/runtime:1"


def test_nothing_that_only_a_cluster_knows_is_printed(run):
    _, manifests, _ = run(GOOD)
    assert all(manifest["metadata"].keys() == {"name", "namespace", "labels"} for manifest in manifests)


def test_other_documents_are_passed_over_and_lists_are_looked_into(run):
    other = "kind: Service\napiVersion: v1\nmetadata: { name: x }\n"
    foreign = "kind: ModelServer\napiVersion: networking.example/v1\nmetadata: { name: y }\n"
    listed = yaml.safe_dump({"kind": "List", "apiVersion": "v1", "items": [yaml.safe_load(GOOD)]})
    status, manifests, _ = run(f"---\n{other}---\n{foreign}---\n{listed}---\n{GOOD}")
    assert status == 0
    assert kinds(manifests).count("Deployment") == 2


def test_a_server_with_autoscaling_starts_at_its_minimum(run):
    scaled = "  autoscaling: { minReplicas: 2, maxReplicas: 3, targets: { waitingPerReplica: 1 } }\n"
    _, manifests, _ = run(GOOD + scaled, "--pod-monitors")
    assert next(item for item in manifests if item["kind"] == "Deployment")["spec"]["replicas"] == 2
    assert kinds(manifests)[-1] == "PodMonitor"


ZERO = "  autoscaling: { maxReplicas: 3, targets: { waitingPerReplica: 1 }, scaleToZero: {} }\n"


def test_one_that_may_be_idle_has_an_activator_with_its_services_name(run, monkeypatch):
    _, manifests, _ = run(GOOD + ZERO, "--activator-image=example.invalid/operator:1")
    found = {f"{item['kind']} {item['metadata']['name']}": item for item in manifests}
    assert {"Deployment chat-activator", "Service chat-replicas", "NetworkPolicy chat-activator"} <= found.keys()
    (container,) = found["Deployment chat-activator"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "example.invalid/operator:1"
    assert container["args"][:2] == ["--upstream", "http://chat-replicas.team-a.svc"]
    monkeypatch.setenv("OCTAVO_ACTIVATOR_IMAGE", "example.invalid/operator:2")
    assert run(GOOD + ZERO)[0] == 0


def test_an_activator_without_an_image_is_an_error(run, monkeypatch):
    monkeypatch.delenv("OCTAVO_ACTIVATOR_IMAGE", raising=False)
    status, _, errors = run(GOOD + ZERO)
    assert status == 1
    assert "spec.autoscaling.scaleToZero" in errors
    assert "--activator-image" in errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GOOD + "  replicas: -1\n", "FILE: document 1, ModelServer chat: spec.replicas: "),
        (
            f"kind: Other\n---{GOOD}  drain: {{ timeout: 90 days }}\n",
            "FILE: document 2, ModelServer chat: spec.drain.timeout: ",
        ),
        (GOOD.replace("chat", "4chat"), "metadata.name: becomes the name of a Service"),
        (GOOD.replace("v1alpha1", "v9"), "apiVersion: must be octavo.dev/v1alpha1"),
        (GOOD + "  runtime: { args: [--port, '1'] }\n", "spec.runtime.args: --port belongs to the operator"),
        (GOOD.replace("{ name: chat, namespace: team-a }", ""), "ModelServer None: metadata.name: becomes the name"),
        (GOOD.replace("{ name: chat, namespace: team-a }", "[chat]"), "ModelServer None: metadata.name: becomes"),
        (GOOD.replace("ModelServer", "Modelserver"), "FILE: no ModelServer of octavo.dev/v1alpha1 in it"),
        ("kind: List\nitems: 3\n", "FILE: no ModelServer of octavo.dev/v1alpha1 in it"),
        ("", "FILE: no ModelServer of octavo.dev/v1alpha1 in it"),
    ],
    ids=["value", "second document", "name", "version", "rule", "no metadata", "a list", "kind", "no items", "empty"],
)
def test_what_is_wrong_is_named(run, text, expected):
    status, manifests, errors = run(text)
    assert (status, manifests) == (1, [])
    assert expected in errors


def test_every_wrong_document_is_named(run):
    wrong = GOOD + "  replicas: -1\n"
    status, _, errors = run(f"{wrong}---{wrong}---{GOOD}")
    assert status == 1
    assert [line.split(",")[0] for line in errors.splitlines()] == ["FILE: document 1", "FILE: document 2"]


def test_without_any_image_the_field_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.delenv("OCTAVO_RUNTIME_IMAGE", raising=False)
    path = tmp_path / "server.yaml"
    path.write_text(GOOD)
    assert main(["render", str(path)]) == 1
    assert "spec.runtime.image: set it, or name" in capsys.readouterr().err
    assert main(["render", str(path), "--runtime-image", "r:1"]) == 0


@pytest.mark.parametrize(
    "text", ["a: [", "a: 2026-13-45", 2000 * "[", None], ids=["no yaml", "no date", "too deep", "no file"]
)
def test_a_file_that_cannot_be_read_is_named(capsys, tmp_path, text):
    path = tmp_path / "server.yaml"
    if text is not None:
        path.write_text(text)
    assert main(["render", str(path)]) == 64
    assert capsys.readouterr().err.startswith(f"{path}: ")


def test_a_replica_of_several_nodes_is_rendered_as_in_a_cluster_that_has_the_kind(run):
    grouped = GOOD + "  accelerator: { count: 8, nodes: 2 }\n"
    _, manifests, _ = run(grouped)
    assert kinds(manifests) == ["ServiceAccount", "NetworkPolicy", "Service", "Service", "LeaderWorkerSet"]
    status, _, errors = run(grouped.replace("name: chat,", f"name: {'a' * 42},"))
    assert status == 1
    assert "metadata.name: becomes that of each group: at most 41 characters" in errors
    assert run(grouped.replace("name: chat,", f"name: {'a' * 41},"))[0] == 0
