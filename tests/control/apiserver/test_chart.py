"""The chart: what it installs, what that may do, and that the operator needs no more."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from octavo_operator import settings

pytestmark = pytest.mark.apiserver

CHART = Path(__file__).parents[3] / "charts/octavo"
ACCOUNT = "--as=system:serviceaccount:octavo-system:octavo-operator"


def of_kind(manifests, *kinds):
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def operator_pod(manifests):
    (deployment,) = of_kind(manifests, "Deployment")
    return deployment["spec"]["template"]


def test_golden_rights(chart, golden):
    roles = {role["metadata"]["name"]: role["rules"] for role in of_kind(chart(), "ClusterRole", "Role")}
    golden("rbac", roles)


def test_nothing_reads_secrets_or_uses_wildcards(chart):
    text = json.dumps([role["rules"] for role in of_kind(chart(), "ClusterRole", "Role")])
    assert "secrets" not in text
    assert "*" not in text


def test_the_crd_is_kept_and_is_the_committed_one(chart):
    (crd,) = of_kind(chart(), "CustomResourceDefinition")
    assert crd["metadata"].pop("annotations") == {"helm.sh/resource-policy": "keep"}
    assert crd == yaml.safe_load((CHART.parents[1] / "crds/modelserver.yaml").read_text())
    assert of_kind(chart("--set=crds.install=false"), "CustomResourceDefinition") == []


def test_several_operators_share_one_lease_and_are_spread(chart):
    manifests = chart("--set=replicas=2")
    (deployment,) = of_kind(manifests, "Deployment")
    assert deployment["spec"]["replicas"] == 2
    assert operator_pod(manifests)["spec"]["topologySpreadConstraints"]
    (budget,) = of_kind(manifests, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    assert of_kind(chart(), "PodDisruptionBudget") == []


def test_the_rights_are_for_the_lease_that_the_operator_uses(chart):
    environment = {item["name"]: item.get("value") for item in operator_pod(chart())["spec"]["containers"][0]["env"]}
    (role,) = of_kind(chart(), "Role")
    named = [[environment[name]] for name in ("OCTAVO_LEASE_NAME", "OCTAVO_PROFILES_CONFIGMAP")]
    assert [rule.get("resourceNames") for rule in role["rules"]] == [None, *named]
    assert role["metadata"]["namespace"] == "octavo-system"


def test_every_variable_is_one_that_the_operator_reads(chart):
    names = {variable["name"] for variable in operator_pod(chart())["spec"]["containers"][0]["env"]}
    assert [name for name in names if not re.search(rf"^{name}( |$)", settings.__doc__, re.MULTILINE)] == []


def test_the_default_values_reach_the_operator(chart):
    container = operator_pod(chart("--set=logLevel=DEBUG", "--set=runtime.defaultImage=r:2"))["spec"]["containers"][0]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert (
        settings.read_settings({k: v for k, v in environment.items() if v is not None}).defaults.runtime_image == "r:2"
    )
    assert environment["OCTAVO_LOG_LEVEL"] == "DEBUG"


def test_labels_of_monitors_reach_the_operator(chart):
    labels = ("--set=podMonitor.labels.release=prom", "--set=podMonitor.labels.team=ml")
    container = operator_pod(chart(*labels))["spec"]["containers"][0]
    environment = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    defaults = settings.read_settings(environment).defaults
    assert defaults.pod_monitor_labels == {"release": "prom", "team": "ml"}
    assert (defaults.pod_monitors, defaults.prometheus_namespace) == (True, "monitoring")


def test_the_prometheus_that_decides_is_named_by_the_installation(chart, kube):
    options = ("--set=prometheus.url=https://prom:9090", "--set=prometheus.authorization.secretName=prom-token",
               "--set=prometheus.ca.configMapName=prom-ca", "--set=prometheus.ca.key=service-ca.crt")  # fmt: skip
    manifests = chart(*options)
    pod = operator_pod(manifests)["spec"]
    (container,) = pod["containers"]
    environment = {item["name"]: item["value"] for item in container["env"] if "value" in item}
    server = settings.read_settings(environment).prometheus
    assert (server.url, server.ca_file) == ("https://prom:9090", "/etc/octavo/ca/service-ca.crt")
    folders = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert server.authorization_file == f"{folders['prometheus-authorization']}/token"
    assert {volume["name"] for volume in pod["volumes"]} == set(folders)
    (deployment,) = of_kind(manifests, "Deployment")
    kube.run("apply", "--dry-run=server", "--server-side", "--force-conflicts",
             "--namespace=octavo-system", "-f", "-", stdin=deployment)  # fmt: skip
    assert "volumes" not in operator_pod(chart())["spec"]


def test_the_recording_rules_are_an_object_where_they_are_wanted(chart):
    assert of_kind(chart(), "PrometheusRule") == []
    (rule,) = of_kind(chart("--set=recordingRules.enabled=true", "--set=recordingRules.labels.release=prom"),
                      "PrometheusRule")  # fmt: skip
    assert rule["spec"] == yaml.safe_load((CHART / "files/recording-rules.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prom"


@pytest.mark.parametrize(
    "option",
    [
        "prometheus.url=ftp://p",
        "prometheus.url=http://user:secret@p",
        "foo=1",
        "scrape.period=1",
        "logLevel=loud",
        "workers=0",
        "image=",
    ],
)
def test_values_that_mean_nothing_are_refused(chart, option):
    with pytest.raises(subprocess.CalledProcessError):
        chart(f"--set={option}")


def test_every_value_has_a_place_in_the_schema():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    def missing(value, node, path):
        if not isinstance(value, dict) or "properties" not in node:
            return []
        assert node["additionalProperties"] is False, path
        gone = [f"{path}.{key}" for key in value if key not in node["properties"]]
        return gone + [
            found for key, child in value.items() if key in node["properties"]
            for found in missing(child, node["properties"][key], f"{path}.{key}")
        ]  # fmt: skip

    assert missing(values, schema, "values") == []


def test_namespaces_get_a_role_each_and_no_cluster_role(chart):
    manifests = chart("--set=watchNamespaces={a,b}")
    assert [role["metadata"]["namespace"] for role in of_kind(manifests, "Role")] == ["a", "b", "octavo-system"]
    assert of_kind(manifests, "ClusterRoleBinding") == []


@pytest.mark.parametrize("option", ["--set=workers=16", "--set=watchNamespaces={team-a,team-b}"])
def test_helm_refuses_a_second_release_that_watches_the_same(chart, option):
    """Two operators would replace each other's replicas for ever; Helm takes no object of another release."""

    def rights(release):
        manifests = of_kind(chart(option, release=release), "ClusterRole", "Role")
        named = [(role["metadata"].get("namespace"), role["metadata"]["name"], role["rules"]) for role in manifests]
        return {(place, name) for place, name, rules in named if "modelservers/finalizers" in json.dumps(rules)}

    assert rights("one") == rights("two") != set()


def test_the_operators_pod_passes_the_restricted_pod_security_standard(chart, kube):
    kube.run("label", "namespace", kube.namespace, "pod-security.kubernetes.io/enforce=restricted")
    template = operator_pod(chart())
    metadata = {"name": "operator", "namespace": kube.namespace, "labels": template["metadata"]["labels"]}
    spec = template["spec"] | {"serviceAccountName": "default"}
    kube.run("wait", "--for=create", "serviceaccount/default", "--timeout=180s")
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    kube.run("create", "--dry-run=server", "-f", "-", stdin=manifest)


def test_the_api_server_takes_every_object_of_the_chart(chart, kube):
    for manifest in chart():
        kube.run("apply", "--dry-run=server", "--server-side", "--force-conflicts",
                 "--namespace=octavo-system", "-f", "-", stdin=manifest)  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "resource", "expected"),
    [
        ("patch", "modelservers/status", "yes"),
        ("patch", "modelservers", "no"),
        ("deletecollection", "deployments", "no"),
        ("delete", "deployments", "yes"),
        ("delete", "serviceaccounts", "no"),
        ("delete", "poddisruptionbudgets", "yes"),
        ("create", "serviceaccounts/token", "no"),
        ("get", "secrets", "no"),
        ("create", "pods/exec", "no"),
    ],
)
def test_what_the_operator_may_do(anywhere, verb, resource, expected):
    kind, _, part = resource.partition("/")
    subresource = [f"--subresource={part}"] if part else []
    answer = anywhere.run("auth", "can-i", verb, kind, *subresource, ACCOUNT, check=False)
    assert answer.stdout.strip() == expected


@pytest.mark.parametrize(
    ("role", "verb", "expected"), [("view", "get", "yes"), ("view", "create", "no"), ("edit", "create", "yes")]
)
def test_viewers_and_editors_of_a_namespace_may_do_the_same_with_servers(kube, wait, role, verb, expected):
    kube.run("create", "rolebinding", "people", f"--clusterrole={role}", "--user=somebody")

    def answer():
        return kube.run("auth", "can-i", verb, "modelservers", "--as=somebody", check=False).stdout.strip() == expected

    wait(answer)


def test_an_operator_for_one_namespace_needs_rights_only_there(kube, namespaced_operator, wait):
    kube.server()
    wait(lambda: kube.find("deployment") and kube.condition().get("reason") == "Starting")
    kube.run("delete", "service", "chat")
    wait(lambda: kube.find("service"))
    assert namespaced_operator.alive
    assert " ERROR " not in namespaced_operator.log.read_text()
