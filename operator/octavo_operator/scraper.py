"""Fetches /metrics of every ready replica, all at once, and keeps the windows of samples.

A replica is asked only under the address of one of our pods, answers within the deadline and the size limit, or gave no
sample: a failed scrape is missing, never an error and never 0. Each answer counts when it comes, so one replica that
hangs delays nobody else's. A load that rises by a step is told at once (`is_news`), so that a burst does not wait for
the next decision's turn, and looked at again after a second, since one sample is no burst (window.py); at rest nothing
is told. Replicas that nobody scales are asked seldom, since their load is only shown, and at once when one of them
is to go (`refresh`); those whose samples come from Prometheus not at all: see reader.py.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp

from octavo_operator.core import names
from octavo_operator.core.exposition import parse_sample
from octavo_operator.core.pace import RESTING, Pace
from octavo_operator.core.reading import is_news
from octavo_operator.core.spec_metrics import direct_pace, wants_queue_time
from octavo_operator.core.window import Trouble, Window
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.samples import Windows, keep_windows
from octavo_operator.store import Key, Store

DEADLINE_SECONDS: Final = 2.0
LARGEST_ANSWER: Final = 1 << 20
SETTLE_SECONDS: Final = 0.2
"""A burst meets all replicas: their answers of the same round are waited for, and make one decision."""
AGAIN_SECONDS: Final = 1.0
RESTING_SECONDS: Final = 30.0
"""Between two questions to a replica whose number nothing decides on."""
_AT_ONCE: Final = 512

Tell = Callable[[Key, float], None]
"""Asks for a look at a ModelServer in so many seconds."""


@dataclass(frozen=True, slots=True)
class Target:
    """One replica to ask."""

    key: Key
    uid: str
    address: str
    pace: Pace
    queue_time: bool = False

    @property
    def url(self) -> str:
        """Where its metrics are."""
        return f"{address_url(self.address, names.PORT)}{names.PATH_METRICS}"


def address_url(address: str, port: int) -> str:
    """Where a pod's port is; the address may be of either family."""
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}"


class Scraper:
    """The windows of all replicas, and the loop that fills them."""

    def __init__(self, store: Store, metrics: Metrics, health: Health, period: float, tell: Tell) -> None:
        self._store = store
        self._metrics = metrics
        self._health = health
        self._period = period
        self._tell = tell
        self._windows: Windows = {}
        self._targets = store.while_unchanged(self._find_targets)
        self._asked: list[Target] = []
        self._due: dict[str, float] = {}
        self._session: aiohttp.ClientSession | None = None

    def windows(self, key: Key) -> Mapping[str, Window]:
        """The windows of a ModelServer's replicas, by pod uid."""
        return self._windows.get(key, {})

    def trouble(self, _: Key) -> Trouble | None:
        """Nothing is known beyond that replicas gave no sample."""
        return None

    async def refresh(self, key: Key) -> None:
        """Asks the replicas of a ModelServer now, where they are asked seldom."""
        session, asked = self._session, [target for target in self._asked if target.key == key]
        if session is not None:
            await asyncio.gather(*(self._ask(session, target) for target in asked if target.pace == RESTING))

    async def run(self) -> None:
        """Scrapes once a period, for ever."""
        connector = aiohttp.TCPConnector(limit=_AT_ONCE, force_close=False)
        timeout = aiohttp.ClientTimeout(total=DEADLINE_SECONDS)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._session = session
            while True:
                start = asyncio.get_running_loop().time()
                self._health.beat("scraper")
                await self._scrape_all(session)
                elapsed = asyncio.get_running_loop().time() - start
                await asyncio.sleep(max(0.0, self._period - elapsed))

    async def _scrape_all(self, session: aiohttp.ClientSession) -> None:
        targets = self._targets()
        if targets is not self._asked:
            self._forget_others(targets)
        self._asked = targets
        now = asyncio.get_running_loop().time()
        await asyncio.gather(*(self._ask(session, target) for target in targets if self._is_due(target, now)))

    async def _ask(self, session: aiohttp.ClientSession, target: Target) -> None:
        if self._take(target, await fetch(session, target.url)) and target.pace != RESTING:
            await asyncio.sleep(min(AGAIN_SECONDS, self._period / 2))
            if target.uid in self._windows.get(target.key, {}):
                self._take(target, await fetch(session, target.url))

    def _find_targets(self) -> list[Target]:
        servers = {key: self._store.server(key) or {} for key in self._store.servers()}
        paces = {key: direct_pace(server) for key, server in servers.items()}
        timed = {key for key, server in servers.items() if wants_queue_time(server)}
        return [
            Target(key, pod.uid, pod.ip, pace, key in timed)
            for key, pod in self._store.replicas()
            if (pace := paces[key]) is not None and pod.ready and pod.ip and not pod.terminating
        ]

    def _is_due(self, target: Target, now: float) -> bool:
        """Always, or after about 30 s: not all of them in the same round for ever."""
        if target.pace != RESTING:
            return True
        due = now >= self._due.get(target.uid, now)
        if due:
            self._due[target.uid] = now + RESTING_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311  spreads load
        return due

    def _forget_others(self, targets: list[Target]) -> None:
        self._windows = keep_windows(self._windows, targets)
        resting = {target.uid for target in targets if target.pace == RESTING}
        self._due = {uid: due for uid, due in self._due.items() if uid in resting}

    def _take(self, target: Target, text: str | None) -> bool:
        """Whether the load rose by a step."""
        now, replicas = time.time(), self._windows[target.key]
        sample = parse_sample(text, now, queue_time=target.queue_time) if text is not None else None
        result = "failed" if text is None else "invalid" if sample is None else "ok"
        self._metrics.scrapes.labels(result=result).inc()
        if sample is not None:
            before = replicas[target.uid]
            after = replicas[target.uid] = before.add(sample)
            if after.reading is not None and is_news(before.reading, after.reading):
                self._tell(target.key, SETTLE_SECONDS)
                return True
        elif text is not None:
            replicas[target.uid] = replicas[target.uid].spoil(now)
        return False


async def fetch(session: aiohttp.ClientSession, url: str, statuses: tuple[int, ...] = (200,)) -> str | None:
    """The body, or None when there is none in time, it is too long, or the answer has none of those statuses."""
    try:
        async with session.get(url, allow_redirects=False) as answer:
            if answer.status not in statuses:
                return None
            body = await answer.content.read(LARGEST_ANSWER + 1)
            while len(body) <= LARGEST_ANSWER and (more := await answer.content.read(LARGEST_ANSWER + 1 - len(body))):
                body += more
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    return None if len(body) > LARGEST_ANSWER else body.decode(errors="replace")
