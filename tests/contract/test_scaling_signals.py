"""The autoscaler's signals are the runtime's: counters, histograms, and the buckets that the replay's replica plays."""

from __future__ import annotations

import math

from octavo_operator.core.exposition import parse_sample
from octavo_operator.replay.replica import Machine, SimReplica
from octavo_runtime import metrics
from octavo_runtime.engine.state_page import EngineState


def test_every_signal_of_the_autoscaler_is_exported() -> None:
    state = EngineState(
        running=3, waiting=2, waiting_tokens=900, kv_tokens_used=64, kv_tokens_capacity=128, prompt_tokens=70
    )
    requests = metrics.RequestMetrics()
    requests.first_token(0.3)
    requests.next_token(0.02)
    requests.next_token(99.0)
    collector = metrics.RuntimeCollector("chat", requests, lambda: state, lambda: None, lambda: False)
    sample = parse_sample(metrics.render(collector).decode(), now=1.0)
    assert sample is not None
    assert (sample.waiting_tokens, sample.prompt_tokens, sample.generation_tokens) == (900, 70, 0)
    assert sample.ttft is not None
    assert sample.itl is not None
    assert (sample.ttft.total, sample.itl.total, sample.itl.bounds[-1]) == (1, 2, math.inf)
    played = SimReplica(Machine(), 0.0, []).sample(1.0)
    assert played.ttft is not None
    assert played.itl is not None
    assert (played.ttft.bounds, played.itl.bounds) == (sample.ttft.bounds, sample.itl.bounds)
