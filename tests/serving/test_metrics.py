"""/metrics: the names that the operator and dashboards read, with true values."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from octavo_runtime.engine.messages import Started
from octavo_runtime.engine.state_page import EngineState, Phase
from octavo_runtime.metrics import Histogram, RequestMetrics, RuntimeCollector, render

GAUGES = {
    "octavo_requests_running": 3,
    "octavo_requests_waiting": 4,
    "octavo_waiting_tokens": 500,
    "octavo_kv_cache_usage_ratio": 0.25,
    "octavo_kv_tokens_used": 1000,
    "octavo_kv_tokens_capacity": 4000,
    "octavo_draining": 0,
    "vllm:num_requests_running": 3,
    "vllm:num_requests_waiting": 4,
    "vllm:kv_cache_usage_perc": 0.25,
    "vllm:gpu_cache_usage_perc": 0.25,
}
COUNTERS = {
    "octavo_engine_steps_total": 7,
    "octavo_preemptions_total": 2,
    "octavo_prompt_tokens_total": 11,
    "octavo_generation_tokens_total": 13,
    "vllm:num_preemptions_total": 2,
    "vllm:prompt_tokens_total": 11,
    "vllm:generation_tokens_total": 13,
}
HISTOGRAMS = [
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
]
STATE = EngineState(
    phase=Phase.READY,
    steps=7,
    running=3,
    waiting=4,
    waiting_tokens=500,
    kv_tokens_used=1000,
    kv_tokens_capacity=4000,
    preemptions=2,
    prompt_tokens=11,
    generation_tokens=13,
    process_seconds=1.5,
    weights_seconds=2.5,
    warmup_seconds=0.5,
)


STARTED = Started(max_model_len=4096, vocab_size=72, num_blocks=250, block_size=16)


def make_collector(requests=None, state=STATE, started=STARTED, draining=False):
    return RuntimeCollector("m", requests or RequestMetrics(), lambda: state, lambda: started, lambda: draining)


def samples(collector):
    """All samples by name and labels, as Prometheus reads them."""
    families = text_string_to_metric_families(render(collector).decode())
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


@pytest.mark.parametrize(("name", "value"), [*GAUGES.items(), *COUNTERS.items()])
def test_gauges_and_totals_come_from_the_state_page(name, value):
    assert samples(make_collector())[name, ("model_name", "m")] == value


def test_types_are_what_they_say():
    families = {
        family.name: family.type for family in text_string_to_metric_families(render(make_collector()).decode())
    }
    for name in GAUGES:
        assert families[name] == "gauge"
    for name in COUNTERS:
        assert families[name.removesuffix("_total")] == "counter"
    for name in HISTOGRAMS:
        assert families[f"octavo_{name}"] == families[f"vllm:{name}"] == "histogram"


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_histograms_have_both_names_and_the_same_values(name):
    requests = RequestMetrics()
    requests.queued(0.2)
    requests.first_token(0.3)
    requests.next_token(0.02)
    requests.finished("stop", 3.0)
    found = samples(make_collector(requests))
    for prefix in ("octavo_", "vllm:"):
        assert found[f"{prefix}{name}_count", ("model_name", "m")] == 1
    buckets = {key[1:]: value for key, value in found.items() if key[0] == f"octavo_{name}_bucket"}
    assert buckets == {key[1:]: value for key, value in found.items() if key[0] == f"vllm:{name}_bucket"}


def test_finished_requests_by_reason():
    requests = RequestMetrics()
    for reason in ("stop", "length", "length", "abort", "error"):
        requests.finished(reason, 1.0)
    found = samples(make_collector(requests))
    expected = {"stop": 1, "length": 2, "abort": 1, "error": 1}
    for reason, value in expected.items():
        assert found["octavo_requests_total", ("finished_reason", reason), ("model_name", "m")] == value
    assert found["vllm:request_success_total", ("finished_reason", "length"), ("model_name", "m")] == 2
    assert ("vllm:request_success_total", ("finished_reason", "error"), ("model_name", "m")) not in found


def test_refusals_by_limit():
    requests = RequestMetrics()
    for reason in ("queued_tokens", "queued_tokens", "queued_requests"):
        requests.rejected(reason)
    found = samples(make_collector(requests))
    for reason, value in {"queued_requests": 1, "queued_tokens": 2}.items():
        assert found["octavo_admission_rejections_total", ("model_name", "m"), ("reason", reason)] == value


def test_engine_restarts_are_counted():
    requests = RequestMetrics()
    assert samples(make_collector(requests))["octavo_engine_restarts_total", ("model_name", "m")] == 0
    requests.engine_restarted()
    assert samples(make_collector(requests))["octavo_engine_restarts_total", ("model_name", "m")] == 1


def test_silence_is_the_time_since_the_last_sign_of_life():
    state = STATE._replace(beat=100.0)
    collector = RuntimeCollector("m", RequestMetrics(), lambda: state, lambda: None, lambda: False, clock=lambda: 107.5)
    assert samples(collector)["octavo_engine_silence_seconds", ("model_name", "m")] == 7.5


def test_every_reason_is_there_from_the_start():
    found = samples(make_collector())
    for reason in ("stop", "length", "abort", "error"):
        assert found["octavo_requests_total", ("finished_reason", reason), ("model_name", "m")] == 0


def test_startup_seconds_appear_phase_by_phase():
    def phases(state):
        return {
            dict(key[1:])["phase"]: value
            for key, value in samples(make_collector(state=state, started=None)).items()
            if key[0] == "octavo_startup_seconds"
        }

    assert phases(EngineState()) == {}
    assert phases(STATE._replace(phase=Phase.WARMUP)) == {"process": 1.5, "weights": 2.5}
    assert phases(STATE) == {"process": 1.5, "weights": 2.5, "warmup": 0.5}


def test_the_cache_config_is_known_once_started():
    key = ("vllm:cache_config_info", ("block_size", "16"), ("model_name", "m"), ("num_gpu_blocks", "250"))
    assert samples(make_collector())[key] == 1
    assert not [key for key in samples(make_collector(started=None)) if key[0] == "vllm:cache_config_info"]


def test_draining_is_seen():
    assert samples(make_collector(draining=True))["octavo_draining", ("model_name", "m")] == 1


def test_a_model_name_with_quotes_does_not_break_the_format():
    collector = RuntimeCollector('a"b\\c\n', RequestMetrics(), lambda: STATE, lambda: None, lambda: False)
    assert samples(collector)["octavo_requests_running", ("model_name", 'a"b\\c\n')] == 3


def test_a_histogram_counts_a_bound_in_its_own_bucket():
    histogram = Histogram([1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 99.0):
        histogram.observe(value)
    found = {
        sample.labels.get("le"): sample.value
        for sample in histogram.family("h", "", "m").samples
        if sample.name == "h_bucket"
    }
    assert found == {"1.0": 2, "2.0": 3, "+Inf": 4}


def test_a_running_server_counts(server, client):
    before = {name: server.metric(name) for name in ("octavo_prompt_tokens_total", "octavo_generation_tokens_total")}
    request = {"prompt": [1] * 30, "max_tokens": 12, "ignore_eos": True}
    assert client.post("/v1/completions", json=request).status_code == 200
    assert server.metric("octavo_prompt_tokens_total") == before["octavo_prompt_tokens_total"] + 30
    assert server.metric("octavo_generation_tokens_total") == before["octavo_generation_tokens_total"] + 12
    assert server.metric("octavo_time_to_first_token_seconds_count") > 0
    assert math.isfinite(server.metric("octavo_inter_token_latency_seconds_sum"))


def test_nothing_of_a_request_is_in_the_metrics_or_the_log(server, client):
    client.post("/v1/completions", json={"prompt": "canary bird", "user": "canary", "max_tokens": 1})
    client.post("/v1/completions", json={"prompt": "canary bird", "model": "canary"})
    assert "canary" not in client.get("/metrics").text
    assert "canary" not in server.log()
