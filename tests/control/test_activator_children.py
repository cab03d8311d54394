"""The children of a ModelServer that may have no replica, and where its Service leads."""

import argparse

import pytest

from octavo_operator.activator.arguments import add_arguments
from octavo_operator.core import names
from octavo_operator.core.activator import why_none
from octavo_operator.core.manifest import Defaults, Owner, slot
from octavo_operator.core.plan import make_plan
from octavo_operator.core.render import render
from octavo_operator.core.spec import parse_spec

OWNER = Owner("default", "chat", "uid-1")
INSTALLED = Defaults(
    runtime_image="example.invalid/runtime:1",
    operator_namespace="octavo-system",
    prometheus_namespace="monitoring",
    pod_monitors=True,
    activator_image="example.invalid/operator:1",
)
ZERO = {
    "minReplicas": 1,
    "maxReplicas": 3,
    "targets": {"waitingPerReplica": 2},
    "scaleToZero": {"idleAfter": "15m", "maxHeldRequests": 50, "holdTimeout": "4m"},
}


@pytest.fixture
def children(raw_spec):
    """By slot; `lead` is where the Service leads."""

    def build(defaults=INSTALLED, *, to_activator=False, upstream="10.96.0.7", **spec):
        spec = parse_spec(raw_spec(**{"autoscaling": ZERO} | spec))
        manifests = render(spec, OWNER, 1, defaults, to_activator=to_activator, upstream=upstream)
        return {slot(manifest, OWNER.name): manifest for manifest in manifests}

    return build


def pod(manifests):
    return manifests["Deployment-activator"]["spec"]["template"]


def test_golden_children_of_one_that_may_be_idle(golden, children):
    found = children(to_activator=True)
    golden("children-zero", [found[place] for place in found if place == "Service" or "-" in place])


def test_there_are_no_others(children):
    beside = {"InferencePool", "HTTPRoute"}  # where the cluster has them and the spec wants them
    beside |= {"PersistentVolumeClaim"}  # where the spec wants one
    beside |= {f"{kind}-group" for kind in ("Service", "LeaderWorkerSet")}  # where a replica takes several nodes
    assert set(children()) == {kind + suffix for kind, suffix in names.CHILDREN} - beside
    plain = children(autoscaling={key: value for key, value in ZERO.items() if key != "scaleToZero"})
    assert [place for place in plain if "-" in place] == []


def test_the_service_leads_to_the_replicas_or_to_the_activator_by_one_word(children):
    awake, asleep = children()["Service"]["spec"], children(to_activator=True)["Service"]["spec"]
    assert awake["selector"] == children()["Deployment"]["spec"]["selector"]["matchLabels"]
    assert asleep["selector"] == children()["Deployment-activator"]["spec"]["selector"]["matchLabels"]
    assert awake | {"selector": {}} == asleep | {"selector": {}}
    assert children()["Service-replicas"]["spec"] == awake, "that one leads to the replicas always"


def test_nothing_that_selects_replicas_meets_the_activators_pods(children):
    found = children()
    labels = pod(found)["metadata"]["labels"]
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        found["PodMonitor"]["spec"]["selector"]["matchLabels"],
    ]
    assert all(not selector.items() <= labels.items() for selector in selectors)
    assert names.LABEL_MODEL_SERVER in labels, "the watch is limited to it"


def test_the_activator_understands_its_arguments(children):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    (container,) = pod(children())["spec"]["containers"]
    options = parser.parse_args(container["args"])
    assert (options.upstream, options.model) == ("http://10.96.0.7", "chat")
    assert (options.max_held, options.hold_timeout, options.drain_timeout) == (50, 240, 360)
    assert [port["containerPort"] for port in container["ports"]] == [options.port, options.control_port]
    assert pod(children())["spec"]["terminationGracePeriodSeconds"] > options.drain_timeout + names.DRAIN_DELAY_SECONDS


def test_clients_do_not_reach_the_control_port_and_the_activator_reaches_replicas_alone(children):
    peers = [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]
    found = children(networking={"networkPolicy": {"allowedFrom": peers}})
    clients, control = found["NetworkPolicy-activator"]["spec"]["ingress"]
    assert (clients["from"], clients["ports"][0]["port"]) == (peers, names.PORT)
    assert [peer["namespaceSelector"]["matchLabels"] for peer in control["from"]] == [
        {"kubernetes.io/metadata.name": "octavo-system"},
        {"kubernetes.io/metadata.name": "monitoring"},
    ]
    assert control["ports"] == [{"protocol": "TCP", "port": names.CONTROL_PORT}]
    assert {"podSelector": {"matchLabels": names.activator_selector("chat")}} in (
        found["NetworkPolicy"]["spec"]["ingress"][0]["from"]
    )
    (replicas,) = found["NetworkPolicy-activator"]["spec"]["egress"]
    assert replicas["to"] == [{"podSelector": {"matchLabels": names.selector("chat")}}]
    off = children(networking={"networkPolicy": {"enabled": False}})
    assert not {"NetworkPolicy", "NetworkPolicy-activator"} & off.keys()


def test_it_comes_when_its_service_has_an_address(children):
    assert "Deployment-activator" not in children(upstream=None)
    (container,) = pod(children(upstream="fd00::7"))["spec"]["containers"]
    assert container["args"][:2] == ["--upstream", "http://[fd00::7]"]


def test_without_its_image_there_is_no_activator_and_it_is_said_why(children, raw_spec):
    nameless = Defaults(runtime_image="example.invalid/runtime:1")
    assert not [place for place in children(nameless) if "-" in place]
    assert "OCTAVO_ACTIVATOR_IMAGE" in why_none(parse_spec(raw_spec(autoscaling=ZERO)), nameless)
    assert why_none(parse_spec(raw_spec()), nameless) is None


def test_they_go_when_they_are_not_wanted_any_more(children):
    observed = children()
    for manifest in observed.values():
        manifest["metadata"]["resourceVersion"] = "1"
    plain = children(autoscaling={key: value for key, value in ZERO.items() if key != "scaleToZero"})
    plan = make_plan(tuple(plain.values()), observed)
    gone = {slot(step.manifest, "chat") for step in plan.removals}
    assert gone == {"Deployment-activator", "NetworkPolicy-activator", "PodMonitor-activator", "Service-replicas"}
    assert plan.steps == ()


def test_the_longest_name_leaves_room_for_these_children_and_labels():
    longest = "a" * names.MAX_NAME_LENGTH
    assert max(len(longest + suffix) for _, suffix in names.CHILDREN) <= 63
    assert all(len(value) <= 63 for value in names.activator_labels(longest).values())
    assert names.server_of(names.activator_labels(longest)[names.LABEL_MODEL_SERVER]) == longest
