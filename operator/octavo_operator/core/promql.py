"""Prometheus' HTTP API as values: the query for the samples of many pods, and what its answer says.

One range selector over all metrics and pods gives raw samples, each with the time of its scrape: PromQL's functions
would hide how old a value is, and fill in what is not there. All series of one scrape have one time, so they are put
together again as if the text had been read from the pod. An empty answer is an empty answer, never a load of 0
(kedacore/keda#3065); whatever is not as the API describes it is a `PrometheusError`.

The labels are those of a PodMonitor: `namespace` and `pod`. Source: https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from octavo_operator.core.errors import PrometheusError
from octavo_operator.core.exposition import READ, READABLE, Found, Sample, make_sample, place_of

_OWN_LABELS: Final = frozenset({"__name__", "le", "model_name"})
"""What the runtime itself puts on a series; the other labels say who scraped it, and how."""
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LONGEST_WORDS: Final = 200
_LATEST: Final = 1e12
"""Seconds: the year 33658."""


class Pod(NamedTuple):
    """A pod as series name it."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The samples of each pod, oldest first; empty for one whose series are no samples. `warnings` are the server's."""

    samples: Mapping[Pod, tuple[Sample, ...]]
    warnings: tuple[str, ...] = ()


def samples_query(pods: Iterable[Pod], seconds: float, *, queue_time: bool = False) -> str:
    """The raw samples of these pods' metrics within the last `seconds`, with those of `queue_time` where wanted."""
    listed = sorted(pods)
    namespaces = sorted({pod.namespace for pod in listed})
    matchers = {
        "__name__": READABLE if queue_time else READ,
        "namespace": map(_literal, namespaces),
        "pod": map(_literal, (pod.name for pod in listed)),
    }
    selector = ",".join(f'{label}=~"{"|".join(words)}"' for label, words in matchers.items())
    return f"{{{selector}}}[{math.ceil(seconds)}s]"


def pods_query(metric: str, namespace: str, server: str) -> str:
    """One metric of all replicas of a ModelServer, by pod; of a replica that two scrape once."""
    labels = f'namespace="{_checked(namespace)}",octavo_dev_modelserver="{_checked(server)}"'
    return f"max by (pod) ({metric}{{{labels}}})"


def _literal(name: str) -> str:
    """A Kubernetes name as a regular expression, without a backslash: those would have to be doubled in PromQL."""
    return _checked(name).replace(".", "[.]")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of Kubernetes")
    return name


def read_samples(status: int, body: bytes) -> Answer:
    """The samples in an answer to `samples_query`."""
    payload = read_payload(status, body)
    data = payload.get("data")
    scrapes = _Scrapes()
    for labels, points in series_of(data, "values"):
        scrapes.take_in(labels, points)
    words = payload.get("warnings")
    warnings = tuple(str(item)[:_LONGEST_WORDS] for item in words) if isinstance(words, list) else ()
    return Answer(scrapes.samples(), warnings)


def read_payload(status: int, body: bytes) -> dict[str, Any]:
    """The JSON object of a successful answer; PrometheusError with the server's own words otherwise."""
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        payload = None
    if isinstance(payload, dict) and payload.get("status") == "success" and status == 200:
        return payload
    told = payload.get("error") if isinstance(payload, dict) else None
    words = str(told)[:_LONGEST_WORDS] if told else "and no JSON of Prometheus' API"
    raise PrometheusError(f"answered with HTTP {status}: {words}" if told else f"answered with HTTP {status} {words}")


Point = tuple[float, str]


def series_of(data: object, values: str) -> Iterator[tuple[dict[str, str], list[Point]]]:
    """The series of a result, each with its labels and its points; `values` is their key."""
    result = data.get("result") if isinstance(data, dict) else None
    if not isinstance(result, list):
        raise PrometheusError("answered with no list of series")
    for series in result:
        labels = series.get("metric") if isinstance(series, dict) else None
        points = series.get(values) if isinstance(series, dict) else None
        if not isinstance(labels, dict) or not isinstance(points, list):
            raise PrometheusError(f"answered with a series without {values}")
        yield {str(key): str(value) for key, value in labels.items()}, [_point(point) for point in points]


def _point(raw: object) -> Point:
    match raw:
        case [int() | float() as time, str() as value] if abs(time) < _LATEST:
            return float(time), value
    raise PrometheusError("answered with a sample that is no pair of a time and a value")


Scraper = tuple[tuple[str, str], ...]
"""The labels that say who scraped a pod; a pod that two scrape has its series twice."""


@dataclass(slots=True)
class _Scrapes:
    """What was found of each pod, by who scraped it and when."""

    _found: dict[Pod, dict[Scraper, dict[float, Found]]] = field(default_factory=dict)

    def take_in(self, labels: dict[str, str], points: list[Point]) -> None:
        """One series. One of a pod that it does not name is nobody's."""
        name = labels.get("__name__", "")
        if name not in READABLE or "namespace" not in labels or "pod" not in labels:
            return
        pod = Pod(labels["namespace"], labels["pod"])
        scraper = tuple(sorted((key, value) for key, value in labels.items() if key not in _OWN_LABELS))
        times = self._found.setdefault(pod, {}).setdefault(scraper, {})
        place = place_of(name, labels.get("le"))
        for time, value in points:
            found = times.setdefault(time, Found())
            if place is not None:
                found.put(place, value)

    def samples(self) -> dict[Pod, tuple[Sample, ...]]:
        """The samples of each pod, of that scraper alone whose last one is the newest: never a sum of two."""
        return {pod: self._newest(scrapers) for pod, scrapers in self._found.items()}

    def _newest(self, scrapers: dict[Scraper, dict[float, Found]]) -> tuple[Sample, ...]:
        rows = [_usable(times) for _, times in sorted(scrapers.items())]
        return max(rows, key=lambda row: row[-1].time if row else -math.inf)


def _usable(times: dict[float, Found]) -> tuple[Sample, ...]:
    made = (make_sample(found, time) for time, found in sorted(times.items()))
    return tuple(sample for sample in made if sample is not None)
