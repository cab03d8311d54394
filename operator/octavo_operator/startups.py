"""Asks replicas that are not ready yet how far they are, and tells when that changed."""

import asyncio
from dataclasses import dataclass
from typing import Final

import aiohttp

from octavo_operator.core import names
from octavo_operator.core.startup import Progress, furthest, parse_progress
from octavo_operator.health import Health
from octavo_operator.scraper import Tell, address_url, fetch
from octavo_operator.store import Key, Store

PERIOD_SECONDS: Final = 2.0
_DEADLINE_SECONDS: Final = 2.0
_UNREADY: Final = (200, 503)


@dataclass(frozen=True, slots=True)
class Starting:
    """One replica whose container runs and is not ready."""

    key: Key
    uid: str
    address: str

    @property
    def url(self) -> str:
        """Where it says how far it is."""
        return f"{address_url(self.address, names.PORT)}{names.PATH_STARTUP}"


class Startups:
    """The last answer of each starting replica."""

    def __init__(self, store: Store, health: Health, tell: Tell) -> None:
        self._store = store
        self._health = health
        self._tell = tell
        self._progress: dict[Starting, Progress] = {}
        self._starting = store.while_unchanged(self._find_starting)

    def of(self, key: Key) -> Progress | None:
        """How far the furthest starting replica of a ModelServer is; None where none says so."""
        return furthest(progress for starting, progress in self._progress.items() if starting.key == key)

    async def run(self) -> None:
        """Asks once a period, for ever; while nothing starts nobody is asked."""
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                self._health.beat("startups")
                starting = self._starting()
                self._progress = {item: self._progress[item] for item in starting if item in self._progress}
                await asyncio.gather(*(self._ask(session, item) for item in starting))
                await asyncio.sleep(PERIOD_SECONDS)

    def _find_starting(self) -> list[Starting]:
        return [
            Starting(key, pod.uid, pod.ip)
            for key, pod in self._store.replicas()
            if pod.ip and pod.started_at and not pod.ready and not pod.terminating
        ]

    async def _ask(self, session: aiohttp.ClientSession, item: Starting) -> None:
        text = await fetch(session, item.url, statuses=_UNREADY)
        progress = parse_progress(text) if text is not None else None
        if progress is None or progress == self._progress.get(item):
            return
        self._progress[item] = progress
        self._tell(item.key, 0.0)
