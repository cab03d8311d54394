"""Reads the samples of the ModelServers that are scaled by Prometheus from it, and keeps their windows.

The Prometheus is the installation's (settings.py): a ModelServer says only that its samples come from there, so nobody
who may write one can make the operator call an address. One query is for up to a hundred replicas of any ModelServers.
Without an answer no window grows, so the replicas become unknown and nothing is scaled; why is kept for the condition
MetricsFresh. While no ModelServer is scaled by it nothing is asked.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from octavo_operator.core.errors import PrometheusError
from octavo_operator.core.names import Reason
from octavo_operator.core.pace import LATENCY_SECONDS, Pace
from octavo_operator.core.promql import Answer, Pod, read_samples, samples_query
from octavo_operator.core.reading import is_news
from octavo_operator.core.spec_metrics import PROMETHEUS, metrics_source, wants_queue_time
from octavo_operator.core.window import Trouble, Window
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.prometheus import PrometheusClient
from octavo_operator.samples import Windows, keep_windows
from octavo_operator.scraper import SETTLE_SECONDS, Tell
from octavo_operator.settings import PrometheusServer
from octavo_operator.store import Key, Store

DEADLINE_SECONDS: Final = 5.0
PODS_PER_QUERY: Final = 100
LATE_SECONDS: Final = 20.0
"""A sample has the time at which its scrape began, and is there when that ended: each query looks back so far."""
_NO_SERVER: Final = Trouble(
    Reason.PROMETHEUS_UNAVAILABLE, "no Prometheus is named: set prometheus.url of the operator's chart"
)


@dataclass(frozen=True, slots=True)
class Source:
    """One replica whose samples are read."""

    key: Key
    uid: str
    pod: Pod
    pace: Pace
    queue_time: bool = False


class Reader:
    """The windows of all replicas that Prometheus is asked for, and the loop that fills them."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        health: Health,
        *,
        server: PrometheusServer | None,
        period: float,
        tell: Tell,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._health = health
        self._server = server
        self._period = period
        self._tell = tell
        self._windows: Windows = {}
        self._sources = store.while_unchanged(self._find_sources)
        self._asked: list[Source] = []
        self._troubles: dict[Key, Trouble] = {}
        self._answered: float | None = None

    def windows(self, key: Key) -> Mapping[str, Window]:
        """The windows of a ModelServer's replicas, by pod uid."""
        return self._windows.get(key, {})

    def trouble(self, key: Key) -> Trouble | None:
        """Why replicas of a ModelServer have no sample."""
        return self._troubles.get(key)

    async def refresh(self, key: Key) -> None:
        """Nothing: Prometheus has no newer ones before it scrapes again."""

    async def run(self) -> None:
        """Asks once a period, for ever."""
        if self._server is None:
            await self._go_on(None)
        else:
            async with PrometheusClient(self._server, DEADLINE_SECONDS) as client:
                await self._go_on(client)

    async def _go_on(self, client: PrometheusClient | None) -> None:
        while True:
            start = asyncio.get_running_loop().time()
            self._health.beat("reader")
            await self.read_all(client)
            elapsed = asyncio.get_running_loop().time() - start
            await asyncio.sleep(max(0.0, self._period - elapsed))

    async def read_all(self, client: PrometheusClient | None) -> None:
        """One round: what all replicas' windows lack."""
        sources = self._sources()
        if sources is not self._asked:
            self._forget_others(sources)
        self._asked = sources
        if client is None:
            self._troubles = dict.fromkeys(self._windows, _NO_SERVER)
            return
        now, troubles, parts = time.time(), dict[Key, Trouble](), list(_parts(sources))
        try:
            while parts:
                troubles |= await self._read(client, parts[0], now)
                parts.pop(0)
            self._answered = now
        except PrometheusError as error:  # who does not answer once is not asked again in this round
            self._metrics.prometheus_queries.labels(result="failed").inc()
            trouble = Trouble(Reason.PROMETHEUS_UNAVAILABLE, f"Prometheus {error}")
            troubles |= {source.key: trouble for part in parts for source in part}
        self._troubles = troubles

    def _find_sources(self) -> list[Source]:
        paces = {key: _pace(self._store, key) for key in self._store.servers()}
        timed = {key for key in paces if wants_queue_time(self._store.server(key) or {})}
        return [
            Source(key, pod.uid, Pod(key.namespace, pod.name), pace, key in timed)
            for key, pod in self._store.replicas()
            if (pace := paces[key]) is not None and pod.ready and not pod.terminating
        ]

    def _forget_others(self, sources: list[Source]) -> None:
        self._windows = keep_windows(self._windows, sources)

    async def _read(self, client: PrometheusClient, part: Sequence[Source], now: float) -> dict[Key, Trouble]:
        """Asks for some replicas; returns why some of their ModelServers lack samples. Raises PrometheusError."""
        timed = any(source.queue_time for source in part)
        query = samples_query([source.pod for source in part], self._back(now), queue_time=timed)
        # In a thread: an answer of a hundred replicas takes a fifth of a second, and the loop renews the Lease.
        answer = await asyncio.to_thread(read_samples, *await client.query(query, now))
        self._metrics.prometheus_queries.labels(result="ok").inc()
        for source in part:
            self._take(source, answer, now)
        found = [(source.key, _lacks(source, self._windows[source.key][source.uid], answer, now)) for source in part]
        return {key: trouble for key, trouble in found if trouble is not None}

    def _back(self, now: float) -> float:
        """How far to look back: the whole window after a start or a pause, else what is new since the last answer."""
        if self._answered is None or not 0 <= now - self._answered <= LATENCY_SECONDS - LATE_SECONDS:
            return LATENCY_SECONDS
        return now - self._answered + LATE_SECONDS

    def _take(self, source: Source, answer: Answer, now: float) -> None:
        samples, replicas = answer.samples.get(source.pod), self._windows[source.key]
        if samples is None:
            return
        before = after = replicas[source.uid]
        for sample in samples:
            if after.reading is None or sample.time > after.reading.time:
                after = after.add(sample)
        replicas[source.uid] = after if samples else after.spoil(now)
        if after.reading is not None and is_news(before.reading, after.reading):
            self._tell(source.key, SETTLE_SECONDS)


def _pace(store: Store, key: Key) -> Pace | None:
    """How a ModelServer's samples are looked at; None where they do not come from Prometheus."""
    found = metrics_source(store.server(key) or {})
    return found.pace if found.source == PROMETHEUS else None


def _parts(sources: list[Source]) -> Iterator[list[Source]]:
    for start in range(0, len(sources), PODS_PER_QUERY):
        yield sources[start : start + PODS_PER_QUERY]


def _lacks(source: Source, window: Window, answer: Answer, now: float) -> Trouble | None:
    """Why a replica is unknown after an answer; the server's warnings say that it may not be all there is."""
    if window.at(now) is not None:
        return None
    samples = answer.samples.get(source.pod)
    if samples:
        words = f"Prometheus' newest sample of them is older than {source.pace.fresh:g} s"
    elif samples is not None:
        words = "Prometheus has series of them, but no usable sample"
    else:
        words = f"Prometheus has no series of the last {source.pace.fresh:g} s with their labels namespace and pod"
    warned = f", and warns: {answer.warnings[0]}" if answer.warnings else ""
    return Trouble(Reason.METRICS_MISSING, words + warned)
