"""The operator as a process against a real API server: children, drift, restarts, deletions, and what the pods say."""

import json
import signal

import pytest

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

CHILDREN = ("deployment", "service", "serviceaccount", "networkpolicy")


def versions(kube):
    """Of the ModelServer and its children: a write of the operator's changes one of them. The Deployment's controller
    writes too, whenever it comes to that, so there it is what the operator has written, and when.
    """
    found = {kind: kube.get(kind)["metadata"] for kind in ("modelserver", *CHILDREN)}
    entries = found["deployment"]["managedFields"]
    ours = [entry for entry in entries if entry["manager"] == "octavo-operator"]
    assert ours
    return {kind: metadata["resourceVersion"] for kind, metadata in found.items()} | {"deployment": ours}


def settled(kube):
    """Whether the status speaks of the newest spec, and the Deployment's of its own."""
    server, deployment = kube.get("modelserver"), kube.get("deployment")
    seen = server.get("status", {}).get("observedGeneration") == server["metadata"]["generation"]
    return seen and deployment["status"].get("observedGeneration") == deployment["metadata"]["generation"]


def is_ready(kube):
    return kube.condition().get("status") == "True"


def reasons(kube):
    return {condition["reason"] for condition in [kube.condition()]}


@pytest.fixture
def serving(kube, kubelet, wait):
    """A ModelServer with one ready replica."""
    kube.server()
    wait(lambda: kubelet.serve() and is_ready(kube))
    return kube


def test_children_and_status_appear(kube, kubelet, wait):
    kube.server(replicas=2, model={"source": {"pvc": {"claimName": "models"}}, "servedName": "m"})
    wait(lambda: len(kubelet.pods()) == 2)
    server, service = kube.get("modelserver"), kube.get("service")
    for child in (kube.get(kind) for kind in (*CHILDREN, "poddisruptionbudget")):
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (server["metadata"]["uid"], True)
    assert service["spec"]["ports"][0]["port"] == 80
    status = wait(lambda: (found := kube.get("modelserver")["status"]).get("conditions") and found)
    assert status["observedGeneration"] == server["metadata"]["generation"]
    assert status["desiredReplicas"] == 2
    assert status["model"] == {"servedName": "m"}
    assert status["url"] == f"http://chat.{kube.namespace}.svc"
    assert {condition["type"] for condition in status["conditions"]} == {
        "Ready",
        "Reconciling",
        "Available",
        "Progressing",
        "ScalingActive",
        "ScalingLimited",
        "MetricsFresh",
        "CapacityAvailable",
    }
    assert all(condition["observedGeneration"] == 1 for condition in status["conditions"])


def test_ready_follows_the_pods(kube, kubelet, wait):
    kube.server()
    wait(lambda: kube.condition().get("reason") == "Starting")
    wait(kubelet.serve)
    kube.run("wait", "--for=condition=Ready", "oms/chat", "--timeout=180s")
    types = {item["type"] for item in kube.get("modelserver")["status"]["conditions"]}
    assert not types & {"Reconciling", "Stalled"}
    row = kube.run("get", "oms", "chat", "--no-headers").stdout.split()
    assert row[:4] == ["chat", "chat", "1", "1"]


def test_an_idle_operator_writes_nothing(serving, operator, wait):
    wait(lambda: serving.get("modelserver")["status"].get("load") is not None)
    writes = operator.wait_for_silence("PATCH|POST")
    before = versions(serving)
    operator.wait_for_resyncs(2)
    assert versions(serving) == before
    assert operator.requests("PATCH|POST") == writes
    wait(lambda: operator.http("/healthz") == "ok")


def test_the_spec_and_metadata_are_never_written(serving):
    """Only the user and the status subresource appear among the managers."""
    metadata = serving.get("modelserver")["metadata"]
    assert metadata["generation"] == 1
    assert "finalizers" not in metadata
    assert "annotations" not in metadata
    managers = {(entry["manager"], entry.get("subresource")) for entry in metadata["managedFields"]}
    assert managers == {("test", None), ("octavo-operator", "status")}


def test_an_edited_child_is_put_back(serving, wait):
    edit = [
        {"op": "replace", "path": "/spec/replicas", "value": 4},
        {"op": "replace", "path": "/spec/template/spec/containers/0/args/1", "value": "/tmp"},
    ]
    serving.patch("deployment", "chat", edit)
    serving.patch("service", "chat", [{"op": "replace", "path": "/spec/ports/0/targetPort", "value": 9}])

    def back():
        spec, port = serving.get("deployment")["spec"], serving.get("service")["spec"]["ports"][0]
        args = spec["template"]["spec"]["containers"][0]["args"]
        return spec["replicas"] == 1 and args[1] == "/models/smol" and port["targetPort"] == "http"

    wait(back)
    events = wait(lambda: [e for e in serving.list("events.events.k8s.io") if e["reason"] == "DriftRepaired"])
    assert events[0]["type"] == "Warning"
    assert "spec." in events[0]["note"]


@pytest.mark.parametrize("kind", CHILDREN)
def test_a_deleted_child_comes_back(serving, wait, kind):
    uid = serving.get(kind)["metadata"]["uid"]
    serving.run("delete", kind, "chat", "--wait=false")
    wait(lambda: (found := serving.find(kind)) and found["metadata"]["uid"] != uid)


def test_what_others_add_survives(serving, operator):
    serving.patch("deployment", "chat", {"metadata": {"labels": {"team": "ml"}, "annotations": {"note": "mine"}}})
    serving.server(runtime={"env": [{"name": "A", "value": "1"}]})
    operator.wait_for_resyncs(1)
    metadata = serving.get("deployment")["metadata"]
    assert metadata["labels"]["team"] == "ml"
    assert metadata["annotations"]["note"] == "mine"


def test_an_edit_rolls_the_pods_and_its_undoing_leaves_nothing_behind(serving, kubelet, wait):
    first = kubelet.pods()[0]["metadata"]["name"]
    runtime = {"resources": {"limits": {"memory": "2048Mi"}}, "env": [{"name": "A", "value": "1"}]}
    serving.server(runtime=runtime, accelerator={"count": 0, "nodeSelector": {"a": "b"}})
    wait(lambda: serving.condition().get("reason") == "RollingOut")
    assert serving.condition("Available")["status"] == "True"
    wait(lambda: kubelet.serve() and is_ready(serving))
    assert first not in {pod["metadata"]["name"] for pod in kubelet.pods()}
    serving.server()
    wait(lambda: kubelet.serve() and settled(serving) and is_ready(serving))
    pod = serving.get("deployment")["spec"]["template"]["spec"]
    assert "nodeSelector" not in pod
    assert [entry["name"] for entry in pod["containers"][0]["env"]] == ["HOME"]
    assert pod["containers"][0]["resources"] == {}


def test_scaling_by_hand_rolls_nothing(serving, kubelet, wait):
    template = serving.get("deployment")["spec"]["template"]
    serving.run("scale", "oms/chat", "--replicas=2")
    wait(lambda: len(kubelet.serve()) == 2 and is_ready(serving))
    assert serving.get("deployment")["spec"]["template"] == template
    scale = lambda: json.loads(serving.run("get", "--raw", f"{_path(serving)}/scale").stdout)  # noqa: E731
    wait(lambda: scale()["status"] == {"replicas": 2, "selector": "octavo.dev/modelserver=chat"})
    serving.run("scale", "oms/chat", "--replicas=0")
    wait(lambda: serving.condition().get("reason") == "ScaledToZero")


def _path(kube):
    return f"/apis/octavo.dev/v1alpha1/namespaces/{kube.namespace}/modelservers/chat"


def test_a_maximal_spec_is_applied_once(operator, kube, wait):
    """What the API server rewrites in a child must not look like drift."""
    kube.server(
        model={"source": {"pvc": {"claimName": "models"}}, "servedName": "a/b", "maxModelLen": 512, "dtype": "float32"},
        runtime={
            "image": "example.invalid/x:1",
            "args": ["--threads", "2"],
            "env": [
                {"name": "EMPTY", "value": ""},
                {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": False}}},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            ],
            "maxNumSeqs": 4,
            "maxBatchedTokens": 64,
            "kvCache": {"size": "0.5Gi", "dtype": "auto", "blockSize": 32},
            "prefixCaching": True,
            "resources": {
                "requests": {"cpu": "0.5", "memory": "1024Mi"},
                "limits": {"cpu": "2000m", "memory": "4096Mi"},
            },
        },
        accelerator={
            "count": 1,
            "nodeSelector": {"empty": ""},
            "tolerations": [
                {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
                {"key": "b", "value": ""},
            ],
        },
        drain={"timeout": "10m", "preStopDelay": "1m"},
        monitoring={"podMonitor": {"enabled": True, "labels": {"team": ""}}},
        replicas=2,
        disruption={"maxUnavailable": 2},
        networking={
            "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"example.com/empty": ""}},
            "networkPolicy": {
                "allowedFrom": [
                    {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": ""}}},
                    {"ipBlock": {"cidr": "2001:db8::/32"}},
                ]
            },
        },
    )
    wait(lambda: kube.find("deployment") and settled(kube))
    before = kube.get("deployment")["metadata"]["generation"]
    operator.wait_for_resyncs(2)
    assert kube.get("deployment")["metadata"]["generation"] == before == 1
    assert not [event for event in kube.list("events.events.k8s.io") if event["reason"] == "DriftRepaired"]


def test_a_service_becomes_another_kind_and_back_and_nothing_that_was_assigned_is_fought_over(operator, kube, wait):
    """Addresses and node ports are Kubernetes' own; what the spec does not say any more goes."""

    def service(**wanted):
        kube.server(networking={"service": wanted, "networkPolicy": {"enabled": False}})
        kind, port = wanted.get("type", "ClusterIP"), wanted.get("port", 80)

        def there():
            found = kube.find("service")
            return found and (found["spec"]["type"], found["spec"]["ports"][0]["port"]) == (kind, port) and found

        return wait(there)

    address = service()["spec"]["clusterIP"]
    notes = {"example.com/scheme": "internal", "example.com/other": ""}
    balanced = service(type="LoadBalancer", port=8080, annotations=notes)
    (port,) = balanced["spec"]["ports"]
    assert port["nodePort"] >= 30000
    assert balanced["spec"]["clusterIP"] == address
    assert balanced["metadata"]["annotations"].items() >= notes.items()
    wait(lambda: kube.get("modelserver")["status"].get("url") == f"http://chat.{kube.namespace}.svc:8080")

    wait(lambda: settled(kube))
    version = kube.get("service")["metadata"]["resourceVersion"]
    operator.wait_for_resyncs(2)
    assert kube.get("service")["metadata"]["resourceVersion"] == version

    def one_left():
        annotations = kube.get("service")["metadata"]["annotations"]
        return "example.com/scheme" in annotations and "example.com/other" not in annotations

    service(type="NodePort", port=8080, annotations={"example.com/scheme": "internal"})
    wait(one_left)
    assert kube.get("service")["spec"]["ports"][0]["nodePort"] == port["nodePort"]

    plain = service()
    assert "nodePort" not in plain["spec"]["ports"][0]
    assert len(plain["spec"]["ports"]) == 1
    assert plain["spec"]["clusterIP"] == address
    assert "example.com/scheme" not in plain["metadata"]["annotations"]
    assert "externalTrafficPolicy" not in plain["spec"]
    wait(lambda: kube.get("modelserver")["status"].get("url") == f"http://chat.{kube.namespace}.svc")
    assert not [event for event in kube.list("events.events.k8s.io") if event["reason"] == "DriftRepaired"]


def test_a_model_in_an_image_is_applied_once(operator, kube, wait):
    oci = {"image": "example.invalid/smol:1", "path": "smol", "pullSecretRef": {"name": "registry"}}
    kube.server(model={"source": {"oci": oci}})
    wait(lambda: kube.find("deployment") and settled(kube))
    volume = next(item for item in kube.get("deployment")["spec"]["template"]["spec"]["volumes"] if "image" in item)
    assert volume["image"]["reference"] == "example.invalid/smol:1"
    operator.wait_for_resyncs(2)
    assert kube.get("deployment")["metadata"]["generation"] == 1


def test_a_claim_for_what_is_fetched_comes_and_goes_and_what_it_cannot_be_is_said(operator, kube, wait):
    def cached(**cache):
        kube.server(model={"source": {"hub": {"repo": "org/model"}}, "cache": cache})

    cached(claim={"size": "1024Mi"})
    claim = wait(lambda: kube.find("persistentvolumeclaim"))
    assert claim["spec"]["resources"]["requests"]["storage"] == "1Gi"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["ownerReferences"][0]["uid"] == kube.get("modelserver")["metadata"]["uid"]
    wait(lambda: kube.find("deployment") and settled(kube))
    operator.wait_for_resyncs(2)
    assert kube.get("persistentvolumeclaim")["metadata"]["uid"] == claim["metadata"]["uid"]
    assert not [event for event in kube.list("events.events.k8s.io") if event["reason"] == "DriftRepaired"]
    cached(claim={"size": "2Gi"})  # no volume is bound, so the API server refuses, and says so in its words
    wait(lambda: kube.condition().get("reason") == "ApplyRejected")
    assert "spec is immutable" in kube.condition()["message"]
    cached(sizeLimit="2Gi")

    def goes():
        found = kube.find("persistentvolumeclaim")
        return found is None or "deletionTimestamp" in found["metadata"]

    wait(goes)
    wait(lambda: kube.condition().get("reason") != "ApplyRejected")


def test_a_budget_comes_with_the_second_replica_and_goes_with_it(serving, wait):
    assert serving.find("poddisruptionbudget") is None
    serving.run("scale", "oms/chat", "--replicas=2")
    budget = wait(lambda: serving.find("poddisruptionbudget"))
    assert budget["spec"]["maxUnavailable"] == 1
    serving.run("scale", "oms/chat", "--replicas=1")
    wait(lambda: serving.find("poddisruptionbudget") is None)
    assert wait(lambda: [e for e in serving.list("events.events.k8s.io") if e["reason"] == "Removed"])


def test_a_policy_that_is_switched_off_is_removed_and_one_of_somebody_else_is_not(serving, wait):
    foreign = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "own"}}
    serving.apply(foreign | {"spec": {"podSelector": {"matchLabels": {"octavo.dev/modelserver": "chat"}}}})
    serving.server(networking={"networkPolicy": {"enabled": False}})
    wait(lambda: serving.find("networkpolicy") is None)
    assert serving.find("networkpolicy", "own")


MONITORS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podmonitors.monitoring.coreos.com"},
    "spec": {
        "group": "monitoring.coreos.com",
        "scope": "Namespaced",
        "names": {"kind": "PodMonitor", "plural": "podmonitors", "singular": "podmonitor"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def test_monitors_follow_the_kind_that_comes_and_goes(serving, operator, wait):
    """Prometheus' operator is installed after ours, and removed again."""
    serving.apply(MONITORS)
    try:
        serving.run("wait", "--for=condition=Established", "crd/podmonitors.monitoring.coreos.com", "--timeout=180s")
        monitor = wait(lambda: serving.find("podmonitor"))
        assert monitor["spec"]["selector"]["matchLabels"] == {"octavo.dev/modelserver": "chat"}
        serving.run("delete", "podmonitor", "chat")
        wait(lambda: serving.find("podmonitor"))
        before = serving.get("podmonitor")["metadata"]["resourceVersion"]
        operator.wait_for_resyncs(1)
        assert serving.get("podmonitor")["metadata"]["resourceVersion"] == before
    finally:
        serving.run("delete", "crd", "podmonitors.monitoring.coreos.com")
    operator.wait_for_resyncs(2)
    serving.run("scale", "oms/chat", "--replicas=2")
    wait(lambda: serving.get("deployment")["spec"]["replicas"] == 2)
    wait(lambda: serving.condition()["reason"] not in {"ApplyRejected", "ApplyFailed"})


def test_a_restart_writes_nothing(serving, operator, wait):
    wait(lambda: serving.get("modelserver")["status"].get("load") is not None)
    operator.wait_for_silence("PATCH|POST")
    before = versions(serving)
    assert operator.stop() == 0
    operator.start()
    operator.wait_for_resyncs(2)
    assert versions(serving) == before
    assert operator.requests("PATCH|POST") == 0


def test_a_killed_operator_resumes_where_the_cluster_is(serving, operator, wait):
    operator.stop(signal.SIGKILL)
    serving.server(replicas=2)
    serving.run("delete", "service", "chat")
    operator.start()
    wait(lambda: serving.find("service") and serving.get("deployment")["spec"]["replicas"] == 2)


def test_deleting_the_server_removes_the_children_with_the_operator_stopped(serving, operator, wait):
    operator.stop()
    try:
        serving.run("delete", "oms", "chat", "--timeout=180s")
        wait(lambda: not any(serving.find(kind) for kind in CHILDREN) and not serving.list("pods"))
    finally:
        operator.start()


def test_a_server_that_comes_back_under_its_name_gets_children_of_its_own(serving, wait):
    first = serving.get("modelserver")["metadata"]["uid"]
    serving.run("delete", "oms", "chat", "--cascade=foreground", "--timeout=180s")
    serving.server()
    owner = wait(lambda: (child := serving.find("deployment")) and child["metadata"]["ownerReferences"][0]["uid"])
    assert owner != first


def test_a_missing_model_is_named_and_fixing_it_recovers(kube, kubelet, wait):
    kube.server()
    wait(kubelet.pods)
    told = json.dumps({"reason": "ModelNotFound", "message": "/models/smol does not exist"})
    ended = {"terminated": {"exitCode": 2, "reason": "Error", "message": f"some log line\n{told}\n"}}
    kubelet.fail({"waiting": {"reason": "CrashLoopBackOff"}}, restarts=3, last=ended)
    wait(lambda: kube.condition().get("reason") == "ModelNotFound")
    assert kube.condition()["status"] == "False"
    assert "/models/smol does not exist" in kube.condition()["message"]
    assert kube.condition("Stalled")["reason"] == "ModelNotFound"
    kube.server(model={"source": {"pvc": {"claimName": "models", "path": "right"}}})
    wait(lambda: kube.condition().get("reason") != "ModelNotFound")
    wait(lambda: kubelet.serve() and is_ready(kube))
    assert not kube.condition("Stalled")


def test_a_bad_rollout_is_not_ready_while_the_old_replica_serves(serving, kubelet, wait):
    serving.server(runtime={"image": "example.invalid/missing:1"})
    wait(lambda: len(kubelet.pods()) == 2)
    kubelet.fail({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})
    wait(lambda: serving.condition().get("reason") == "ImagePullBackOff")
    assert serving.condition("Available")["status"] == "True"
    assert serving.get("modelserver")["status"]["readyReplicas"] == 1


def test_pods_that_the_namespace_refuses_are_explained(kube, wait):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    kube.apply(quota)
    wait(lambda: kube.get("resourcequota", "none").get("status", {}).get("hard"))
    kube.server()
    wait(lambda: kube.condition().get("reason") == "PodsRefused")
    assert "exceeded quota" in kube.condition()["message"]


def test_pods_pass_the_restricted_pod_security_standard(kube, kubelet, wait):
    kube.run("label", "namespace", kube.namespace, "pod-security.kubernetes.io/enforce=restricted")
    kube.server()
    wait(kubelet.pods)


def test_a_foreign_service_is_not_taken_over(kube, wait):
    ports = [{"port": 1234}]
    kube.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat"}, "spec": {"ports": ports}})
    kube.server()
    wait(lambda: kube.condition().get("reason") == "NameTaken")
    assert "Service chat" in kube.condition()["message"]
    assert kube.get("service")["spec"]["ports"][0]["port"] == 1234


def test_a_paused_server_is_left_alone(serving, operator, wait):
    serving.server(paused=True, replicas=3)
    wait(lambda: serving.condition("Progressing").get("reason") == "Paused")
    serving.patch("deployment", "chat", {"spec": {"replicas": 2}})
    operator.wait_for_resyncs(2)
    assert serving.get("deployment")["spec"]["replicas"] == 2
    serving.server(replicas=3)
    wait(lambda: serving.get("deployment")["spec"]["replicas"] == 3)


def test_a_spec_older_than_the_crd_is_named_by_its_field(kube, wait):
    """As after an upgrade that added a rule: the object is there, and admission never saw it."""
    crd = kube.get("crd", "modelservers.octavo.dev")
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/replicas"
    minimum = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["replicas"]
    lax = {key: value for key, value in minimum.items() if key != "maximum"}
    kube.patch("crd", "modelservers.octavo.dev", [{"op": "replace", "path": path, "value": lax}])
    try:
        wait(lambda: kube.server(replicas=5000))
    finally:
        kube.patch("crd", "modelservers.octavo.dev", [{"op": "replace", "path": path, "value": minimum}])
    wait(lambda: kube.condition().get("reason") == "InvalidSpec")
    assert "spec.replicas" in kube.condition()["message"]
    assert kube.condition("Stalled")["status"] == "True"
    kube.server(replicas=1)
    wait(lambda: kube.find("deployment"))


def test_a_crd_older_than_the_operator_gets_as_much_of_the_status_as_it_has(kube, wait):
    """Server-side apply refuses the whole of it for one field that the CRD lacks, and nobody would hear anything."""
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties"
    crd = kube.get("crd", "modelservers.octavo.dev")
    known = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    old = {name: schema for name, schema in known.items() if name not in ("url", "model")}
    kube.patch("crd", "modelservers.octavo.dev", [{"op": "replace", "path": path, "value": old}])
    try:
        wait(lambda: "url" not in kube.run("explain", "modelservers.octavo.dev.status").stdout)
        kube.server()
        wait(lambda: kube.condition().get("observedGeneration") == 1)
        assert not {"url", "model"} & kube.get("modelserver")["status"].keys()
    finally:
        kube.patch("crd", "modelservers.octavo.dev", [{"op": "replace", "path": path, "value": known}])
    wait(lambda: {"url", "model"} <= kube.get("modelserver")["status"].keys())


def test_an_outage_of_the_api_server_is_survived(serving, operator, plane, wait):
    plane.stop_apiserver()
    wait(lambda: operator.http("/readyz") == "ok")
    plane.restart_apiserver()
    serving.run("delete", "service", "chat")
    wait(lambda: serving.find("service"))
    assert operator.alive
