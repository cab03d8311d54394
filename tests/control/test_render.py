"""The children's manifests: golden files, and what must hold for every spec."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from octavo_operator.core.crd import build_crd
from octavo_operator.core.manifest import Defaults, Owner
from octavo_operator.core.names import CHILD_KINDS, MAX_NAME_LENGTH, OPTIONAL_KINDS
from octavo_operator.core.render import render, url
from octavo_operator.core.spec import parse_spec

OWNER = Owner("default", "chat", "0b0c7d5e-1111-4222-8333-444455556666")
DEFAULTS = Defaults(runtime_image="example.invalid/runtime:1")

FULL: dict[str, Any] = {
    "model": {
        "source": {"pvc": {"claimName": "models", "path": "a/./b"}},
        "servedName": "org/model-1",
        "maxModelLen": 2048,
        "dtype": "bfloat16",
    },
    "runtime": {
        "image": "example.invalid/own:2",
        "args": ["--threads", "3"],
        "env": [
            {"name": "PLAIN", "value": "1"},
            {"name": "EMPTY", "value": ""},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
            {"name": "CONFIG", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "maxNumSeqs": 8,
        "maxBatchedTokens": 512,
        "kvCache": {"size": "256Mi", "dtype": "int8", "blockSize": 64},
        "prefixCaching": False,
        "resources": {"requests": {"cpu": "500m", "memory": "1024Mi"}, "limits": {"cpu": 2, "memory": "4Gi"}},
    },
    "accelerator": {
        "count": 1,
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "drain": {"timeout": "5m", "preStopDelay": "20s"},
    "podTemplate": {"metadata": {"annotations": {"note": "mine"}}, "spec": {"priorityClassName": "online"}},
}


HUB: dict[str, Any] = {
    "repo": "org/model",
    "revision": "v1",
    "file": "model.gguf",
    "endpoint": "http://mirror.models.svc:8080",
    "tokenSecretRef": {"name": "hub", "key": "token"},
}
S3: dict[str, Any] = {
    "uri": "s3://models/smol",
    "endpoint": "https://minio.storage.svc",
    "region": "eu-central-1",
    "credentialsSecretRef": {"name": "minio"},
}
CLAIM: dict[str, Any] = {"size": "200Gi", "storageClassName": "fast", "accessMode": "ReadWriteOnce"}
OCI: dict[str, Any] = {
    "image": "example.invalid/smol:1",
    "path": "smol",
    "pullPolicy": "Always",
    "pullSecretRef": {"name": "registry"},
}
# FULL with the other sources, and with each kind of cache.
FETCHED: dict[str, dict[str, Any]] = {
    "hub": FULL | {"model": FULL["model"] | {"source": {"hub": HUB}, "cache": {"sizeLimit": "20Gi"}}},
    "s3": FULL | {"model": FULL["model"] | {"source": {"s3": S3}, "cache": {"pvc": {"claimName": "cache"}}}},
    "oci": FULL | {"model": FULL["model"] | {"source": {"oci": OCI}}},
    "claim": FULL | {"model": FULL["model"] | {"source": {"hub": HUB}, "cache": {"claim": CLAIM}}},
}

INSTALLED = Defaults(
    runtime_image="example.invalid/runtime:1",
    operator_namespace="octavo-system",
    prometheus_namespace="monitoring",
    pod_monitors=True,
    pod_monitor_labels={"release": "prometheus"},
    served=OPTIONAL_KINDS,
)
ROUTED: dict[str, Any] = {
    "httpRoute": {
        "parentRefs": [
            {"name": "public", "namespace": "gateways", "sectionName": "https"},
            {"name": "public", "namespace": "gateways", "port": 8443},
        ],
        "hostnames": ["chat.example.com", "*.example.org"],
    },
    "inferencePool": {"endpointPickerRef": {"name": "picker", "failureMode": "FailOpen"}},
}


def children(raw: dict[str, Any], replicas: int = 2, defaults: Defaults = DEFAULTS) -> dict[str, Any]:
    return {child["kind"]: child for child in render(parse_spec(raw), OWNER, replicas, defaults)}


def pod(raw: dict[str, Any]) -> dict[str, Any]:
    found = children(raw)
    if "LeaderWorkerSet" in found:
        return dict(found["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"])
    return dict(found["Deployment"]["spec"]["template"])


@pytest.mark.parametrize(("name", "full"), [("minimal", False), ("full", True)])
def test_golden_children(golden, raw_spec, name, full):
    manifests = children(FULL | {"networking": ROUTED}, 2, INSTALLED) if full else children(raw_spec(), 1)
    golden(f"children-{name}", list(manifests.values()))


def test_children_are_applied_in_their_order():
    claimed = FETCHED["claim"] | {"networking": ROUTED}
    assert tuple(children(claimed, 2, INSTALLED)) == CHILD_KINDS


def test_a_pod_says_what_template_it_is_of_and_scaling_makes_no_new_one():
    """Else every change of the replicas would replace them all."""

    def revision(raw: dict[str, Any], replicas: int = 1) -> str:
        template = children(raw, replicas)["Deployment"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["octavo.dev/template"])

    assert revision(FULL, 1) == revision(FULL, 5)
    changed = FULL | {"model": FULL["model"] | {"maxModelLen": 1024}}
    assert revision(changed) != revision(FULL)


# --- the guards -------------------------------------------------------------------------------------------------------


SCALED = {"maxReplicas": 3, "targets": {"waitingPerReplica": 1}}


@pytest.mark.parametrize(
    ("changes", "replicas", "expected"),
    [
        ({}, 1, None),
        ({}, 0, None),
        ({"replicas": 2}, 2, 1),
        ({"replicas": 9, "disruption": {"maxUnavailable": 3}}, 9, 3),
        ({"autoscaling": SCALED}, 1, 1),
        ({"autoscaling": SCALED | {"maxReplicas": 1}}, 1, None),
        ({"autoscaling": SCALED | {"mode": "Advisory"}}, 1, None),
    ],
    ids=["one", "none", "two", "three at once", "may grow", "cannot grow", "only advice"],
)
def test_a_budget_is_there_where_there_can_be_two_replicas(raw_spec, changes, replicas, expected):
    """With one, minAvailable would block node drains for ever, and maxUnavailable would say nothing."""
    budget = children(raw_spec(**changes), replicas).get("PodDisruptionBudget")
    assert (budget["spec"]["maxUnavailable"] if budget else None) == expected
    assert budget is None or "minAvailable" not in budget["spec"]
    assert budget is None or budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def policy(raw: dict[str, Any], defaults: Defaults = DEFAULTS) -> dict[str, Any]:
    spec: dict[str, Any] = children(raw, 1, defaults)["NetworkPolicy"]["spec"]
    return spec


def allowed(peers: list[dict[str, Any]]) -> dict[str, Any]:
    return {"networking": {"networkPolicy": {"allowedFrom": peers}}}


def test_replicas_connect_to_nobody(raw_spec):
    spec = policy(raw_spec())
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in spec


def test_without_a_word_the_own_namespace_may_connect_to_the_runtimes_port(raw_spec):
    (rule,) = policy(raw_spec())["ingress"]
    assert rule == {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": 8000}]}


def test_the_operator_and_prometheus_always_may(raw_spec):
    gateway = {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {}}
    (rule,) = policy(raw_spec(**allowed([gateway, {"ipBlock": {"cidr": "10.0.0.0/8"}}])), INSTALLED)["ingress"]
    users, operator, prometheus = rule["from"][:2], rule["from"][2], rule["from"][3]
    assert users == [gateway, {"ipBlock": {"cidr": "10.0.0.0/8"}}]
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "octavo-system"}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "octavo-operator"}
    assert prometheus == {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}


def test_a_service_is_of_the_kind_and_has_the_port_and_annotations_that_the_spec_names(raw_spec):
    notes = {"example.com/scheme": "internal", "example.com/empty": ""}
    found = children(raw_spec(**service(type="LoadBalancer", port=8080, annotations=notes)))["Service"]
    assert found["spec"]["type"] == "LoadBalancer"
    assert [(port["port"], port["targetPort"]) for port in found["spec"]["ports"]] == [(8080, "http")]
    assert found["metadata"]["annotations"].items() >= notes.items()


def test_a_route_and_the_url_have_the_services_port(raw_spec):
    networking = {"httpRoute": {"parentRefs": [{"name": "public"}]}, "service": {"port": 8080}}
    route = children(raw_spec(networking=networking), 1, INSTALLED)["HTTPRoute"]
    assert route["spec"]["rules"][0]["backendRefs"][0]["port"] == 8080
    assert url(OWNER, 8080) == "http://chat.default.svc:8080"


def test_the_activator_asks_the_replicas_inside_of_the_cluster_whatever_clients_ask(raw_spec):
    raw = raw_spec(autoscaling=SCALED | {"scaleToZero": {}}, **service(type="NodePort", port=8080))
    defaults = replace(DEFAULTS, activator_image="example.invalid/operator:1")
    services = [child for child in render(parse_spec(raw), OWNER, 1, defaults) if child["kind"] == "Service"]
    found = {item["metadata"]["name"]: (item["spec"]["type"], item["spec"]["ports"][0]["port"]) for item in services}
    assert found == {"chat": ("NodePort", 8080), "chat-replicas": ("ClusterIP", 80)}


def test_the_policy_can_be_switched_off(raw_spec):
    assert "NetworkPolicy" not in children(raw_spec(networking={"networkPolicy": {"enabled": False}}))


def test_nobody_gets_a_token(raw_spec):
    account = children(raw_spec())["ServiceAccount"]
    assert account["automountServiceAccountToken"] is False
    assert pod(raw_spec())["spec"]["serviceAccountName"] == account["metadata"]["name"] == "chat"


def test_a_monitor_is_there_where_the_cluster_has_the_kind(raw_spec):
    assert "PodMonitor" not in children(raw_spec())
    monitor = children(raw_spec(), 1, INSTALLED)["PodMonitor"]
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["metadata"]["labels"]["octavo.dev/modelserver"] == "chat"
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "http"


def test_a_monitor_has_the_labels_by_which_it_is_found_or_is_not_there(raw_spec):
    monitor = children(raw_spec(**monitored(labels={"team": "search"})), 1, INSTALLED)["PodMonitor"]
    assert monitor["metadata"]["labels"].items() >= {"team": "search", "release": "prometheus"}.items()
    assert "PodMonitor" not in children(raw_spec(**monitored(enabled=False)), 1, INSTALLED)


def test_the_time_before_a_drain_is_part_of_the_time_to_end(raw_spec):
    spec = pod(raw_spec(drain={"timeout": "60s", "preStopDelay": "30s"}))["spec"]
    arguments = spec["containers"][0]["args"]
    assert arguments[arguments.index("--drain-delay") + 1] == "30"
    assert spec["terminationGracePeriodSeconds"] == 100


def test_samples_that_decide_are_asked_for_more_often(raw_spec):
    scaled = {"maxReplicas": 2, "targets": {"waitingPerReplica": 2}}
    decides = scaled | {"metrics": {"source": "Prometheus"}}
    monitors = [children(raw_spec(autoscaling=item), 1, INSTALLED)["PodMonitor"] for item in (scaled, decides)]
    assert [monitor["spec"]["podMetricsEndpoints"][0]["interval"] for monitor in monitors] == ["15s", "5s"]


def test_a_route_leads_to_the_service_or_to_the_pool(raw_spec):
    def backend(*fields: str) -> dict[str, Any]:
        wanted = {field: ROUTED[field] for field in fields}
        route = children(raw_spec(networking=wanted), 1, INSTALLED)["HTTPRoute"]["spec"]
        ((found,),) = [rule["backendRefs"] for rule in route["rules"]]
        return dict(found)

    assert backend("httpRoute") == {"kind": "Service", "name": "chat", "port": 80}
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "chat"}
    assert backend("httpRoute", "inferencePool") == pool


def test_a_gateway_ends_no_answer_unless_it_is_let(raw_spec):
    """Envoy would end a stream after 15 s."""

    def rule(**more: str) -> dict[str, Any]:
        wanted = {"httpRoute": ROUTED["httpRoute"] | more}
        return dict(children(raw_spec(networking=wanted), 1, INSTALLED)["HTTPRoute"]["spec"]["rules"][0])

    assert rule()["timeouts"] == {"request": "0s"}
    assert "timeouts" not in rule(requestTimeout="Gateway")


def test_a_pool_is_every_pod_and_names_its_picker(raw_spec):
    pool = children(raw_spec(networking=ROUTED), 1, INSTALLED)["InferencePool"]["spec"]
    assert pool["selector"] == {"matchLabels": {"octavo.dev/modelserver": "chat"}}
    assert pool["targetPorts"] == [{"number": 8000}]
    picker = {"kind": "Service", "name": "picker", "port": {"number": 9002}, "failureMode": "FailOpen"}
    assert pool["endpointPickerRef"] == picker


def test_what_the_cluster_does_not_have_is_not_rendered(raw_spec):
    assert not {"HTTPRoute", "InferencePool"} & children(raw_spec(networking=ROUTED), 1, DEFAULTS).keys()


# --- the pod ----------------------------------------------------------------------------------------------------------


def test_the_name_of_the_server_is_the_default_served_name(raw_spec):
    args = pod(raw_spec())["spec"]["containers"][0]["args"]
    assert args[args.index("--served-model-name") + 1] == "chat"


@pytest.mark.parametrize(
    ("path", "expected"),
    [(".", "/models"), ("a", "/models/a"), ("a/./b/", "/models/a/b"), ("m.gguf", "/models/m.gguf")],
)
def test_the_model_path_is_below_the_volume(raw_spec, path, expected):
    args = pod(raw_spec(model={"source": {"pvc": {"path": path}}}))["spec"]["containers"][0]["args"]
    assert args[:2] == ["serve", expected]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("256Mi", "256Mi"),
        (1048576, "1048576"),
        ("1e9", "1000000000"),
        ("1.5Gi", "1610612736"),
        ("2Ti", "2199023255552"),
    ],
)
def test_the_cache_size_is_written_as_the_runtime_reads_it(raw_spec, size, expected):
    args = pod(raw_spec(runtime={"kvCache": {"size": size}}))["spec"]["containers"][0]["args"]
    assert args[args.index("--kv-cache-memory") + 1] == expected


def test_the_pod_lives_as_long_as_its_drain(raw_spec):
    """Drain delay 5 s, drain timeout, and 10 s before the kubelet kills."""
    assert pod(raw_spec(drain={"timeout": "90s"}))["spec"]["terminationGracePeriodSeconds"] == 105


def test_a_model_of_the_hub_is_fetched_into_a_writable_cache_by_the_pod_itself():
    template = pod(FETCHED["hub"])["spec"]
    (container,) = template["containers"]
    assert container["args"][:2] == ["serve", "hf://org/model@v1/model.gguf"]
    assert {"name": "HF_ENDPOINT", "value": HUB["endpoint"]} in container["env"]
    secret = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    assert secret in container["env"]
    assert {"name": "model", "emptyDir": {"sizeLimit": "20Gi"}} in template["volumes"]
    assert {"name": "model", "mountPath": "/models"} in container["volumeMounts"]
    assert "fsGroup" not in template["securityContext"], "the kubelet makes an emptyDir writable"


def test_a_model_of_s3_comes_with_the_secrets_keys_and_keeps_its_files_on_the_claim():
    template = pod(FETCHED["s3"])["spec"]
    (container,) = template["containers"]
    assert container["args"][:2] == ["serve", "s3://models/smol"]
    environment = {variable["name"]: variable for variable in container["env"]}
    assert environment["AWS_ENDPOINT_URL"]["value"] == S3["endpoint"]
    assert environment["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]["name"] == "minio"
    assert environment["AWS_SESSION_TOKEN"]["valueFrom"]["secretKeyRef"]["optional"] is True
    assert "AWS_SKIP_SIGNATURE" not in environment
    assert template["securityContext"]["fsGroup"] == 65532
    anonymous = pod({"model": {"source": {"s3": {"uri": "s3://open/model"}}}})["spec"]["containers"][0]["env"]
    assert {"name": "AWS_SKIP_SIGNATURE", "value": "true"} in anonymous


def test_a_claim_is_made_where_one_is_asked_for_and_mounted_by_its_name(raw_spec):
    found = children(FETCHED["claim"])
    assert found["PersistentVolumeClaim"]["metadata"]["name"] == "chat"
    assert found["PersistentVolumeClaim"]["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "200Gi"}},
    }
    template = pod(FETCHED["claim"])["spec"]
    assert {"name": "model", "persistentVolumeClaim": {"claimName": "chat"}} in template["volumes"]
    assert template["securityContext"]["fsGroup"] == template["securityContext"]["runAsGroup"]
    least = FULL | {"model": {"source": {"hub": {"repo": "a/b"}}, "cache": {"claim": {"size": "1Gi"}}}}
    spec = children(least)["PersistentVolumeClaim"]["spec"]
    assert spec == {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    assert "PersistentVolumeClaim" not in children(FETCHED["s3"]).keys() | children(raw_spec()).keys()


def test_a_model_in_an_image_is_mounted_by_the_node():
    template = pod(FETCHED["oci"])["spec"]
    (container,) = template["containers"]
    assert container["args"][:2] == ["serve", "/models/smol"]
    assert "--download-dir" not in container["args"]
    image = {"reference": "example.invalid/smol:1", "pullPolicy": "Always"}
    assert {"name": "model", "image": image} in template["volumes"]
    assert {"name": "model", "mountPath": "/models", "readOnly": True} in container["volumeMounts"]
    assert template["imagePullSecrets"] == [{"name": "registry"}]
    plain = pod({"model": {"source": {"oci": {"image": "a"}}}})["spec"]
    assert {"name": "model", "image": {"reference": "a"}} in plain["volumes"]
    assert "imagePullSecrets" not in plain


def test_the_nodes_pull_counts_into_the_deadline():
    oci, pvc = (children(raw)["Deployment"]["spec"]["progressDeadlineSeconds"] for raw in (FETCHED["oci"], FULL))
    assert oci == pvc + 7200


def test_a_fetch_has_time_that_a_load_alone_has_not():
    def budget(raw: dict[str, Any]) -> int:
        return int(pod(raw)["spec"]["containers"][0]["startupProbe"]["failureThreshold"])

    assert budget(FETCHED["hub"]) > budget(FULL) == 1800


@pytest.mark.parametrize(
    ("source", "ports"),
    [
        ({"pvc": {"claimName": "m"}}, None),
        ({"oci": OCI}, None),
        ({"hub": {"repo": "a/b"}}, [("UDP", 53), ("TCP", 53), ("TCP", 443)]),
        ({"hub": HUB}, [("UDP", 53), ("TCP", 53), ("TCP", 8080)]),
        ({"s3": S3}, [("UDP", 53), ("TCP", 53), ("TCP", 443)]),
    ],
    ids=["pvc", "oci", "hub", "mirror", "s3"],
)
def test_a_replica_may_connect_to_nothing_but_its_models_source(source, ports):
    spec = policy({"model": {"source": source}})
    assert "Egress" in spec["policyTypes"]
    rules = spec.get("egress", [])
    found = [(port["protocol"], port["port"]) for rule in rules for port in rule["ports"]]
    assert found == (ports or [])


def test_gpus_are_asked_for_only_where_there_are_some(raw_spec):
    assert "resources" not in pod(raw_spec())["spec"]["containers"][0]
    assert "resources" not in pod(raw_spec(accelerator={"count": 0}))["spec"]["containers"][0]
    resources = pod(raw_spec(accelerator={"count": 1}))["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}


def test_several_gpus_divide_a_replica_and_share_memory(raw_spec):
    template = pod(raw_spec(accelerator={"count": 4}))["spec"]
    (container,) = template["containers"]
    args = container["args"]
    assert args[args.index("--tensor-parallel-size") + 1] == "4"
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}} in template["volumes"]
    assert {"name": "shm", "mountPath": "/dev/shm"} in container["volumeMounts"]


@pytest.mark.parametrize("accelerator", [{"count": 0}, {"count": 1}, {"profile": "H100"}])
def test_one_gpu_is_not_divided(raw_spec, accelerator):
    template = pod(raw_spec(accelerator=accelerator))["spec"]
    assert "--tensor-parallel-size" not in template["containers"][0]["args"]
    assert [volume["name"] for volume in template["volumes"]] == ["model", "tmp"]


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every scalar in a raw spec."""
    if isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(child, (*path, key))
    else:
        yield path


CHOICES: dict[Any, Any] = {
    "bfloat16": "float16",
    "H100": "H200",
    "Always": "Never",
    "Exists": "Equal",
    "NoSchedule": "NoExecute",
    "5m": "6m",
    "256Mi": "512Mi",
    "1024Mi": "2Gi",
    "--threads": "--other",
    "int8": "fp8_e4m3",
    64: 128,
    HUB["endpoint"]: "https://other.models.svc:8081",
    S3["endpoint"]: "http://minio.storage.svc",
    S3["uri"]: "s3://models/other",
}
FULL_EDITS = [(FULL, path) for path in leaves(FULL)]
PROFILED: dict[str, Any] = {"model": {"source": {"pvc": {"claimName": "m"}}}, "accelerator": {"profile": "H100"}}
FULL_EDITS += [(PROFILED, ("accelerator", "profile"))]
GROUPED = PROFILED | {"accelerator": {"profile": "H100", "count": 8, "nodes": 4}}
SHARED = PROFILED | {"runtime": {"kvCache": {"memoryPercent": 80}}}
FULL_EDITS += [(SHARED, ("runtime", "kvCache", "memoryPercent"))]
FULL_EDITS += [(GROUPED, ("accelerator", name)) for name in ("count", "nodes")]
FULL_EDITS += [(full, path) for full in FETCHED.values() for path in leaves(full) if path[1] in {"source", "cache"}]
# The claim is a child of its own, and the pods mount it by its name.
FULL_EDITS = [(full, path) for full, path in FULL_EDITS if "claim" not in path]


def changed(value: Any) -> Any:
    """Another value that the same field takes."""
    if isinstance(value, bool):
        return not value
    if value in CHOICES:
        return CHOICES[value]
    if isinstance(value, int):
        return value - 1
    return f"1{value}" if value[:1].isdigit() else f"x{value}"


@pytest.mark.parametrize(
    ("full", "path"), FULL_EDITS, ids=[".".join(str(part) for part in path) for _, path in FULL_EDITS]
)
def test_g12_every_edit_of_the_spec_reaches_the_pod(full, path):
    """production-stack compares a hand-picked list, so that edits of its arguments roll nothing."""
    edited = copy.deepcopy(full)
    node = edited
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = changed(node[path[-1]])
    assert pod(edited) != pod(full)


OF_THE_POD = ("model", "runtime", "accelerator", "drain", "podTemplate")
ELSEWHERE = ("rollout", "replicas", "autoscaling", "networking", "monitoring", "disruption", "paused")


def schema_paths(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every value that a schema describes; a list's index and a map's key are left away."""
    children = node.get("properties", {}).items()
    inner = node.get("items") or (node.get("additionalProperties") if not children else None)
    for name, child in children:
        yield from schema_paths(child, (*path, name))
    if isinstance(inner, dict):
        yield from schema_paths(inner, path)
    elif not children:
        yield path


def test_the_edits_above_are_all_fields_that_concern_the_pod():
    """A field that is added to the API must be added to FULL or FETCHED, and so must reach the pod."""
    spec = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert set(spec["properties"]) == {*OF_THE_POD, *ELSEWHERE}
    edited = {tuple(part for part in path if isinstance(part, str)) for _, path in FULL_EDITS}
    # One toleration cannot have every field, and a label's key is the user's.
    edited |= {("accelerator", "tolerations", name) for name in ("value", "tolerationSeconds")}
    edited |= {("runtime", "env", "valueFrom", "configMapKeyRef", "optional")}
    edited |= {("runtime", "env", "valueFrom", "fieldRef", "apiVersion")}
    edited |= {("accelerator", "costPerHour")}  # for the money alone, below
    edited |= {("model", "cache", "claim", name) for name in CLAIM}  # below
    edited = {path[:1] if path[0] == "podTemplate" else path for path in edited}
    edited = {path[:2] if path[:2] == ("accelerator", "nodeSelector") else path for path in edited}
    described = {path for path in schema_paths(spec) if path[0] in OF_THE_POD}
    assert described - edited == set()


def scaled(**more: Any) -> dict[str, Any]:
    return {"autoscaling": {"maxReplicas": 9, "targets": {"waitingPerReplica": 4}} | more}


def monitored(**values: Any) -> dict[str, Any]:
    return {"monitoring": {"podMonitor": values}}


def by_cron(**more: Any) -> dict[str, Any]:
    cron = {"start": "0 7 * * *", "end": "0 20 * * *"} | more
    return scaled(schedules=[{"name": "day", "cron": cron, "minReplicas": 2}])


def scheduled(**more: Any) -> dict[str, Any]:
    day = {"name": "day", "days": ["Mon"], "from": "08:00", "to": "20:00", "timeZone": "Etc/UTC", "minReplicas": 2}
    return scaled(schedules=[day | more])


def budgeted(**budget: Any) -> dict[str, Any]:
    return scaled(budget={"maxCostPerHour": "90", "maxGPUs": 9, "replicaCostPerHour": "2.5"} | budget)


def window(way: str, seconds: str) -> dict[str, Any]:
    return scaled(behavior={way: {"stabilizationWindow": seconds}})


def zero(**more: Any) -> dict[str, Any]:
    return scaled(scaleToZero=more)


def route(**more: Any) -> dict[str, Any]:
    return {"networking": {"httpRoute": {"parentRefs": [{"name": "public"} | more]}}}


def picker(**more: Any) -> dict[str, Any]:
    return {"networking": {"inferencePool": {"endpointPickerRef": {"name": "picker"} | more}}}


def peer(**peer: Any) -> dict[str, Any]:
    return {"networking": {"networkPolicy": {"allowedFrom": [peer]}}}


def claimed(**more: Any) -> dict[str, Any]:
    return {"model": FETCHED["claim"]["model"] | {"cache": {"claim": CLAIM | more}}}


def hosts(*names: str) -> dict[str, Any]:
    return {"networking": {"httpRoute": {"parentRefs": [{"name": "public"}], "hostnames": names}}}


def service(**more: Any) -> dict[str, Any]:
    return {"networking": {"service": more, "networkPolicy": {"enabled": False}}}


def chosen(label: str) -> dict[str, Any]:
    return {"matchLabels": {"app": label}}


# Of each field that concerns no pod: two specs that differ in it.
OUTSIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "replicas": ({"replicas": 2}, {"replicas": 7}),
    "paused": ({"paused": False}, {"paused": True}),
    "rollout.strategy": ({"rollout": {"strategy": "Auto"}}, {"rollout": {"strategy": "InPlace"}}),
    "disruption.maxUnavailable": ({"disruption": {"maxUnavailable": 1}}, {"disruption": {"maxUnavailable": 2}}),
    "monitoring.podMonitor.enabled": (monitored(enabled=True), monitored(enabled=False)),
    "monitoring.podMonitor.labels": (monitored(labels={"team": "a"}), monitored(labels={"team": "b"})),
    "autoscaling.mode": (scaled(mode="Off"), scaled(mode="Advisory")),
    "autoscaling.minReplicas": (scaled(minReplicas=1), scaled(minReplicas=3)),
    "autoscaling.maxReplicas": (scaled(), scaled(maxReplicas=8)),
    "autoscaling.targets.kvUtilizationPercent": tuple(
        scaled(targets={"kvUtilizationPercent": percent}) for percent in (60, 70)
    ),
    "autoscaling.targets.waitingPerReplica": (scaled(), scaled(targets={"waitingPerReplica": 5})),
    "autoscaling.metrics.source": tuple(scaled(metrics={"source": name}) for name in ("Direct", "Prometheus")),
    "autoscaling.metrics.staleAfter": tuple(
        scaled(metrics={"source": "Prometheus", "staleAfter": age}) for age in ("30s", "45s")
    ),
    "autoscaling.behavior.scaleUp.stabilizationWindow": (window("scaleUp", "0s"), window("scaleUp", "9s")),
    "autoscaling.behavior.scaleDown.stabilizationWindow": (window("scaleDown", "1m"), window("scaleDown", "9m")),
    "autoscaling.slo.ttftP95": tuple(scaled(slo={"ttftP95": limit}) for limit in ("1s", "2s")),
    "autoscaling.slo.itlP95": tuple(scaled(slo={"itlP95": limit}) for limit in ("80ms", "90ms")),
    "autoscaling.slo.queueWait": tuple(scaled(slo={"queueWait": limit}) for limit in ("1s", "2s")),
    "autoscaling.budget.maxCostPerHour": (budgeted(), budgeted(maxCostPerHour="80")),
    "autoscaling.budget.maxGPUs": (budgeted(), budgeted(maxGPUs=8)),
    "autoscaling.budget.replicaCostPerHour": (budgeted(), budgeted(replicaCostPerHour="2.6")),
    "autoscaling.schedules.name": (scheduled(), scheduled(name="night")),
    "autoscaling.schedules.days": (scheduled(), scheduled(days=["Tue"])),
    "autoscaling.schedules.from": (scheduled(), scheduled(**{"from": "09:00"})),
    "autoscaling.schedules.to": (scheduled(), scheduled(to="21:00")),
    "autoscaling.schedules.cron.start": (by_cron(), by_cron(start="0 8 * * *")),
    "autoscaling.schedules.cron.end": (by_cron(), by_cron(end="0 19 * * *")),
    "autoscaling.schedules.timeZone": (scheduled(), scheduled(timeZone="Europe/Berlin")),
    "autoscaling.schedules.minReplicas": (scheduled(), scheduled(minReplicas=3)),
    "autoscaling.scaleToZero.idleAfter": (zero(idleAfter="1m"), zero(idleAfter="2m")),
    "autoscaling.scaleToZero.maxHeldRequests": (zero(maxHeldRequests=10), zero(maxHeldRequests=20)),
    "autoscaling.scaleToZero.holdTimeout": (zero(holdTimeout="1m"), zero(holdTimeout="2m")),
    "networking.service.type": (service(), service(type="NodePort")),
    "networking.service.port": (service(), service(port=8080)),
    "networking.service.annotations": tuple(service(annotations={"a": value}) for value in "bc"),
    "networking.httpRoute.parentRefs.name": (route(), route(name="private")),
    "networking.httpRoute.parentRefs.namespace": (route(), route(namespace="gateways")),
    "networking.httpRoute.parentRefs.sectionName": (route(), route(sectionName="https")),
    "networking.httpRoute.parentRefs.port": (route(), route(port=8443)),
    "networking.httpRoute.hostnames": (hosts("a.example.com"), hosts("b.example.com")),
    "networking.httpRoute.requestTimeout": tuple(
        {"networking": {"httpRoute": {"parentRefs": [{"name": "public"}], "requestTimeout": timeout}}}
        for timeout in ("Disabled", "Gateway")
    ),
    "networking.inferencePool.endpointPickerRef.name": (picker(), picker(name="other")),
    "networking.inferencePool.endpointPickerRef.port": (picker(), picker(port=9003)),
    "networking.inferencePool.endpointPickerRef.failureMode": (picker(), picker(failureMode="FailOpen")),
    "networking.networkPolicy.enabled": ({}, {"networking": {"networkPolicy": {"enabled": False}}}),
    "networking.networkPolicy.allowedFrom.namespaceSelector.matchLabels": tuple(
        peer(namespaceSelector=chosen(label)) for label in "ab"
    ),
    "networking.networkPolicy.allowedFrom.podSelector.matchLabels": tuple(
        peer(podSelector=chosen(label)) for label in "ab"
    ),
    "networking.networkPolicy.allowedFrom.ipBlock.cidr": tuple(
        peer(ipBlock={"cidr": cidr}) for cidr in ("10.0.0.0/8", "10.0.0.0/9")
    ),
    "model.cache.claim.size": (claimed(), claimed(size="300Gi")),
    "model.cache.claim.storageClassName": (claimed(), claimed(storageClassName="slow")),
    "model.cache.claim.accessMode": (claimed(), claimed(accessMode="ReadWriteMany")),
    "accelerator.costPerHour": tuple(
        {"accelerator": FULL["accelerator"] | {"costPerHour": price}} for price in ("2.5", "3")
    ),
}


@pytest.mark.parametrize("field", OUTSIDE)
def test_g12_an_edit_that_does_not_concern_the_pod_does_not_roll_it(field):
    before, after = (FULL | changes for changes in OUTSIDE[field])
    assert parse_spec(before) != parse_spec(after)
    assert pod(before) == pod(after)


def test_the_edits_above_are_all_other_fields():
    """A field that is added elsewhere must be added to OUTSIDE, and so must leave the pods alone."""
    spec = build_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    described = {".".join(path) for path in schema_paths(spec) if path[0] in ELSEWHERE}
    claims = {f"model.cache.claim.{name}" for name in CLAIM}
    assert set(OUTSIDE) == described | {"accelerator.costPerHour"} | claims


def test_the_number_of_replicas_does_not_roll_the_pods(raw_spec):
    two, three = children(raw_spec(), 2), children(raw_spec(), 3)
    assert two["Deployment"]["spec"]["template"] == three["Deployment"]["spec"]["template"]
    assert two["Deployment"] != three["Deployment"]


def test_what_the_runtime_does_anyway_is_no_flag(raw_spec):
    """Else an upgrade that knows a new field would replace every replica."""
    usual = raw_spec(runtime={"kvCache": {"dtype": "auto"}, "prefixCaching": True})
    assert pod(usual) == pod(raw_spec())


def test_rendering_is_deterministic(raw_spec):
    assert children(raw_spec()) == children(raw_spec())


def test_a_rollout_never_takes_capacity_away(raw_spec):
    strategy = children(raw_spec())["Deployment"]["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_an_old_replica_goes_only_when_every_node_knows_the_new_one(raw_spec):
    spec = children(raw_spec())["Deployment"]["spec"]
    assert spec["minReadySeconds"] == 2
    assert spec["progressDeadlineSeconds"] > spec["minReadySeconds"]


def test_the_longest_name_leaves_room_for_children():
    assert MAX_NAME_LENGTH + len("-") + 10 <= 63


def test_the_url_is_the_service(raw_spec):
    service = children(raw_spec())["Service"]
    assert url(OWNER) == "http://chat.default.svc"
    assert service["spec"]["ports"][0]["port"] == 80
