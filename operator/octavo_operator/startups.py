"""Asks replicas that are not ready yet how far they are, tells when that changed, and learns how long phases take."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from octavo_operator.core import names
from octavo_operator.core.course import Course, typical
from octavo_operator.core.startup import Progress, furthest, parse_progress
from octavo_operator.health import Health
from octavo_operator.scraper import Tell, address_url, fetch
from octavo_operator.store import Key, Store

PERIOD_SECONDS: Final = 2.0
_DEADLINE_SECONDS: Final = 2.0
_UNREADY: Final = (200, 503)
_REMEMBERED: Final = 8
"""Starts of a ModelServer: with another model they are others, and these are soon gone."""


@dataclass(frozen=True, slots=True)
class Starting:
    """One replica whose container runs and is not ready."""

    key: Key
    uid: str
    address: str
    began: float
    """When its container began to run: one that is started again begins anew."""

    @property
    def url(self) -> str:
        """Where it says how far it is."""
        return f"{address_url(self.address, names.PORT)}{names.PATH_STARTUP}"


class Startups:
    """The last answer of each starting replica."""

    def __init__(self, store: Store, health: Health, tell: Tell, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._health = health
        self._tell = tell
        self._clock = clock
        self._progress: dict[Starting, Progress] = {}
        self._courses: dict[Starting, Course] = {}
        self._lengths: dict[Key, deque[Mapping[str, float]]] = {}
        self._starting = store.while_unchanged(self._find_starting)

    def of(self, key: Key) -> Progress | None:
        """How far the furthest starting replica of a ModelServer is; None where none says so."""
        return furthest(progress for starting, progress in self._progress.items() if starting.key == key)

    def phases(self, key: Key) -> dict[str, int]:
        """Seconds that each phase of a start takes, as far as starts were watched."""
        return typical(self._lengths.get(key, ()))

    async def run(self) -> None:
        """Asks once a period, for ever; while nothing starts nobody is asked."""
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                self._health.beat("startups")
                starting = self._starting()
                self._progress = {item: self._progress[item] for item in starting if item in self._progress}
                self._learn(set(starting))
                await asyncio.gather(*(self._ask(session, item) for item in starting))
                await asyncio.sleep(PERIOD_SECONDS)

    def _find_starting(self) -> list[Starting]:
        return [
            Starting(key, pod.uid, pod.ip, pod.started_at)
            for key, pod in self._store.replicas()
            if pod.ip and pod.started_at and not pod.ready and not pod.terminating
        ]

    def _learn(self, starting: set[Starting]) -> None:
        """From starts that are over: those of replicas that serve now."""
        over = [item for item in self._courses if item not in starting]
        if not over:
            return
        ready = {pod.uid: pod.ready_since for _, pod in self._store.replicas() if pod.ready}
        for item in over:
            course = self._courses.pop(item)
            if item.uid in ready:
                kept = self._lengths.setdefault(item.key, deque(maxlen=_REMEMBERED))
                kept.append(course.lengths(ready[item.uid]))
        known = set(self._store.servers())
        self._lengths = {key: kept for key, kept in self._lengths.items() if key in known}

    async def _ask(self, session: aiohttp.ClientSession, item: Starting) -> None:
        text = await fetch(session, item.url, statuses=_UNREADY)
        progress = parse_progress(text) if text is not None else None
        if progress is None or progress == self._progress.get(item):
            return
        self._progress[item] = progress
        self._courses[item] = self._courses.get(item, Course(item.began)).at(progress.phase, self._clock())
        self._tell(item.key, 0.0)
