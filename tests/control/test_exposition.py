import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

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


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "-Inf", "banana", None])
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
