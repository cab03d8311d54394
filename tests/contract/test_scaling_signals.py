"""The autoscaler's signals are the runtime's: counters, histograms, and the buckets that the replay's replica plays."""

from __future__ import annotations

import math
import re
from pathlib import Path

import yaml

from octavo_operator.core import names
from octavo_operator.core.exposition import READABLE, parse_sample
from octavo_operator.replay.replica import Machine, SimReplica
from octavo_runtime import metrics
from octavo_runtime.engine.state_page import EngineState


def test_every_signal_of_the_autoscaler_is_exported() -> None:
    state = EngineState(
        running=3, waiting=2, waiting_tokens=900, kv_tokens_used=64, kv_tokens_capacity=128, prompt_tokens=70
    )
    requests = metrics.RequestMetrics()
    requests.first_token(0.3)
    requests.queued(0.2)
    requests.next_token(0.02)
    requests.next_token(99.0)
    collector = metrics.RuntimeCollector("chat", requests, lambda: state, lambda: None, lambda: False)
    sample = parse_sample(metrics.render(collector).decode(), now=1.0, queue_time=True)
    assert sample is not None
    assert (sample.waiting_tokens, sample.prompt_tokens, sample.generation_tokens) == (900, 70, 0)
    assert sample.ttft is not None
    assert sample.itl is not None
    assert sample.queue_time is not None
    assert sample.queue_time.total == 1
    assert (sample.ttft.total, sample.itl.total, sample.itl.bounds[-1]) == (1, 2, math.inf)
    played = SimReplica(Machine(), 0.0, []).sample(1.0)
    assert played.ttft is not None
    assert played.itl is not None
    assert played.queue_time is not None
    assert played.queue_time.bounds == sample.queue_time.bounds
    assert (played.ttft.bounds, played.itl.bounds) == (sample.ttft.bounds, sample.itl.bounds)


def test_what_prometheus_is_asked_for_is_exported() -> None:
    """The samples, the recording rules, and the arrivals of the replay."""
    rules = Path(__file__).parents[2] / "charts/octavo/files/recording-rules.yaml"
    (group,) = yaml.safe_load(rules.read_text())["groups"]
    asked = {word for rule in group["rules"] for word in re.findall(r"\b(octavo_\w+)\b", rule["expr"])}
    collector = metrics.RuntimeCollector("chat", metrics.RequestMetrics(), EngineState, lambda: None, lambda: False)
    exported = set(re.findall(r"^(octavo_\w+)", metrics.render(collector).decode(), re.MULTILINE))
    assert asked - {"octavo_dev_modelserver"} <= exported
    assert {*READABLE, f"{names.METRIC_QUEUE_TIME}_count"} <= exported
    assert len(asked) > 8
