"""Hears at once when a request is held: asks every activator that a Service leads to, and is answered if there is news.

One question is open at each of them: it comes back with the next request that comes or goes, or after 10 s. So a wake
begins a moment after its request, and an idle activator costs one exchange in 10 s. Nothing is asked while a Service
leads to its replicas.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

import aiohttp

from octavo_operator.core import names
from octavo_operator.core.held import LONGEST_LOOK_SECONDS, Held, Report, parse_report, together
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.scraper import Tell, address_url, fetch
from octavo_operator.store import Key, Store

ROUND_SECONDS: Final = 0.5
"""How soon an activator that has just got the Service is asked for the first time."""
SPACING_SECONDS: Final = 0.1
"""Between two questions: a burst of requests is one piece of news, not hundreds."""
RETRY_SECONDS: Final = 1.0
_DEADLINE_SECONDS: Final = LONGEST_LOOK_SECONDS + 3.0


@dataclass(frozen=True, slots=True)
class Bell:
    """One activator's pod."""

    key: Key
    uid: str
    address: str

    def url(self, version: str) -> str:
        """Where it says what it holds, as soon as that is something else than `version`."""
        path = f"{names.PATH_HELD}?seen={version}&wait={LONGEST_LOOK_SECONDS:g}"
        return f"{address_url(self.address, names.CONTROL_PORT)}{path}"


class Doorbell:
    """The last answer of each activator, and the questions that are open."""

    def __init__(self, store: Store, metrics: Metrics, health: Health, tell: Tell) -> None:
        self._store = store
        self._metrics = metrics
        self._health = health
        self._tell = tell
        self._reports: dict[Bell, Report | None] = {}
        self._bells = store.while_unchanged(self._find_bells)

    def held(self, key: Key, now: float) -> Held | None:
        """What the activators of a ModelServer hold together; None while they are not asked, or one gives no answer."""
        return together((report for bell, report in self._reports.items() if bell.key == key), now)

    async def run(self) -> None:
        """Keeps one question open at each activator, for ever."""
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=_DEADLINE_SECONDS, sock_connect=2.0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            tasks: dict[Bell, asyncio.Task[None]] = {}
            try:
                while True:
                    self._health.beat("doorbell")
                    self._follow(session, tasks)
                    await asyncio.sleep(ROUND_SECONDS)
            finally:
                self._reports.clear()
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)

    def _follow(self, session: aiohttp.ClientSession, tasks: dict[Bell, "asyncio.Task[None]"]) -> None:
        """Starts to ask the activators that are new, and stops asking those that are gone."""
        bells = self._bells()
        for bell in tasks.keys() - bells:
            tasks.pop(bell).cancel()
            self._reports.pop(bell, None)
        for bell in bells - tasks.keys():
            self._reports[bell] = None
            tasks[bell] = asyncio.create_task(self._listen(session, bell), name=f"doorbell {bell.uid}")

    def _find_bells(self) -> set[Bell]:
        """Also those that end: they still hold what came before."""
        return {Bell(key, pod.uid, pod.ip) for key, pod in self._store.activators() if pod.ready and pod.ip}

    async def _listen(self, session: aiohttp.ClientSession, bell: Bell) -> None:
        version = ""
        while True:
            report = self._take(bell, await fetch(session, bell.url(version)))
            version = report.version if report else ""
            await asyncio.sleep(SPACING_SECONDS if report else RETRY_SECONDS)

    def _take(self, bell: Bell, text: str | None) -> Report | None:
        before = self._reports.get(bell)
        report = parse_report(text, time.time(), before) if text is not None else None
        self._metrics.looks.labels(result="failed" if text is None else "ok" if report else "invalid").inc()
        self._reports[bell] = report
        if report is not None and report.held > (before.held if before else 0):
            self._tell(bell.key, 0.0)
        return report
