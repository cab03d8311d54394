import pytest

from octavo_operator.core.errors import SpecError
from octavo_operator.core.spec import parse_spec


def test_defaults_are_filled_in(raw_spec):
    spec = parse_spec(raw_spec())
    assert (spec.model.dtype, spec.drain.timeout, spec.paused, spec.replicas, spec.autoscaling) == (
        "auto",
        120,
        False,
        None,
        None,
    )


def test_durations_become_seconds(raw_spec):
    behavior = {"scaleUp": {"stabilizationWindow": "0s"}, "scaleDown": {"stabilizationWindow": "10m"}}
    autoscaling = {"maxReplicas": 3, "targets": {"waitingPerReplica": 4}, "behavior": behavior}
    spec = parse_spec(raw_spec(autoscaling=autoscaling, drain={"timeout": "1m30s"}))
    assert spec.autoscaling is not None
    assert spec.autoscaling.behavior.scale_up.stabilization_window == 0
    assert spec.autoscaling.behavior.scale_down.stabilization_window == 600
    assert spec.drain.timeout == 90


def test_quantities_may_be_numbers(raw_spec):
    spec = parse_spec(raw_spec(runtime={"kvCache": {"size": 1048576}, "resources": {"limits": {"cpu": 2}}}))
    assert spec.runtime.kv_cache is not None
    assert spec.runtime.kv_cache.size == "1048576"
    assert spec.runtime.resources is not None
    assert spec.runtime.resources.limits is not None
    assert spec.runtime.resources.limits.cpu == "2"


def test_a_parsed_spec_cannot_be_changed(raw_spec):
    spec = parse_spec(raw_spec())
    with pytest.raises(ValueError, match="frozen"):
        spec.paused = True


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"replicas": "many"}, "spec.replicas"),
        ({"replicas": -1}, "spec.replicas"),
        ({"drain": {"timeout": "soon"}}, "spec.drain.timeout"),
        ({"drain": {"timeout": None}}, "spec.drain.timeout"),
        ({"runtime": {"kvCache": {"size": "-1"}}}, "spec.runtime.kvCache.size"),
        ({"runtime": {"kvCache": {"size": [1]}}}, "spec.runtime.kvCache.size"),
        ({"runtime": {"env": [{"value": "x"}]}}, "spec.runtime.env.0.name"),
        ({"future": True}, "spec.future"),
        ({"model": {"source": {"s3": {}}}}, "spec.model.source.s3.uri"),
        ({"autoscaling": {"targets": {"waitingPerReplica": 1}}}, "spec.autoscaling.maxReplicas"),
        ({"autoscaling": {"maxReplicas": 2, "targets": {}}}, "spec.autoscaling.targets"),
        (
            {"autoscaling": {"minReplicas": 3, "maxReplicas": 2, "targets": {"waitingPerReplica": 1}}},
            "spec.autoscaling",
        ),
        ({"replicas": 1, "autoscaling": {"maxReplicas": 2, "targets": {"waitingPerReplica": 1}}}, "spec"),
    ],
)
def test_what_does_not_parse_is_named_by_its_field(raw_spec, changes, field):
    """An object may be older than the CRD, so the operator does not rely on admission."""
    with pytest.raises(SpecError) as caught:
        parse_spec(raw_spec(**changes))
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"model": {}}, "spec.model.source: must be set"),
        ({"model": {"sourc": {}}}, "spec.model.sourc: is no field of octavo.dev/"),
        ({"model": None}, "spec.model: must be an object (got None)"),
        (None, "spec: must be an object (got None)"),
        ({"model": {"source": {"pvc": {"claimName": "m"}}}, "replica": 2}, "spec.replica: is no field of octavo.dev/"),
        ({"model": {"source": {"pvc": {"claimName": "m"}}}, "podTemplate": "x"}, "spec.podTemplate: must be an object"),
    ],
)
def test_what_is_not_there_or_not_known_is_said_in_the_apis_words(spec, words):
    with pytest.raises(SpecError) as caught:
        parse_spec(spec)
    assert str(caught.value).startswith(words)


def test_a_source_that_this_operator_does_not_know_is_refused():
    with pytest.raises(SpecError, match="set exactly one source: hub, oci, pvc or s3"):
        parse_spec({"model": {"source": {}}})


def test_a_long_value_is_shortened_in_the_message(raw_spec):
    with pytest.raises(SpecError) as caught:
        parse_spec(raw_spec(runtime={"args": "x" * 10_000}))
    assert len(str(caught.value)) < 300
