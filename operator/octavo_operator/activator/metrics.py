"""The activator's own metrics, in a registry of their own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 120, 300, 600, 1800, 3600)


class Metrics:
    """All metrics of one activator."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.held = Gauge("octavo_activator_requests_held", "Requests that wait for a replica.", registry=self.registry)
        self.requests = Counter(
            "octavo_activator_requests",
            "Requests that ended, by how: passed (to a replica), own (answered here), rejected (no room), expired "
            "(held too long), cancelled (by the client) or broken (by the replica).",
            ["outcome"],
            registry=self.registry,
        )
        self.hold_seconds = Histogram(
            "octavo_activator_hold_seconds",
            "Time from a request's arrival until a replica took it.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.wake_seconds = Histogram(
            "octavo_activator_wake_seconds",
            "Time from the first request that met no replica until one was there.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)
