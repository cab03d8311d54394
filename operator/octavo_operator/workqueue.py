"""Which ModelServer is reconciled when.

- One at a time per key, several keys at once; a key that is added while it runs runs once more.
- Many additions are one run; two runs of a key are at least `SPACING` apart.
- What a user has just asked for (`urgent`) goes before all that is due: a rollout of many ModelServers brings a dozen
  events for each change, and the next change must not wait for those.
- A failed key comes back with exponential, jittered delay up to `LONGEST_DELAY`, for ever.
"""

import asyncio
import heapq
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from octavo_operator.core.errors import ClusterError
from octavo_operator.health import Health
from octavo_operator.logs import kv
from octavo_operator.metrics import Metrics
from octavo_operator.store import Key

SPACING: Final = 0.25
FIRST_DELAY: Final = 0.5
LONGEST_DELAY: Final = 60.0
_BEAT: Final = 10.0

logger = logging.getLogger(__name__)

Handler = Callable[[Key], Awaitable[float | None]]
"""Reconciles a key and returns the seconds until it wants to be called again, or None."""


class WorkQueue:
    """Keys with the times at which they are due, on the event loop's clock."""

    def __init__(self, metrics: Metrics, health: Health) -> None:
        self._metrics = metrics
        self._health = health
        self._due: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []
        self._urgent: dict[Key, None] = {}
        """In the order in which they came."""
        self._running: set[Key] = set()
        self._failures: dict[Key, int] = {}
        self._changed = asyncio.Event()

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Makes the key due in `delay` seconds, or earlier if it already is."""
        due = asyncio.get_running_loop().time() + delay
        if due < self._due.get(key, float("inf")):
            self._due[key] = due
            self._push(key)

    def hurry(self, key: Key) -> None:
        """Makes the key due now, before all others."""
        self._urgent[key] = None
        self.add(key)

    async def run(self, handler: Handler, workers: int) -> None:
        """Runs due keys for ever, at most `workers` of them at once. After a cancellation it can be run again."""
        self._running.clear()
        self._heap = [(due, key) for key, due in self._due.items()]
        heapq.heapify(self._heap)
        slots = asyncio.Semaphore(workers)
        async with asyncio.TaskGroup() as tasks:
            while True:
                key = await self._next()
                await slots.acquire()
                tasks.create_task(self._run_one(key, handler, slots), name=f"reconcile {key.namespace}/{key.name}")

    async def _next(self) -> Key:
        """Waits for the next due key and marks it as running."""
        while True:
            self._health.beat("queue")
            self._metrics.queue_depth.set(len(self._due))
            wait = self._time_to_next()
            if wait <= 0:
                return self._take(self._most_urgent() or self._heap[0][1])
            self._changed.clear()
            try:
                async with asyncio.timeout(min(wait, _BEAT)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _most_urgent(self) -> Key | None:
        now = asyncio.get_running_loop().time()
        return next((key for key in self._urgent if key not in self._running and self._due[key] <= now), None)

    def _take(self, key: Key) -> Key:
        """Its entry in the heap is stale from here on."""
        del self._due[key]
        self._urgent.pop(key, None)
        self._running.add(key)
        return key

    def _time_to_next(self) -> float:
        while self._heap and self._is_stale(*self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] - asyncio.get_running_loop().time() if self._heap else float("inf")

    def _is_stale(self, due: float, key: Key) -> bool:
        return self._due.get(key) != due or key in self._running

    def _push(self, key: Key) -> None:
        """A running key is pushed when it is done."""
        if key not in self._running:
            heapq.heappush(self._heap, (self._due[key], key))
            self._changed.set()

    async def _run_one(self, key: Key, handler: Handler, slots: asyncio.Semaphore) -> None:
        delay: float | None = None
        try:
            with self._metrics.timed() as result:
                delay = await handler(key)
                result.append("ok")
            self._failures.pop(key, None)
        except ClusterError as error:
            delay = self._backoff(key, error.retry_after)
            logger.warning("reconcile failed", extra=kv(server=_name(key), error=error, retry_in=f"{delay:.1f}s"))
        except Exception:  # a bug in one ModelServer's reconcile must not end the others'
            delay = self._backoff(key, None)
            logger.exception("reconcile crashed", extra=kv(server=_name(key), retry_in=f"{delay:.1f}s"))
        finally:
            self._health.beat("queue")
            slots.release()
            self._done(key, delay)

    def _done(self, key: Key, delay: float | None) -> None:
        self._running.discard(key)
        earliest = asyncio.get_running_loop().time() + SPACING
        if key in self._due:
            self._due[key] = max(self._due[key], earliest)
            self._push(key)
        if delay is not None:
            self.add(key, max(delay, SPACING))

    def _backoff(self, key: Key, wanted: float | None) -> float:
        count = self._failures[key] = self._failures.get(key, 0) + 1
        return max(wanted or 0.0, jittered(min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(count - 1, 16))))


def jittered(delay: float) -> float:
    """Between half and all of it, so that many clients do not come back together."""
    return delay * random.uniform(0.5, 1.0)  # noqa: S311  spreads load, guards nothing


def _name(key: Key) -> str:
    return f"{key.namespace}/{key.name}"
