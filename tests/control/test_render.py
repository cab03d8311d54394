"""The children's manifests: golden files, and what must hold for every spec."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from octavo_operator.core.names import MAX_NAME_LENGTH
from octavo_operator.core.render import Defaults, Owner, render, url
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
        "args": ["--block-size", "32"],
        "env": [
            {"name": "PLAIN", "value": "1"},
            {"name": "EMPTY", "value": ""},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
            {"name": "CONFIG", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ],
        "maxNumSeqs": 8,
        "maxBatchedTokens": 512,
        "kvCache": {"size": "256Mi"},
        "resources": {"requests": {"cpu": "500m", "memory": "1024Mi"}, "limits": {"cpu": 2, "memory": "4Gi"}},
    },
    "accelerator": {
        "count": 1,
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
    "drain": {"timeout": "5m"},
}


def children(raw: dict[str, Any], replicas: int = 2) -> dict[str, Any]:
    return {child["kind"]: child for child in render(parse_spec(raw), OWNER, replicas, DEFAULTS)}


def pod(raw: dict[str, Any]) -> dict[str, Any]:
    return children(raw)["Deployment"]["spec"]["template"]


@pytest.mark.parametrize(("name", "full"), [("minimal", False), ("full", True)])
def test_golden_children(golden, raw_spec, name, full):
    golden(f"children-{name}", list(children(FULL if full else raw_spec()).values()))


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


def test_gpus_are_asked_for_only_where_there_are_some(raw_spec):
    assert "resources" not in pod(raw_spec())["spec"]["containers"][0]
    assert "resources" not in pod(raw_spec(accelerator={"count": 0}))["spec"]["containers"][0]
    resources = pod(raw_spec(accelerator={"count": 1}))["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every scalar in a raw spec."""
    if isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(child, (*path, key))
    else:
        yield path


CHOICES = {"bfloat16": "float16", "Exists": "Equal", "NoSchedule": "NoExecute", "5m": "6m", "256Mi": "512Mi"}


def changed(value: Any) -> Any:
    """Another value that the same field takes."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1
    return CHOICES.get(value) or (f"1{value}" if value[:1].isdigit() else f"x{value}")


@pytest.mark.parametrize("path", list(leaves(FULL)), ids=lambda path: ".".join(str(part) for part in path))
def test_every_edit_of_the_spec_reaches_the_pod(path):
    """production-stack compares a hand-picked list, so that edits of its arguments roll nothing."""
    edited = copy.deepcopy(FULL)
    node = edited
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = changed(node[path[-1]])
    assert pod(edited) != pod(FULL)


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": 7},
        {"autoscaling": {"maxReplicas": 9, "targets": {"waitingPerReplica": 1}}},
        {"paused": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_edits_that_do_not_concern_the_pod_do_not_roll_it(changes):
    assert pod(FULL | changes) == pod(FULL)


def test_the_number_of_replicas_does_not_roll_the_pods(raw_spec):
    two, three = children(raw_spec(), 2), children(raw_spec(), 3)
    assert two["Deployment"]["spec"]["template"] == three["Deployment"]["spec"]["template"]
    assert two["Deployment"] != three["Deployment"]


def test_rendering_is_deterministic(raw_spec):
    assert children(raw_spec()) == children(raw_spec())


def test_a_rollout_never_takes_capacity_away(raw_spec):
    strategy = children(raw_spec())["Deployment"]["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def test_the_longest_name_leaves_room_for_children():
    assert MAX_NAME_LENGTH + len("-") + 10 <= 63


def test_the_url_is_the_service(raw_spec):
    service = children(raw_spec())["Service"]
    assert url(OWNER) == "http://chat.default.svc"
    assert service["spec"]["ports"][0]["port"] == 80
