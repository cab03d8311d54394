"""Replicas of several nodes against a real API server, with the part of LeaderWorkerSet's CRD that concerns what we
write, and its controller played; the controller itself runs in `make soak SOAK_ARGS=lws`.
"""

import pytest

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]

NAME = "leaderworkersets.leaderworkerset.x-k8s.io"
NODES = {"accelerator": {"count": 8, "nodes": 2}}
NUMBER, TEMPLATE = {"type": "integer"}, {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def fields(**properties):
    return {"type": "object", "properties": properties}


def word(*allowed, default=None):
    return {"type": "string", "enum": list(allowed), **({"default": default} if default else {})}


def either(default):
    return {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True, "default": default}


ROLLING = fields(partition=NUMBER | {"default": 0}, maxUnavailable=either(1), maxSurge=either(0))
STRATEGY = fields(
    type=word("RollingUpdate", default="RollingUpdate"),
    rollingUpdateConfiguration=ROLLING,
)
GROUPS = fields(
    size=NUMBER | {"default": 1},
    restartPolicy=word("None", "RecreateGroupOnPodRestart", default="RecreateGroupOnPodRestart"),
    leaderTemplate=TEMPLATE,
    workerTemplate=TEMPLATE,
)
SPEC = fields(
    replicas=NUMBER | {"default": 1},
    leaderWorkerTemplate=GROUPS,
    rolloutStrategy=STRATEGY,
    startupPolicy=word("LeaderReady", "LeaderCreated", default="LeaderCreated"),
    networkConfig=fields(subdomainPolicy=word("Shared", "UniquePerReplica")),
)
CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": NAME},
    "spec": {
        "group": "leaderworkerset.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "LeaderWorkerSet", "plural": "leaderworkersets", "singular": "leaderworkerset"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": SPEC, "status": TEMPLATE}}},
                "subresources": {"status": {}},
            }
        ],
    },
}


class Controller:
    """Makes the pods of groups as LeaderWorkerSet would."""

    def __init__(self, kube):
        self._kube = kube

    def play(self):
        """All pods of all groups, and no others."""
        groups = self._kube.find(NAME, "chat-group")
        wanted = {pod["metadata"]["name"]: pod for pod in self._pods(groups)} if groups else {}
        if groups and not groups.get("status"):
            self._kube.patch(NAME, "chat-group", {"status": {"observedGeneration": 1}}, subresource="status")
        there = [pod["metadata"]["name"] for pod in self._kube.list("pods")]
        for name in there:
            if name.startswith("chat-group") and name not in wanted:
                self._kube.run("delete", "pod", name, "--grace-period=0", "--force")
        for name in wanted.keys() - there:
            self._kube.apply(wanted[name])

    def _pods(self, groups):
        both = groups["spec"]["leaderWorkerTemplate"]
        for group in range(groups["spec"]["replicas"]):
            yield self._pod(f"chat-group-{group}", group, both["leaderTemplate"], both["size"])
            for worker in range(1, both["size"]):
                yield self._pod(f"chat-group-{group}-{worker}", group, both["workerTemplate"], both["size"])

    def _pod(self, name, group, template, size):
        labels = template["metadata"]["labels"] | {"leaderworkerset.sigs.k8s.io/group-index": str(group)}
        annotations = template["metadata"]["annotations"] | {"leaderworkerset.sigs.k8s.io/size": str(size)}
        metadata = {"name": name, "labels": labels, "annotations": annotations}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


@pytest.fixture
def controller(kube):
    controller = Controller(kube)
    yield controller
    kube.run("delete", "modelservers,pods", "--all", "--grace-period=0", "--force")
    kube.run("delete", "crd", NAME, "--ignore-not-found")


def test_a_replica_of_several_nodes_from_its_creation_to_its_end(kube, kubelet, controller, operator, wait):
    kube.server(replicas=2, **NODES)
    wait(lambda: kube.condition().get("reason") == "KindMissing")
    assert "accelerator.nodes needs LeaderWorkerSet" in kube.condition()["message"]
    assert not any(kube.find(kind) for kind in ("deployment", "service", "serviceaccount")), "nothing half-made"

    kube.apply(CRD)
    kube.run("wait", "--for=condition=Established", f"crd/{NAME}", "--timeout=180s")
    groups = wait(lambda: kube.find(NAME, "chat-group"))
    assert (groups["spec"]["replicas"], groups["spec"]["leaderWorkerTemplate"]["size"]) == (2, 2)
    assert kube.get("service", "chat-group")["spec"]["clusterIP"] == "None"
    assert kube.find("deployment") is None

    controller.play()
    kubelet.serve()
    wait(lambda: kube.condition().get("message") == "2 of 2 replicas serve")
    asked = {name for name, replica in kubelet.replicas.items() if replica.visitors}
    assert asked <= {"chat-group-0", "chat-group-1"}
    assert selected(kube, kube.get("service")) == {"chat-group-0", "chat-group-1"}
    policy = kube.get("networkpolicy")["spec"]["podSelector"]["matchExpressions"][0]
    assert len(selected(kube, policy)) == 4

    writes = operator.wait_for_silence("PATCH|POST")
    operator.wait_for_resyncs(2)
    assert operator.requests("PATCH|POST") == writes, "what the kind defaults is no drift"

    ended = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
    report(kube, "chat-group-1-1", ended)
    wait(lambda: kube.condition().get("reason") == "OOMKilled")
    assert kube.condition()["message"].startswith("chat-group-1-1: ")

    kube.run("scale", "oms/chat", "--replicas=1")
    wait(lambda: kube.get(NAME, "chat-group")["spec"]["replicas"] == 1)
    controller.play()
    wait(lambda: kube.condition().get("message") == "1 of 1 replicas serve")

    kube.run("delete", NAME, "chat-group")
    wait(lambda: kube.find(NAME, "chat-group"))

    kube.server(replicas=1, accelerator={"count": 8, "nodes": 1})
    wait(lambda: kube.find("deployment"))
    wait(lambda: not any(kube.find(*child) for child in ((NAME, "chat-group"), ("service", "chat-group"))))
    controller.play()
    kubelet.serve()
    wait(lambda: kube.condition().get("message") == "1 of 1 replicas serve")


def selected(kube, by):
    """The pods that a Service or an expression selects."""
    if "spec" in by:
        selector = ",".join(f"{key}={value}" for key, value in by["spec"]["selector"].items())
    else:
        selector = f"{by['key']} in ({','.join(by['values'])})"
    return set(kube.run("get", "pods", f"--selector={selector}", "-o", "name").stdout.replace("pod/", "").split())


def report(kube, name, state):
    """The container of a pod has ended."""
    container = {"name": "runtime", "ready": False, "restartCount": 0, "image": "x", "imageID": "x", "state": state}
    unready = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {"conditions": [unready], "containerStatuses": [container]}
    kube.patch("pod", name, {"status": status}, subresource="status")
