"""The patch of the pod template: how it is merged, what it may not touch, and that no JSON breaks it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.core.errors import SpecError
from octavo_operator.core.manifest import Defaults, Owner
from octavo_operator.core.pod_template import check_patch, patched
from octavo_operator.core.render import render
from octavo_operator.core.spec import parse_spec

OWNER = Owner("default", "chat", "uid-1")


@pytest.fixture
def template(raw_spec):
    def build(patch=None, **spec):
        more = {"podTemplate": patch} if patch is not None else {}
        children = render(parse_spec(raw_spec(**more, **spec)), OWNER, 1, Defaults("example.invalid/runtime:1"))
        (deployment,) = [child for child in children if child["kind"] == "Deployment"]
        return deployment["spec"]["template"]

    return build


def runtime(**fields):
    return {"spec": {"containers": [{"name": "runtime", **fields}]}}


def named(items, key="name"):
    return {item[key]: item for item in items}


def test_without_a_patch_nothing_changes(template):
    assert template({}) == template()
    assert template({"spec": {"containers": [], "volumes": []}}) == template()


def test_scalars_and_objects_are_set_field_by_field(template):
    spec = template({"spec": {"priorityClassName": "online", "securityContext": {"runAsUser": 1000}}})["spec"]
    assert spec["priorityClassName"] == "online"
    assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsNonRoot"]) == (1000, True)


def test_the_replicas_own_container_is_added_to(template):
    env = [{"name": "LEVEL", "value": "2"}, {"name": "PLAIN", "value": "other"}]
    mounts = [{"name": "extra", "mountPath": "/extra"}, {"name": "model", "mountPath": "/again", "subPath": "a"}]
    patch = runtime(env=env, volumeMounts=mounts, resources={"limits": {"rdma/ib": 1}})
    patch["spec"]["volumes"] = [{"name": "extra", "emptyDir": {}}, {"name": "tmp", "emptyDir": {"sizeLimit": "9Gi"}}]
    spec = template(patch, runtime={"env": [{"name": "PLAIN", "value": "1"}]})["spec"]
    (container,) = spec["containers"]
    assert container["image"] == "example.invalid/runtime:1"
    assert {name: item["value"] for name, item in named(container["env"]).items()} == {
        "HOME": "/tmp", "PLAIN": "other", "LEVEL": "2",
    }  # fmt: skip
    assert set(named(container["volumeMounts"], "mountPath")) == {"/models", "/tmp", "/extra", "/again"}
    assert named(spec["volumes"])["tmp"] == {"name": "tmp", "emptyDir": {"sizeLimit": "9Gi"}}
    assert container["resources"] == {"limits": {"rdma/ib": 1}}


def test_containers_and_tolerations_come_on_top(template):
    sidecar, toleration = {"name": "proxy", "image": "x"}, {"key": "spot", "operator": "Exists"}
    given = {"count": 1, "tolerations": [{"key": "gpu", "operator": "Exists"}]}
    patch = {"spec": {"containers": [sidecar], "initContainers": [sidecar], "tolerations": [toleration]}}
    spec = template(patch, accelerator=given)["spec"]
    assert [container["name"] for container in spec["containers"]] == ["runtime", "proxy"]
    assert spec["initContainers"] == [sidecar]
    assert spec["tolerations"] == [*given["tolerations"], toleration]


def test_labels_and_annotations_are_added_and_ours_stay(template):
    patch = {"metadata": {"labels": {"team": "ml"}, "annotations": {"note": "x"}}}
    before, after = template()["metadata"], template(patch)["metadata"]
    assert after["labels"] == before["labels"] | {"team": "ml"}
    assert after["annotations"]["note"] == "x"
    assert after["annotations"]["octavo.dev/template"] != before["annotations"]["octavo.dev/template"]


RESTRICTED = "restricted Pod Security profile"
REFUSED = [
    ({"kind": "Pod"}, "kind: only metadata and spec"),
    ({"metadata": {"name": "x"}}, "metadata.name: only labels and annotations"),
    ({"metadata": {"labels": {"octavo.dev/modelserver": "x"}}}, "metadata.labels.octavo.dev/modelserver"),
    ({"metadata": {"labels": {"app.kubernetes.io/instance": "x"}}}, "the operator's own"),
    ({"metadata": {"annotations": {"octavo.dev/template": "x"}}}, "the operator's own"),
    ({"spec": {"terminationGracePeriodSeconds": 5}}, "set spec.drain.timeout"),
    ({"spec": {"restartPolicy": "Always"}}, "spec.restartPolicy"),
    ({"spec": {"serviceAccount": "x"}}, "write serviceAccountName"),
    ({"spec": {"hostNetwork": True}}, RESTRICTED),
    ({"spec": {"securityContext": {"runAsNonRoot": False}}}, RESTRICTED),
    ({"spec": {"securityContext": {"runAsUser": 0}}}, RESTRICTED),
    ({"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}}, RESTRICTED),
    ({"spec": {"volumes": [{"name": "model", "emptyDir": {}}]}}, "set spec.model.source"),
    ({"spec": {"containers": [{"image": "x"}]}}, "spec.containers[0]: needs a name"),
    ({"spec": {"priorityClassName": None}}, "spec.priorityClassName: null removes nothing"),
    ({"spec": {"containers": [{"name": "x", "$patch": "delete"}]}}, "directives are not read"),
    (runtime(image="x"), "set spec.runtime.image"),
    (runtime(args=["x"]), "set spec.runtime.args"),
    (runtime(command=["x"]), "spec.containers[runtime].command"),
    (runtime(ports=[]), "spec.containers[runtime].ports"),
    (runtime(livenessProbe={}), "spec.containers[runtime].livenessProbe"),
    (runtime(lifecycle={}), "drains on SIGTERM"),
    (runtime(env=[{"name": "HOME", "value": "/"}]), "env[HOME]"),
    (runtime(env=[{"name": "HF_TOKEN", "value": "x"}]), "set spec.model.source.hub.tokenSecretRef"),
    (runtime(volumeMounts=[{"name": "a", "mountPath": "/models"}]), "choose another folder"),
    (runtime(resources={"limits": {"nvidia.com/gpu": 2}}), "set spec.accelerator.count"),
    (runtime(securityContext={"privileged": True}), RESTRICTED),
    (runtime(securityContext={"readOnlyRootFilesystem": False}), RESTRICTED),
    (runtime(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}), RESTRICTED),
    (runtime(securityContext={"capabilities": {"drop": ["NET_RAW"]}}), RESTRICTED),
]


@pytest.mark.parametrize(("patch", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_a_replica_cannot_do_without_is_refused_by_name(raw_spec, patch, words):
    with pytest.raises(SpecError) as caught:
        parse_spec(raw_spec(podTemplate=patch))
    assert caught.value.field == "spec.podTemplate"
    assert words in str(caught.value)


def test_what_is_deeper_than_any_pod_is_refused(raw_spec):
    def nested(levels):
        return {"spec": {"affinity": nested_in(levels)}}

    def nested_in(levels):
        patch = {}
        for _ in range(levels):
            patch = {"a": patch} if levels % 2 else [patch]
        return patch

    assert parse_spec(raw_spec(podTemplate=nested(25)))
    for levels in (33, 34, 9000):
        spec = raw_spec()
        spec["podTemplate"] = nested(levels)
        with pytest.raises(SpecError, match="deeper than 32 levels"):
            parse_spec(spec)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "runtime", "model", "ALL", "/tmp"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["name", "env", "volumes", "volumeMounts", "mountPath", "resources", "limits", "securityContext", "drop",
             "capabilities", "add", "containers", "seccompProfile", "tolerations", "labels", "image", "runAsUser"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
PATCHES = st.fixed_dictionaries(
    {"spec": JSON | st.dictionaries(st.sampled_from(["containers", "volumes", "securityContext"]), JSON)},
    optional={"metadata": JSON},
)


@given(PATCHES)
def test_any_json_is_merged_or_refused(patch):
    """What is not shaped like a pod must reach the API server, whose words are better than a crash."""
    base = {"spec": {"containers": [{"name": "runtime", "env": [{"name": "A"}], "resources": {}}], "volumes": []}}
    try:
        checked = check_patch(patch)
    except ValueError:
        return
    assert patched(base, checked).keys() >= {"spec"}
