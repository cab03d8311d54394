"""Git, people and the operator write the same objects a hundred times in turn; the operator may be away meanwhile."""

import json

import pytest

from kit.api_client import ApiClient

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

ROUNDS = 100
IN_GIT = {
    "apiVersion": "octavo.dev/v1alpha1",
    "kind": "ModelServer",
    "metadata": {"name": "chat", "labels": {"app.kubernetes.io/instance": "team-a"}, "annotations": {"in": "git"}},
    "spec": {"model": {"source": {"pvc": {"claimName": "models"}}}, "runtime": {"maxNumSeqs": 8}},
}


def path(kube, *more):
    return "/".join((f"/apis/octavo.dev/v1alpha1/namespaces/{kube.namespace}/modelservers/chat", *more))


def settled(kube, replicas):
    server, deployment = kube.get("modelserver"), kube.get("deployment")
    assert server["status"]["observedGeneration"] == server["metadata"]["generation"]
    assert server["status"]["desiredReplicas"] == deployment["spec"]["replicas"] == replicas
    assert deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
    return server


async def test_g15_git_people_and_the_operator_take_a_hundred_turns_without_a_fight(kube, operator, plane, wait):
    """Git applies what it always says, somebody scales, the operator follows: each writes what is its own."""
    async with ApiClient(plane.kubeconfig) as api:
        first = await api.apply(path(kube), IN_GIT, "argocd-controller")
        wait(lambda: kube.find("deployment"))
        for turn in range(ROUNDS):
            replicas = 1 + turn % 2
            await api.patch(path(kube, "scale"), {"spec": {"replicas": replicas}})
            applied = await api.apply(path(kube), IN_GIT, "argocd-controller")
            assert applied["spec"]["replicas"] == replicas
            if turn % 25 == 24:
                wait(lambda wanted=replicas: settled(kube, wanted))
        server = wait(lambda: settled(kube, replicas))
        dry = await api.apply(path(kube), IN_GIT, "argocd-controller&dryRun=All")
    assert server["metadata"]["generation"] == ROUNDS + 1  # each scaling changed the spec, nothing else did
    assert dry["spec"] == server["spec"] == first["spec"] | {"replicas": replicas}
    assert dry["metadata"]["resourceVersion"] == server["metadata"]["resourceVersion"]
    assert {entry["manager"] for entry in server["metadata"]["managedFields"] if not entry.get("subresource")} == {
        "argocd-controller"
    }
    assert server["metadata"]["annotations"] == {"in": "git"}
    assert "finalizers" not in server["metadata"]
    assert len(kube.list("replicasets")) == 1
    assert not [event for event in kube.list("events.events.k8s.io") if event["reason"] == "DriftRepaired"]
    assert not kube.condition("Contended")
    writes = operator.wait_for_silence("PATCH|POST|DELETE")
    operator.wait_for_resyncs(1)
    assert operator.requests("PATCH|POST|DELETE") == writes


def test_without_the_operator_servers_come_and_go_and_so_does_their_namespace(kube, operator, wait):
    kube.server()
    wait(lambda: kube.find("deployment") and kube.condition())
    operator.stop()
    try:
        other = IN_GIT | {"metadata": {"name": "other"}}
        kube.apply(other)
        fresh = kube.get("modelserver", "other")
        assert fresh["status"] == {"observedGeneration": -1}
        kube.run("delete", "modelserver", "other", "--timeout=180s")
        kube.apply(other)
        kube.run("delete", "namespace", kube.namespace, "--timeout=180s")
        listed = kube.run("get", "--raw", f"/api/v1/namespaces/{kube.namespace}", check=False)
        assert "not found" in listed.stderr
    finally:
        operator.start()


def test_a_new_server_is_never_taken_for_done(kube, wait):
    """What Flux sees from the first moment on: in progress, with a reason once the operator has looked."""
    made = json.loads(kube.run("create", "-o", "json", "-f", "-", stdin=IN_GIT).stdout)
    assert made["status"]["observedGeneration"] == -1
    conditions = wait(lambda: kube.get("modelserver")["status"].get("conditions"))
    assert {item["observedGeneration"] for item in conditions} == {1}
    assert [item["type"] for item in conditions if item["type"] in ("Reconciling", "Stalled")] == ["Reconciling"]
