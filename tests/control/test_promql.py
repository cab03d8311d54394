"""Prometheus' answers as values: what is a sample, what is missing, and what is an error in its own words."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_operator.core import names
from octavo_operator.core.errors import PrometheusError
from octavo_operator.core.exposition import parse_sample
from octavo_operator.core.promql import Answer, Pod, read_payload, read_samples, samples_query

POD = Pod("default", "chat-1")
GAUGES = {
    names.METRIC_RUNNING: "1",
    names.METRIC_WAITING: "2",
    names.METRIC_KV_USED: "30",
    names.METRIC_KV_CAPACITY: "100",
}


def series(name, *points, pod=POD, **labels):
    metric = {"__name__": name, "namespace": pod.namespace, "pod": pod.name, "model_name": "m", **labels}
    return {"metric": metric, "values": [[time, value] for time, value in points]}


def gauges(time=100.0, **labels):
    return [series(name, (time, value), **labels) for name, value in GAUGES.items()]


def answer(*result, **more):
    return json.dumps({"status": "success", "data": {"resultType": "matrix", "result": list(result)}, **more}).encode()


def samples(*result):
    return read_samples(200, answer(*result)).samples.get(POD)


def test_the_query_is_one_selector_over_all_metrics_and_pods():
    query = samples_query([Pod("b", "chat-2"), Pod("a", "x.y")], 24.2)
    assert query.endswith(',namespace=~"a|b",pod=~"x[.]y|chat-2"}[25s]')
    assert f"|{names.METRIC_KV_USED}|" in query
    assert f"|{names.METRIC_ITL}_bucket" in query
    assert names.METRIC_QUEUE_TIME not in query
    assert f"|{names.METRIC_QUEUE_TIME}_bucket" in samples_query([Pod("b", "chat-2")], 24.2, queue_time=True)


@pytest.mark.parametrize("name", ['a"}', "a|b", "a\\d", "A", "", ".*"])
def test_what_is_no_name_of_kubernetes_is_not_asked_for(name):
    with pytest.raises(ValueError, match="no name"):
        samples_query([Pod("default", name)], 10)


def test_the_series_of_one_scrape_are_one_sample_with_the_time_of_the_scrape():
    (sample,) = samples(*gauges(time=123.456))
    assert sample == parse_sample("".join(f"{name} {value}\n" for name, value in GAUGES.items()), 123.456)


def test_samples_are_in_order_of_time():
    found = samples(*gauges(time=7.0), *gauges(time=2.0))
    assert [sample.time for sample in found] == [2.0, 7.0]


def test_histograms_counters_and_the_drain_come_too():
    more = [
        series(f"{names.METRIC_TTFT}_bucket", (100.0, "3"), le="0.5"),
        series(f"{names.METRIC_TTFT}_bucket", (100.0, "5"), le="+Inf"),
        series(f"{names.METRIC_QUEUE_TIME}_bucket", (100.0, "5"), le="+Inf"),
        series(names.METRIC_PROMPT_TOKENS, (100.0, "700")),
        series(names.METRIC_DRAINING, (100.0, "1")),
    ]
    (sample,) = samples(*gauges(), *more)
    assert (sample.prompt_tokens, sample.draining) == (700, True)
    assert (sample.ttft.bounds, sample.ttft.counts) == ((0.5, math.inf), (3, 5))
    assert (sample.queue_time.bounds, sample.queue_time.counts) == ((math.inf,), (5,))


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-1", "1e16", "lots", ""])
def test_a_value_that_is_no_usable_number_makes_no_sample_and_not_0(value):
    broken = [series(names.METRIC_WAITING, (100.0, value)), *gauges()[:1], *gauges()[2:]]
    assert samples(*broken) == ()


def test_g6_an_empty_answer_and_a_missing_pod_are_not_a_load_of_0():
    assert read_samples(200, answer()) == Answer({})
    assert samples(*gauges(pod=Pod("default", "chat-2"))) is None


def test_series_of_another_namespace_or_without_a_pod_are_not_ours():
    nobody = {"metric": {"__name__": names.METRIC_WAITING, "pod": "chat-1"}, "values": [[100.0, "9"]]}
    assert samples(*gauges(pod=Pod("other", "chat-1")), nobody) is None


def test_a_pod_that_two_scrape_is_not_counted_twice():
    """Two monitors, or two Prometheus behind one address: the newer one counts."""
    both = [*gauges(time=100.0, job="a"), *gauges(time=103.0, job="b")]
    (sample,) = samples(*both)
    assert (sample.time, sample.kv_capacity) == (103.0, 100)


def test_two_series_of_one_scrape_are_added_up():
    more = series(names.METRIC_WAITING, (100.0, "5"))
    more["metric"]["model_name"] = "another"
    (sample,) = samples(*gauges(), more)
    assert sample.waiting == 7


def test_warnings_are_kept_and_the_samples_count():
    found = read_samples(200, answer(*gauges(), warnings=["partial response"]))
    assert found.warnings == ("partial response",)
    assert found.samples[POD]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, b'{"status":"error","errorType":"timeout","error":"query timed out"}', "HTTP 503: query timed out"),
        (422, b'{"status":"error","error":"too many samples"}', "HTTP 422: too many samples"),
        (502, b"<html>Bad Gateway</html>", "HTTP 502 and no JSON"),
        (200, b"", "HTTP 200 and no JSON"),
        (200, b"[" * 100_000, "HTTP 200 and no JSON"),
        (302, b"", "HTTP 302 and no JSON"),
        (200, b'{"status":"success"}', "no list of series"),
        (200, b'{"status":"success","data":{"resultType":"scalar","result":[1,"2"]}}', "series without values"),
        (200, answer({"metric": {}, "value": [1, "2"]}), "series without values"),
        (200, answer({"metric": {}, "values": [[1, 2]]}), "no pair of a time and a value"),
        (200, b'{"status":"success","data":{"result":[{"metric":{},"values":[[NaN,"1"]]}]}}', "no pair"),
        (200, b'{"status":"success","data":{"result":[{"metric":{},"values":[[1e999,"1"]]}]}}', "no pair"),
        (
            200,
            b'{"status":"success","data":{"result":[{"metric":{},"values":[[1' + b"0" * 400 + b',"1"]]}]}}',
            "no pair",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_answer_is_an_error_in_its_own_words(status, body, words):
    with pytest.raises(PrometheusError, match=words):
        read_samples(status, body)


def test_an_error_does_not_become_longer_than_a_condition_can_hold():
    body = json.dumps({"status": "error", "error": "x" * 10_000}).encode()
    with pytest.raises(PrometheusError) as caught:
        read_payload(400, body)
    assert len(str(caught.value)) < 300


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
METRICS = st.sampled_from([*GAUGES, f"{names.METRIC_TTFT}_bucket", names.METRIC_PROMPT_TOKENS, "up"])
VALUES = st.sampled_from(["0", "1", "1e300", "NaN", "-Inf", "x", "", "40"]) | st.floats().map(str)
SERIES = st.builds(
    lambda name, labels, points: {"metric": {"__name__": name, **labels}, "values": points},
    METRICS,
    st.dictionaries(
        st.sampled_from(["namespace", "pod", "le", "job", "model_name"]), ANYTHING | st.sampled_from(["a", "b"])
    ),
    st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), VALUES).map(list), max_size=4),
)


@settings(deadline=None)
@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_an_error_or_no_samples(body):
    try:
        found = read_samples(200, body)
    except PrometheusError:
        return
    assert not found.samples


@settings(deadline=None)
@given(st.lists(SERIES, max_size=12))
def test_whatever_the_series_hold_a_sample_is_made_of_usable_numbers(result):
    try:
        found = read_samples(200, answer(*result))
    except PrometheusError:
        return
    for made in found.samples.values():
        times = [sample.time for sample in made]
        assert times == sorted(set(times))
        for sample in made:
            assert 0 <= sample.kv_used <= sample.kv_capacity <= 1e15 * len(result)
            assert 0 <= sample.waiting < math.inf
