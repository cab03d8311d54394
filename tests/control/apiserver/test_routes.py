"""HTTPRoute and InferencePool against a real API server, with the parts of their CRDs that concern what we write."""

import pytest

pytestmark = [pytest.mark.apiserver, pytest.mark.usefixtures("operator")]


def crd(group, kind, plural, spec):
    status = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": {"type": "object", **spec}, "status": status}}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        # Kubernetes keeps *.k8s.io for APIs that it has approved.
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, a part of the real one for tests"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version | {"subresources": {"status": {}}}],
        },
    }


def fields(required=(), **properties):
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def items(schema, **more):
    return {"type": "array", "x-kubernetes-list-type": "atomic", "items": schema, **more}


STRING, PORT = {"type": "string"}, {"type": "integer", "minimum": 1, "maximum": 65535}
REF = {"group": STRING | {"default": ""}, "kind": STRING | {"default": "Service"}, "name": STRING}
PATH = fields(type=STRING | {"default": "PathPrefix"}, value=STRING | {"default": "/"})
BACKEND = fields(["name"], **REF, namespace=STRING, port=PORT, weight={"type": "integer", "default": 1})
MATCH = fields(path=PATH | {"default": {"type": "PathPrefix", "value": "/"}})
RULE = fields(
    timeouts=fields(request=STRING, backendRequest=STRING),
    backendRefs=items(BACKEND),
    matches=items(MATCH, default=[{"path": {"type": "PathPrefix", "value": "/"}}]),
)
PARENT = fields(
    ["name"],
    group=STRING | {"default": "gateway.networking.k8s.io"},
    kind=STRING | {"default": "Gateway"},
    name=STRING,
    namespace=STRING,
    sectionName=STRING,
    port=PORT,
)
ROUTES = crd(
    "gateway.networking.k8s.io",
    "HTTPRoute",
    "httproutes",
    fields(parentRefs=items(PARENT), hostnames=items(STRING), rules=items(RULE)),
)
PICKER = fields(
    ["name"],
    **REF,
    port=fields(["number"], number=PORT),
    failureMode=STRING | {"default": "FailClose", "enum": ["FailOpen", "FailClose"]},
)
POOLS = crd(
    "inference.networking.k8s.io",
    "InferencePool",
    "inferencepools",
    fields(
        ["selector", "targetPorts", "endpointPickerRef"],
        selector=fields(["matchLabels"], matchLabels={"type": "object", "additionalProperties": STRING}),
        targetPorts=items(fields(["number"], number=PORT), minItems=1),
        endpointPickerRef=PICKER,
    ),
)
NAMES = ("crd/httproutes.gateway.networking.k8s.io", "crd/inferencepools.inference.networking.k8s.io")
NETWORKING = {
    "httpRoute": {
        "parentRefs": [
            {"name": "public", "namespace": "gateways", "sectionName": "a"},
            {"name": "public", "namespace": "gateways", "sectionName": "b"},
        ],
        "hostnames": ["chat.example.com"],
    },
    "inferencePool": {"endpointPickerRef": {"name": "picker"}},
}


ROUTE = "httproutes.gateway.networking.k8s.io"


def answer(kube, **conditions):
    """What a gateway's controller writes: for both listeners, each condition as (status, reason)."""
    route = kube.get(ROUTE)
    told = [
        {"type": kind, "status": status, "reason": reason, "observedGeneration": route["metadata"]["generation"]}
        for kind, (status, reason) in conditions.items()
    ]
    parents = [
        {"parentRef": parent, "controllerName": "x/y", "conditions": told} for parent in route["spec"]["parentRefs"]
    ]
    kube.patch(ROUTE, "chat", {"status": {"parents": parents}}, subresource="status")


def test_what_a_gateway_says_of_the_route_is_told(kube, wait):
    def told():
        condition = kube.condition("Routed")
        return condition.get("status"), condition.get("reason")

    try:
        kube.apply(ROUTES)
        kube.run("wait", "--for=condition=Established", NAMES[0], "--timeout=180s")
        kube.server(networking={"httpRoute": NETWORKING["httpRoute"]})
        wait(lambda: told() == ("Unknown", "GatewaySilent"))
        answer(kube, Accepted=("False", "NoMatchingListenerHostname"))
        wait(lambda: told() == ("False", "RouteRefused"))
        assert "Gateway gateways/public listener a: NoMatchingListenerHostname" in kube.condition("Routed")["message"]
        answer(kube, Accepted=("True", "Accepted"), ResolvedRefs=("True", "ResolvedRefs"))
        wait(lambda: told() == ("True", "RouteAccepted"))
        kube.server()
        wait(lambda: told() == (None, None))
    finally:
        kube.run("delete", NAMES[0])


def test_routes_and_pools_come_with_their_kinds_and_go_with_their_fields(kube, operator, wait):
    kube.server(networking=NETWORKING)
    wait(lambda: kube.condition().get("reason") == "KindMissing")
    words = kube.condition()["message"]
    assert "networking.httpRoute needs HTTPRoute" in words
    assert "networking.inferencePool needs InferencePool" in words
    assert kube.find("deployment"), "the rest is made"
    try:
        kube.apply({"apiVersion": "v1", "kind": "List", "items": [ROUTES, POOLS]})
        kube.run("wait", "--for=condition=Established", *NAMES, "--timeout=180s")
        route = wait(lambda: kube.find("httproutes.gateway.networking.k8s.io"))
        pool = wait(lambda: kube.find("inferencepools.inference.networking.k8s.io"))
        assert route["spec"]["rules"][0]["backendRefs"][0]["kind"] == "InferencePool"
        assert [parent["sectionName"] for parent in route["spec"]["parentRefs"]] == ["a", "b"]
        assert pool["spec"]["targetPorts"] == [{"number": 8000}]
        wait(lambda: kube.condition().get("reason") == "Starting")

        writes = operator.wait_for_silence("PATCH|POST")
        operator.wait_for_resyncs(2)
        assert operator.requests("PATCH|POST") == writes, "what the kinds default is no drift"

        kube.server(networking={"httpRoute": NETWORKING["httpRoute"]})
        wait(lambda: kube.find("inferencepools.inference.networking.k8s.io") is None)
        wait(
            lambda: (
                kube.get("httproutes.gateway.networking.k8s.io")["spec"]["rules"][0]["backendRefs"][0]["kind"]
                == "Service"
            )
        )
        kube.server()
        wait(lambda: kube.find("httproutes.gateway.networking.k8s.io") is None)
    finally:
        kube.run("delete", *NAMES)
    operator.wait_for_resyncs(2)
    kube.run("scale", "oms/chat", "--replicas=2")
    wait(lambda: kube.get("deployment")["spec"]["replicas"] == 2)
