import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from octavo_operator.core.buckets import Buckets
from octavo_operator.core.exposition import parse_sample

GOOD = {
    "octavo_requests_running": "3.0",
    "octavo_requests_waiting": "1.0",
    "octavo_kv_tokens_used": "120.0",
    "octavo_kv_tokens_capacity": "480.0",
}


def text(**changes: str | None) -> str:
    values = GOOD | changes
    return "\n".join(f'{name}{{model_name="m"}} {value}' for name, value in values.items() if value is not None)


def test_a_sample_has_the_gauges_and_the_time():
    sample = parse_sample(text(), 7.0)
    assert sample is not None
    assert (sample.time, sample.running, sample.waiting, sample.kv_used, sample.kv_capacity) == (7, 3, 1, 120, 480)
    assert not sample.draining


@pytest.mark.parametrize("generate", [generate_latest, generate_openmetrics], ids=["classic", "openmetrics"])
def test_both_text_formats_of_a_real_client_are_read(generate):
    registry = CollectorRegistry()
    for name, value in (GOOD | {"octavo_draining": "1"}).items():
        Gauge(name, 'help with "quotes" {and braces}', ["model_name"], registry=registry).labels('odd "}\\ name').set(
            float(value)
        )
    sample = parse_sample(generate(registry).decode(), 0.0)
    assert sample is not None
    assert (sample.running, sample.kv_used, sample.draining) == (3, 120, True)


def test_series_of_one_gauge_are_added():
    two = text() + '\noctavo_requests_running{model_name="adapter"} 4 1700000000000'
    sample = parse_sample(two, 0.0)
    assert sample is not None
    assert sample.running == 7


@pytest.mark.parametrize(
    "line",
    [
        "octavo_waiting_tokens 8",
        "octavo_waiting_tokens\t8",
        "octavo_waiting_tokens  8 ",
        "octavo_waiting_tokens 8\t",
        'octavo_waiting_tokens{model_name="a b} 3"} 8',
        'octavo_waiting_tokens{model_name="m"} 8 1700000000000',
        'octavo_waiting_tokens{model_name="m"} 8 # {trace_id="x y"} 0.67 1.5',
    ],
)
def test_a_value_is_found_behind_its_labels(line):
    """However it is written, and also the second time, when the labels are remembered."""
    for _ in range(2):
        sample = parse_sample(f"{text()}\n{line}", 0.0)
        assert sample is not None
        assert sample.waiting_tokens == 8


@pytest.mark.parametrize("line", ["octavo_waiting_tokens", "octavo_waiting_tokens ", 'octavo_waiting_tokens{le="1"}8'])
def test_a_line_without_a_value_is_none(line):
    sample = parse_sample(f"{text(octavo_waiting_tokens='5')}\n{line}", 0.0)
    assert sample is not None
    assert sample.waiting_tokens == 5


def test_counters_and_histograms_are_read_where_they_are():
    registry = CollectorRegistry()
    Counter("octavo_prompt_tokens", "", ["model_name"], registry=registry).labels("m").inc(70)
    Counter("octavo_generation_tokens", "", ["model_name"], registry=registry).labels("m").inc(30)
    ttft = Histogram("octavo_time_to_first_token_seconds", "", ["model_name"], buckets=(0.5, 1), registry=registry)
    for seconds in (0.1, 0.7, 9.0):
        ttft.labels("m").observe(seconds)
    sample = parse_sample(text(octavo_waiting_tokens="12") + "\n" + generate_latest(registry).decode(), 0.0)
    assert sample is not None
    assert (sample.waiting_tokens, sample.prompt_tokens, sample.generation_tokens) == (12, 70, 30)
    assert sample.ttft == Buckets((0.5, 1.0, math.inf), (1.0, 2.0, 3.0))
    assert sample.itl is None


def test_times_in_the_queue_are_read_only_where_they_are_wanted():
    name = "octavo_request_queue_time_seconds_bucket"
    told = f'{text()}\n{name}{{le="1"}} 4\n{name}{{le="+Inf"}} 5'
    for wanted, expected in ((False, None), (True, Buckets((1.0, math.inf), (4.0, 5.0))), (False, None)):
        sample = parse_sample(told, 0.0, queue_time=wanted)
        assert sample is not None
        assert sample.queue_time == expected


@pytest.mark.parametrize(
    "lines",
    [
        'octavo_inter_token_latency_seconds_bucket{le="1"} 4',
        'octavo_inter_token_latency_seconds_bucket{le="1"} 4\noctavo_inter_token_latency_seconds_bucket{le="+Inf"} 3',
        'octavo_inter_token_latency_seconds_bucket{le="+Inf"} NaN',
        'octavo_inter_token_latency_seconds_bucket{le="NaN"} 1\noctavo_inter_token_latency_seconds_bucket 1',
    ],
    ids=["no infinity", "not cumulative", "not a number", "no bound"],
)
def test_a_broken_histogram_is_missing_and_the_sample_is_not(lines):
    sample = parse_sample(f"{text()}\n{lines}", 0.0)
    assert sample is not None
    assert sample.itl is None


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "-Inf", "1e300", "banana", None])
def test_what_is_no_usable_number_makes_the_sample_missing(name, value):
    """G3, G16: a number that cannot be trusted is unknown, never 0."""
    assert parse_sample(text(**{name: value}), 0.0) is None


def test_one_bad_series_spoils_its_gauge():
    assert parse_sample(text() + "\noctavo_requests_waiting NaN", 0.0) is None


def test_no_capacity_is_no_sample():
    assert parse_sample(text(octavo_kv_tokens_capacity="0", octavo_kv_tokens_used="0"), 0.0) is None


def test_more_tokens_than_fit_is_no_sample():
    assert parse_sample(text(octavo_kv_tokens_used="481"), 0.0) is None


@pytest.mark.parametrize("body", ["", "<html>502</html>", "octavo_requests_running", "\x00\xff", "# TYPE x gauge"])
def test_what_is_no_exposition_is_no_sample(body):
    assert parse_sample(body, 0.0) is None
