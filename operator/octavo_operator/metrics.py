"""The operator's own metrics, in a registry of their own."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one operator process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "octavo_operator_reconciles", "Reconciles by result: ok or error.", ["result"], registry=self.registry
        )
        self.duration = Histogram(
            "octavo_operator_reconcile_duration_seconds", "Time of one reconcile.", registry=self.registry
        )
        self.leader = Gauge("octavo_operator_leader", "1 while this process holds the Lease.", registry=self.registry)
        self.queue_depth = Gauge(
            "octavo_operator_queue_depth",
            "ModelServers that wait for a reconcile, due or later.",
            registry=self.registry,
        )
        self.desired = Gauge(
            "octavo_operator_desired_replicas",
            "Replicas that a ModelServer should have now.",
            ["namespace", "name"],
            registry=self.registry,
        )
        self.decisions = Counter(
            "octavo_operator_decisions",
            "Scaling decisions by reason, those to do nothing too.",
            ["reason"],
            registry=self.registry,
        )
        self.recommended = Gauge(
            "octavo_operator_recommended_replicas",
            "Replicas that each signal of a ModelServer asks for, and the decision made of them (signal=decision).",
            ["namespace", "name", "signal"],
            registry=self.registry,
        )
        self.requests_cut = Counter(
            "octavo_operator_requests_cut",
            "Requests that replicas gave up on at the end of their drain.",
            ["namespace", "name"],
            registry=self.registry,
        )
        self.scrapes = Counter(
            "octavo_operator_scrapes",
            "Scrapes of replicas by result: ok, invalid or failed.",
            ["result"],
            registry=self.registry,
        )
        self.looks = Counter(
            "octavo_operator_activator_looks",
            "Questions to activators by result: ok, invalid or failed.",
            ["result"],
            registry=self.registry,
        )
        self.prometheus_queries = Counter(
            "octavo_operator_prometheus_queries",
            "Queries of Prometheus for the samples of replicas, by result: ok or failed.",
            ["result"],
            registry=self.registry,
        )
        self.api_requests = Counter(
            "octavo_operator_api_requests",
            "Requests to the API server, those of the watch not counted, by verb, kind and HTTP status.",
            ["verb", "kind", "status"],
            registry=self.registry,
        )
        self.resyncs = Counter(
            "octavo_operator_resyncs",
            "Full lists of everything that is watched, by result: ok or error.",
            ["result"],
            registry=self.registry,
        )
        self.watch_events = Counter(
            "octavo_operator_watch_events",
            "Events that the watch delivered, by kind.",
            ["kind"],
            registry=self.registry,
        )

    @contextmanager
    def timed(self) -> Iterator[list[str]]:
        """Counts one reconcile; it is an error unless the body appends "ok" to what it gets."""
        start, result = time.perf_counter(), list[str]()
        try:
            yield result
        finally:
            self.duration.observe(time.perf_counter() - start)
            self.reconciles.labels(result=result[0] if result else "error").inc()

    def recommend(self, namespace: str, name: str, replicas: Mapping[str, int]) -> None:
        """Shows what each signal asks for; a signal that says nothing now has no series."""
        self.recommended.remove_by_labels({"namespace": namespace, "name": name})
        for signal, number in replicas.items():
            self.recommended.labels(namespace=namespace, name=name, signal=signal).set(number)

    def forget(self, namespace: str, name: str) -> None:
        """Removes the series of a ModelServer that is gone."""
        self.desired.remove_by_labels({"namespace": namespace, "name": name})
        self.requests_cut.remove_by_labels({"namespace": namespace, "name": name})
        self.recommended.remove_by_labels({"namespace": namespace, "name": name})

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
