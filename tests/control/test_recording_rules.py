"""The recording rules in a real Prometheus, beside what the operator makes of the very same samples.

Two minutes of three replicas are written into Prometheus: two serve, one drains. The counters grow evenly, for where
the definitions differ (a mean over 30 s here and 10 s there, a rate extrapolated over a minute) the same load must
give the same number.
"""

import json
import math
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.prometheus import Prometheus
from octavo_operator.core import names
from octavo_operator.core.promql import Pod, read_samples, samples_query
from octavo_operator.core.window import Window, aggregate

RULES = Path(__file__).parents[2] / "charts/octavo/files/recording-rules.yaml"
START, SECONDS, INTERVAL = 1_700_000_000, 120, 5
END = START + SECONDS
TTFT = {"0.5": 0.5, "1.0": 0.9, "2.0": 0.96, "+Inf": 1.0}
QUEUED = {"0.1": 0.4, "0.25": 0.9, "0.5": 0.98, "+Inf": 1.0}
ITL = {"0.02": 0.3, "0.05": 0.9, "0.1": 1.0, "+Inf": 1.0}


def replica(load, *, draining=0):
    """The values of one replica after `age` seconds; `load` is a factor."""

    def values(age):
        requests, tokens = 2 * load * age, 40 * load * age
        yield from {
            names.METRIC_RUNNING: 4 * load,
            names.METRIC_WAITING: 3 * load,
            names.METRIC_KV_USED: 200 * load,
            names.METRIC_KV_CAPACITY: 1000,
            names.METRIC_DRAINING: draining,
            names.METRIC_WAITING_TOKENS: 90 * load,
            names.METRIC_PROMPT_TOKENS: 150 * load * age,
            names.METRIC_GENERATION_TOKENS: tokens,
        }.items()
        yield "up", 1
        for name, shares, total in (
            (names.METRIC_TTFT, TTFT, requests),
            (names.METRIC_ITL, ITL, tokens),
            (names.METRIC_QUEUE_TIME, QUEUED, requests),
        ):
            yield from ((f'{name}_bucket{{le="{le}"', round(share * total)) for le, share in shares.items())

    return values


PODS = {"chat-1": replica(1), "chat-2": replica(3), "chat-3": replica(4, draining=1)}


def past():
    """All samples as OpenMetrics text: each metric's lines together, and in the order of time."""
    lines = {}
    for pod, values in PODS.items():
        labels = f'namespace="default",octavo_dev_modelserver="chat",pod="{pod}"'
        for age in range(0, SECONDS + 1, INTERVAL):
            for name, value in values(age):
                series = f"{name}," if "{" in name else f"{name}{{"
                lines.setdefault(re.split("[{]", name)[0], []).append(f"{series}{labels}}} {value} {START + age}")
    return "".join(f"# TYPE {name} unknown\n" + "\n".join(found) + "\n" for name, found in lines.items()) + "# EOF\n"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    with Prometheus(tmp_path_factory.mktemp("prometheus")).load(past()).start() as prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def recorded(prometheus):
    """The value of each rule for `default/chat` at the end; without those that have none."""
    found = {}
    for rule in rules():
        for series in prometheus.query(rule["expr"], at=END):
            assert series["metric"] == {"namespace": "default", "octavo_dev_modelserver": "chat"}
            found[rule["record"]] = float(series["value"][1])
    return found


@pytest.fixture(scope="module")
def signals(prometheus):
    """What the operator makes of the same samples."""
    pods = {pod: Pod("default", pod) for pod in PODS}
    result = prometheus.query(samples_query(pods.values(), 60, queue_time=True), at=END)
    answer = read_samples(200, json.dumps({"status": "success", "data": {"result": result}}).encode())
    windows = {}
    for pod, named in pods.items():
        window = Window()
        for sample in answer.samples[named]:
            window = window.add(sample)
        windows[pod] = window
    return aggregate(windows, dict.fromkeys(PODS, 0.0), END)


def rules():
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def test_the_rules_are_rules(prometheus):
    done = subprocess.run([prometheus.promtool, "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{len(rules())} rules found" in done.stdout


def test_they_say_what_the_operator_says(recorded, signals):
    assert signals.ready == recorded["octavo:replicas_sampled:count"] == 2
    assert recorded["octavo:kv_utilization:ratio"] == pytest.approx(signals.kv_utilization) == 0.4
    assert recorded["octavo:requests_waiting:sum"] == signals.waiting == 12
    assert recorded["octavo:requests_waiting:avg"] == signals.waiting / 2
    assert recorded["octavo:requests_running:sum"] == signals.running == 16
    assert recorded["octavo:waiting_tokens:sum"] == signals.waiting_tokens == 360
    assert recorded["octavo:prompt_tokens:rate1m"] == pytest.approx(signals.prompt_rate, rel=0.01)
    assert recorded["octavo:generation_tokens:rate1m"] == pytest.approx(signals.generation_rate, rel=0.01)
    assert recorded["octavo:time_to_first_token_seconds:p95_1m"] == pytest.approx(signals.ttft_p95, rel=0.05)
    assert recorded["octavo:inter_token_latency_seconds:p95_1m"] == pytest.approx(signals.itl_p95, rel=0.05)
    assert recorded["octavo:request_queue_time_seconds:p95_1m"] == pytest.approx(signals.queue_wait_p95, rel=0.05)


def test_they_say_it_of_a_known_load(recorded):
    assert recorded["octavo:prompt_tokens:rate1m"] == pytest.approx(600, rel=0.01)
    assert 1.0 < recorded["octavo:time_to_first_token_seconds:p95_1m"] < 2.0
    assert recorded["octavo:replicas_unsampled:count"] == 0
    assert len(recorded) == len(rules())


def test_g6_nothing_is_said_of_what_is_not_there(prometheus):
    """After the last sample, and the five minutes for which Prometheus still shows it, no rule says 0."""
    assert [rule["record"] for rule in rules() if prometheus.query(rule["expr"], at=END + 600)] == []


def test_a_quantile_of_a_few_observations_is_none(prometheus):
    (ttft,) = [rule["expr"] for rule in rules() if "first_token" in rule["record"]]
    assert prometheus.query(ttft, at=END)
    assert prometheus.query(ttft.replace(">= 20", ">= 100000"), at=END) == []
    assert all(not math.isnan(float(item["value"][1])) for item in prometheus.query(ttft, at=END))
