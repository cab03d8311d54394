"""The operator's exceptions.

OctavoError
├── SpecError       a ModelServer that cannot be parsed: names the field; ends in Ready=False, InvalidSpec
├── SettingsError   a setting of the operator itself that cannot be used: names the variable; ends the process
├── PrometheusError Prometheus did not answer, or not as its API describes: the samples are missing, and why is known
└── ClusterError    the API server did not do what was asked (cluster.py)
    ├── Rejected    and will not when asked again: 403, 404, 422
    └── Unavailable but may when asked again: no answer, 409, 429, 5xx

A failed scrape is a missing sample, not an exception.
"""


class OctavoError(Exception):
    """Root of all errors that the operator raises on purpose."""


class SpecError(OctavoError):
    """A spec that does not parse; `field` is its path, such as spec.autoscaling.maxReplicas."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class SettingsError(OctavoError):
    """An environment variable with a value that the operator cannot use."""


class PrometheusError(OctavoError):
    """What Prometheus said instead of an answer; the sentence goes on after its name."""


class ClusterError(OctavoError):
    """A call of the Kubernetes API that failed; `status` is its HTTP status, 0 when there was no answer."""

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class Rejected(ClusterError):  # noqa: N818  reads as the outcome that it is
    """Asking again with the same object gives the same answer."""


class Unavailable(ClusterError):  # noqa: N818
    """Asking again later may succeed; `retry_after` has the server's own wish in seconds."""
