"""What /metrics says. Gauges and totals are read from the engine's state page at the moment of the scrape, so they are
true also when the engine hangs; only times and finished requests are counted here, in the API process.

Each number has Octavo's name and, where vLLM has one for the same thing, vLLM's: dashboards, autoscalers and the
Gateway API inference extension read those. Labels are the model's name, reasons and phases; nothing from a request.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from octavo_runtime.engine.state_page import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

    from octavo_runtime.engine.messages import Started
    from octavo_runtime.engine.state_page import EngineState

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
FINISHED_REASONS: Final = ("stop", "length", "abort", "deadline", "error")
REJECTION_REASONS: Final = ("queued_requests", "queued_tokens")
# Bucket bounds in seconds: a decode step on a GPU takes milliseconds, an answer on a CPU minutes.
_TOKEN_SECONDS: Final = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
_REQUEST_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480, 960)


class Histogram:
    """Counts by bucket. Own because one set of counts is exported under two names."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def family(self, name: str, text: str, model_name: str) -> HistogramMetricFamily:
        names = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(name, text, labels=["model_name"])
        family.add_metric([model_name], list(zip(names, accumulate(self._counts), strict=True)), self._sum)
        return family


class RequestMetrics:
    """Times and endings of requests. Implements `engine.client.Observer`."""

    def __init__(self) -> None:
        self.queue_time = Histogram(_REQUEST_SECONDS)
        self.time_to_first_token = Histogram(_REQUEST_SECONDS)
        self.inter_token_latency = Histogram(_TOKEN_SECONDS)
        self.e2e_latency = Histogram(_REQUEST_SECONDS)
        self.finished_requests: Counter[str] = Counter()
        self.rejections: Counter[str] = Counter()
        self.engine_restarts = 0

    def queued(self, seconds: float) -> None:
        self.queue_time.observe(seconds)

    def first_token(self, seconds: float) -> None:
        self.time_to_first_token.observe(seconds)

    def next_token(self, seconds: float) -> None:
        self.inter_token_latency.observe(seconds)

    def finished(self, reason: str, seconds: float) -> None:
        self.finished_requests[reason] += 1
        self.e2e_latency.observe(seconds)

    def rejected(self, reason: str) -> None:
        self.rejections[reason] += 1

    def engine_restarted(self) -> None:
        self.engine_restarts += 1


class RuntimeCollector(Collector):
    """Builds every metric family when it is asked."""

    def __init__(
        self,
        model_name: str,
        requests: RequestMetrics,
        state: Callable[[], EngineState],
        started: Callable[[], Started | None],
        draining: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model_name = model_name
        self._requests = requests
        self._state = state
        self._started = started
        self._draining = draining
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        state = self._state()
        yield from self._gauges(state)
        yield from self._totals(state)
        yield from self._finished()
        yield self._rejections()
        yield from self._histograms()
        yield from self._startup(state)
        yield from self._cache_config()

    def _gauges(self, state: EngineState) -> Iterator[Metric]:
        running, waiting, usage = state.running, state.waiting, state.kv_usage
        yield self._gauge("octavo_requests_running", "Sequences in the running batch.", running)
        yield self._gauge("octavo_requests_waiting", "Sequences that wait for room.", waiting)
        yield self._gauge("octavo_waiting_tokens", "Tokens to compute for them.", state.waiting_tokens)
        yield self._gauge("octavo_kv_cache_usage_ratio", "Share of the KV cache in use, 0 to 1.", usage)
        yield self._gauge("octavo_kv_tokens_used", "Tokens of KV cache in use.", state.kv_tokens_used)
        yield self._gauge("octavo_kv_tokens_capacity", "Tokens of KV cache there are.", state.kv_tokens_capacity)
        yield self._gauge("octavo_draining", "1 after SIGTERM.", float(self._draining()))
        silence = max(self._clock() - state.beat, 0.0)
        yield self._gauge("octavo_engine_silence_seconds", "Since the engine's last sign of life.", silence)
        yield self._gauge("vllm:num_requests_running", "As octavo_requests_running.", running)
        yield self._gauge("vllm:num_requests_waiting", "As octavo_requests_waiting.", waiting)
        yield self._gauge("vllm:kv_cache_usage_perc", "As octavo_kv_cache_usage_ratio.", usage)
        yield self._gauge("vllm:gpu_cache_usage_perc", "As octavo_kv_cache_usage_ratio.", usage)

    def _totals(self, state: EngineState) -> Iterator[Metric]:
        preemptions, prompt, generation = state.preemptions, state.prompt_tokens, state.generation_tokens
        yield self._counter("octavo_preemptions", "Running sequences that lost their blocks.", preemptions)
        yield self._counter("octavo_prompt_tokens", "Prompt tokens computed.", prompt)
        yield self._counter("octavo_generation_tokens", "Tokens generated.", generation)
        yield self._counter("octavo_engine_steps", "Steps of the engine.", state.steps)
        restarts = self._requests.engine_restarts
        yield self._counter("octavo_engine_restarts", "Engines that were started in a dead one's place.", restarts)
        looked_up, found = state.prefix_queries, state.prefix_hits
        yield self._counter("octavo_prefix_cache_queries", "Prompt tokens looked up in the cache.", looked_up)
        yield self._counter("octavo_prefix_cache_hits", "Prompt tokens found there.", found)
        drafts, accepted = state.spec_draft_tokens, state.spec_accepted_tokens
        yield self._counter("octavo_spec_draft_tokens", "Tokens guessed ahead.", drafts)
        yield self._counter("octavo_spec_accepted_tokens", "Guesses that were right.", accepted)
        yield self._counter("vllm:prefix_cache_queries", "As octavo_prefix_cache_queries_total.", looked_up)
        yield self._counter("vllm:prefix_cache_hits", "As octavo_prefix_cache_hits_total.", found)
        yield self._counter("vllm:spec_decode_num_draft_tokens", "As octavo_spec_draft_tokens_total.", drafts)
        yield self._counter("vllm:spec_decode_num_accepted_tokens", "As octavo_spec_accepted_tokens_total.", accepted)
        yield self._counter("vllm:num_preemptions", "As octavo_preemptions_total.", preemptions)
        yield self._counter("vllm:prompt_tokens", "As octavo_prompt_tokens_total.", prompt)
        yield self._counter("vllm:generation_tokens", "As octavo_generation_tokens_total.", generation)

    def _finished(self) -> Iterator[Metric]:
        labels = ["model_name", "finished_reason"]
        ours = CounterMetricFamily("octavo_requests", "Requests that ended, by how.", labels=labels)
        theirs = CounterMetricFamily(
            "vllm:request_success", "As octavo_requests_total, without failures.", labels=labels
        )
        for reason in FINISHED_REASONS:
            value = self._requests.finished_requests[reason]
            ours.add_metric([self._model_name, reason], value)
            if reason not in {"deadline", "error"}:
                theirs.add_metric([self._model_name, reason], value)
        yield ours
        yield theirs

    def _rejections(self) -> Metric:
        family = CounterMetricFamily(
            "octavo_admission_rejections", "Requests refused for load, by limit.", labels=["model_name", "reason"]
        )
        for reason in REJECTION_REASONS:
            family.add_metric([self._model_name, reason], self._requests.rejections[reason])
        return family

    def _histograms(self) -> Iterator[Metric]:
        requests = self._requests
        for histogram, name, text in (
            (requests.time_to_first_token, "time_to_first_token_seconds", "From arrival to the first token."),
            (requests.inter_token_latency, "inter_token_latency_seconds", "Between two tokens of one request."),
            (requests.e2e_latency, "e2e_request_latency_seconds", "From arrival to the end."),
            (requests.queue_time, "request_queue_time_seconds", "From arrival to the first step."),
        ):
            yield histogram.family(f"octavo_{name}", text, self._model_name)
            yield histogram.family(f"vllm:{name}", f"As octavo_{name}.", self._model_name)

    def _startup(self, state: EngineState) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "octavo_startup_seconds", "Seconds that each phase of the start took.", labels=["model_name", "phase"]
        )
        seconds = {
            Phase.PROCESS: state.process_seconds,
            Phase.WEIGHTS: state.weights_seconds,
            Phase.WARMUP: state.warmup_seconds,
        }
        for phase, value in seconds.items():
            if phase < state.phase:
                family.add_metric([self._model_name, phase.name.lower()], value)
        yield family

    def _cache_config(self) -> Iterator[Metric]:
        started = self._started()
        if started is None:
            return
        family = GaugeMetricFamily(
            "vllm:cache_config_info", "Shape of the KV cache.", labels=["model_name", "block_size", "num_gpu_blocks"]
        )
        family.add_metric([self._model_name, str(started.block_size), str(started.num_blocks)], 1)
        yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=["model_name"])
        family.add_metric([self._model_name], value)
        return family


def render(collector: Collector) -> bytes:
    """All of `collector`'s metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry)
