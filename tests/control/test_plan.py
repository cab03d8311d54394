import copy

import pytest

from octavo_operator.core.manifest import Defaults, Owner
from octavo_operator.core.names import Reason
from octavo_operator.core.plan import difference, make_plan
from octavo_operator.core.render import render
from octavo_operator.core.spec import parse_spec

OWNER = Owner("default", "chat", "uid-1")
DEFAULTS = Defaults(runtime_image="example.invalid/runtime:1")


@pytest.fixture
def desired(raw_spec):
    env = [{"name": "A", "value": "1"}]
    limits = {"memory": "1024Mi"}
    return render(parse_spec(raw_spec(runtime={"env": env, "resources": {"limits": limits}})), OWNER, 2, DEFAULTS)


@pytest.fixture
def observed(desired):
    return {child["kind"]: copy.deepcopy(child) for child in desired}


def test_missing_children_are_created(desired):
    plan = make_plan(desired, {})
    assert [(step.manifest["kind"], step.reason) for step in plan.steps] == [
        ("ServiceAccount", Reason.CREATED),
        ("NetworkPolicy", Reason.CREATED),
        ("Service", Reason.CREATED),
        ("PodDisruptionBudget", Reason.CREATED),
        ("Deployment", Reason.CREATED),
    ]


def test_children_that_are_as_they_should_be_are_left_alone(desired, observed):
    assert make_plan(desired, observed).steps == ()


def test_what_the_api_server_and_others_add_is_left_alone(desired, observed):
    deployment = observed["Deployment"]
    deployment["metadata"] |= {"resourceVersion": "7", "generation": 3}
    deployment["metadata"]["labels"]["team"] = "ml"
    deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "1"
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["terminationMessagePolicy"] = "File"
    container["env"].append({"name": "INJECTED", "value": "x"})
    deployment["spec"]["template"]["spec"]["containers"].insert(0, {"name": "sidecar"})
    observed["Service"]["spec"] |= {"clusterIP": "10.0.0.9", "sessionAffinity": "None"}
    assert make_plan(desired, observed).steps == ()


def test_rewritten_quantities_are_no_drift(desired, observed):
    observed["Deployment"]["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] = "1Gi"
    assert make_plan(desired, observed).steps == ()


def test_values_that_only_look_like_quantities_are_drift(desired, observed):
    observed["Deployment"]["spec"]["template"]["spec"]["containers"][0]["env"][1]["value"] = "1.0"
    assert [step.reason for step in make_plan(desired, observed).steps] == [Reason.DRIFT_REPAIRED]


@pytest.mark.parametrize(
    ("edit", "path"),
    [
        (lambda d: d["spec"].update(replicas=9), "spec.replicas"),
        (lambda d: d["spec"]["template"]["spec"]["containers"][0].update(image="x"), "containers[runtime].image"),
        (lambda d: d["spec"]["template"]["spec"]["containers"][0]["args"].append("--x"), "containers[runtime].args"),
        (lambda d: d["spec"]["template"]["spec"]["containers"][0]["env"].pop(), "env[A]"),
        (lambda d: d["spec"]["template"]["spec"].pop("volumes"), "spec.template.spec.volumes"),
        (lambda d: d["metadata"].pop("labels"), "metadata.labels"),
        (lambda d: d["metadata"].pop("ownerReferences"), "metadata.ownerReferences"),
        (lambda d: d["spec"]["template"]["spec"].pop("automountServiceAccountToken"), "automountServiceAccountToken"),
    ],
)
def test_every_edit_of_an_owned_field_is_put_back_and_named(desired, observed, edit, path):
    edit(observed["Deployment"])
    (step,) = make_plan(desired, observed).steps
    assert (step.manifest["kind"], step.reason) == ("Deployment", Reason.DRIFT_REPAIRED)
    assert path in step.message


def test_a_field_that_is_no_longer_rendered_is_seen_by_the_hash(observed, raw_spec):
    """Without env and limits in the manifest nothing else differs, and yet they must go."""
    smaller = render(parse_spec(raw_spec()), OWNER, 2, DEFAULTS)
    assert [step.reason for step in make_plan(smaller, observed).steps] == [Reason.UPDATED]


def test_an_object_of_somebody_else_is_never_taken_over(desired, observed):
    observed["Service"]["metadata"]["ownerReferences"][0]["uid"] = "other"
    plan = make_plan(desired, observed)
    assert plan.conflicts == ("Service chat",)
    assert plan.steps == ()


def test_an_object_without_owner_and_label_is_somebody_elses(desired, observed):
    observed["Service"]["metadata"] = {"name": "chat", "namespace": "default"}
    assert make_plan(desired, observed).conflicts == ("Service chat",)


def test_an_orphaned_child_is_adopted(desired, observed):
    """Kubectl delete --cascade=orphan leaves it behind; the ModelServer comes back with another uid."""
    observed["Deployment"]["metadata"]["ownerReferences"] = []
    plan = make_plan(desired, observed)
    assert plan.conflicts == ()
    assert [step.manifest["kind"] for step in plan.steps] == ["Deployment"]


def test_an_existing_child_is_applied_over_the_version_that_was_compared(desired, observed):
    """A leader that was paused for minutes does not write over what the next one has written."""
    observed["Service"]["metadata"] |= {"uid": "u", "resourceVersion": "7"}
    observed["Service"]["spec"]["type"] = "NodePort"
    (step,) = make_plan(desired, observed).steps
    assert (step.manifest["metadata"]["uid"], step.manifest["metadata"]["resourceVersion"]) == ("u", "7")
    assert "resourceVersion" not in make_plan(desired, {}).steps[0].manifest["metadata"]


def without(desired, kind):
    return tuple(child for child in desired if child["kind"] != kind)


def test_a_child_that_is_not_wanted_any_more_is_removed(desired, observed):
    (removal,) = make_plan(without(desired, "PodDisruptionBudget"), observed).removals
    assert (removal.manifest, removal.reason) == (observed["PodDisruptionBudget"], Reason.REMOVED)
    assert make_plan(desired, observed).removals == ()


@pytest.mark.parametrize(
    "metadata",
    [
        {"ownerReferences": [{"uid": "other", "controller": True}]},
        {"ownerReferences": [{"uid": "uid-1"}]},
        {"ownerReferences": []},
        {"deletionTimestamp": "2026-01-01T00:00:00Z"},
    ],
    ids=["somebody else's", "not controlled", "nobody's", "going"],
)
def test_only_what_is_certainly_ours_is_removed_and_only_once(desired, observed, metadata):
    observed["PodDisruptionBudget"]["metadata"] |= metadata
    assert make_plan(without(desired, "PodDisruptionBudget"), observed).removals == ()


def test_differences_name_every_place():
    assert difference({"a": {"b": 1, "c": [1, 2]}}, {"a": {"b": 2, "c": [1]}}) == ("a.b", "a.c")
    assert difference({"a": [{"x": 1}]}, {"a": [{"x": 2}]}) == ("a[0].x",)
    assert difference({"a": {}}, {}) == ("a",)


@pytest.mark.parametrize(
    ("path", "written", "answered", "expected"),
    [
        ("spec.template.spec.a.resources.limits.cpu", 0.5, "500m", ()),
        ("spec.template.spec.a.resources.limits.cpu", "1000m", "2", ("spec.template.spec.a.resources.limits.cpu",)),
        ("spec.template.spec.schedulerName", "", "default-scheduler", ()),
        ("spec.template.spec.hostAliases", [], None, ()),
        ("spec.template.metadata.labels.a", "", "x", ("spec.template.metadata.labels.a",)),
        ("spec.template.spec.a.readOnly", False, None, ()),
        ("spec.template.spec.a.readOnly", False, True, ("spec.template.spec.a.readOnly",)),
        ("spec.template.spec.hostUsers", False, None, ("spec.template.spec.hostUsers",)),
        ("spec.replicas", 0, None, ("spec.replicas",)),
    ],
)  # fmt: skip
def test_only_what_the_api_server_rewrites_is_no_difference(path, written, answered, expected):
    assert difference(written, answered, path) == expected


def test_a_volume_that_is_mounted_twice_is_compared_by_its_folders():
    mounts = [{"name": "a", "mountPath": "/x"}, {"name": "a", "mountPath": "/y", "subPath": "b"}]
    assert difference(mounts, copy.deepcopy(mounts), "volumeMounts") == ()
    moved = [mounts[0], mounts[1] | {"subPath": "c"}]
    assert difference(mounts, moved, "volumeMounts") == ("volumeMounts[/y].subPath",)


def test_items_that_share_a_name_are_compared_in_their_order():
    """Two listeners of one Gateway."""
    parents = [{"name": "public", "sectionName": "a"}, {"name": "public", "sectionName": "b"}]
    assert difference(parents, copy.deepcopy(parents), "parentRefs") == ()
    assert difference(parents, parents[::-1], "parentRefs") != ()
