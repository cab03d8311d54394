"""Asks a Prometheus for the counters of a ModelServer's replicas between two moments."""

import argparse
import asyncio
import math
from typing import Final

from octavo_operator.core import names
from octavo_operator.core.errors import PrometheusError, SettingsError
from octavo_operator.core.promql import pods_query, read_payload, series_of
from octavo_operator.prometheus import PrometheusClient
from octavo_operator.replay.recorded import SLOT_SECONDS, Recording, arrivals
from octavo_operator.replay.trace import Arrival
from octavo_operator.settings import PrometheusServer, checked_url

_DEADLINE_SECONDS: Final = 60.0
_TIMES_PER_QUERY: Final = 2000
_LONGEST_SECONDS: Final = 31 * 86400.0
_STARTED: Final = f"{names.METRIC_QUEUE_TIME}_count"

Values = dict[str, dict[float, float]]


def arrivals_of(options: argparse.Namespace) -> list[Arrival]:
    """The arrivals that the arguments name. SettingsError says what does not fit, or what Prometheus says."""
    server = PrometheusServer(checked_url("--prometheus", options.prometheus.rstrip("/")), options.authorization)
    if options.name is None or options.start is None or options.end is None:
        raise SettingsError("--prometheus needs --name, --from and --to")
    if not 2 * SLOT_SECONDS <= options.end - options.start <= _LONGEST_SECONDS:
        raise SettingsError("--to must be after --from, by at least 30 s and at most 31 days")
    slots = int((options.end - options.start) // SLOT_SECONDS)
    times = [options.start + SLOT_SECONDS * number for number in range(slots + 1)]
    try:
        found = arrivals(asyncio.run(_record(server, options.namespace, options.name, times)), options.seed)
    except PrometheusError as error:
        raise SettingsError(f"--prometheus {server.url}: {error}") from error
    except ValueError as error:
        raise SettingsError(f"--namespace, --name: {error}") from error
    if not found:
        where = f"namespace={options.namespace} and octavo_dev_modelserver={options.name}"
        raise SettingsError(f"--prometheus {server.url}: has no {_STARTED} with {where} that grew in that time")
    return found


async def _record(server: PrometheusServer, namespace: str, name: str, times: list[float]) -> Recording:
    metrics = (_STARTED, names.METRIC_WAITING, names.METRIC_PROMPT_TOKENS, names.METRIC_GENERATION_TOKENS)
    async with PrometheusClient(server, _DEADLINE_SECONDS) as client:
        histories = [await _history(client, pods_query(metric, namespace, name), times) for metric in metrics]
    return Recording(times, *histories)


async def _history(client: PrometheusClient, query: str, times: list[float]) -> Values:
    """One metric by pod and time; a point that is no usable number is missing."""
    found: Values = {}
    for start in range(0, len(times), _TIMES_PER_QUERY):
        part = times[start : start + _TIMES_PER_QUERY]
        payload = read_payload(*await client.query_range(query, part[0], part[-1], SLOT_SECONDS))
        for labels, points in series_of(payload.get("data"), "values"):
            values = found.setdefault(labels.get("pod", ""), {})
            values |= {_nearest(part, time): value for time, text in points if (value := _number(text)) is not None}
    return found


def _nearest(times: list[float], time: float) -> float:
    """The asked time of a point: the answer's is rounded to milliseconds."""
    return times[min(len(times) - 1, max(0, round((time - times[0]) / SLOT_SECONDS)))]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value < math.inf else None
