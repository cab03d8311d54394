"""Campaigns for the Lease, and lets the work run while this process holds it. The rules are in `core/lease.py`.

An outage of the API server ends the lead, not the process: once it answers again, the Lease is renewed, or lost to
somebody else. `Term` tells the two apart, so that what was remembered is kept where nobody else has led.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from octavo_operator.cluster import Cluster
from octavo_operator.core.errors import ClusterError, Unavailable
from octavo_operator.core.lease import NEVER, Candidate, Record, Timing
from octavo_operator.fence import Fence, monotonic
from octavo_operator.health import Health
from octavo_operator.logs import kv
from octavo_operator.metrics import Metrics
from octavo_operator.settings import Settings
from octavo_operator.store import Raw

_JITTER: Final = 0.2

logger = logging.getLogger(__name__)


class Term(NamedTuple):
    """One unbroken time of one holder."""

    transitions: int
    acquired: str


Lead = Callable[[Term], Coroutine[Any, Any, None]]
"""The work of a leader, for ever; it is cancelled when the lead is lost."""


class Election:
    """The part of one process in the election."""

    def __init__(self, cluster: Cluster, fence: Fence, settings: Settings, *, metrics: Metrics, health: Health) -> None:
        self._cluster = cluster
        self._fence = fence
        self._metrics = metrics
        self._health = health
        self._candidate = Candidate(settings.identity, Timing(settings.lease_duration))
        self._namespace, self._name = settings.lease_namespace, settings.lease_name
        self._must_look = True
        self._trouble = ""

    async def run(self, lead: Lead) -> None:
        """Campaigns and leads, in turn, until it is cancelled; then it gives the Lease back."""
        try:
            while True:
                await self._try()
                while not self._fence.is_open:
                    await self._pause()
                    await self._try()
                await self._serve_a_term(lead)
        finally:
            self._fence.lead_until = NEVER
            await self._release()

    async def _serve_a_term(self, lead: Lead) -> None:
        record = self._candidate.record
        assert record is not None, "the fence is open, so the Lease is ours"
        logger.info("leading", extra=kv(identity=record.holder, transitions=record.transitions))
        self._metrics.leader.set(1)
        try:
            async with asyncio.TaskGroup() as group:
                work = group.create_task(lead(Term(record.transitions, record.acquired)))
                await self._renew_until_lost()
                work.cancel()
        finally:
            self._metrics.leader.set(0)
            logger.info("not leading any more", extra=kv(identity=record.holder))

    async def _renew_until_lost(self) -> None:
        while self._fence.is_open:
            await self._pause()
            await self._try()

    async def _pause(self) -> None:
        """Until the next look; not quite regular, so that two candidates do not keep step."""
        await asyncio.sleep(self._candidate.pause(monotonic()) * random.uniform(1, 1 + _JITTER))  # noqa: S311  no secret

    async def _try(self) -> None:
        """One look, where it is needed, and one write, where the rules allow it."""
        self._health.beat("election")
        try:
            if self._must_look:
                await self._look()
            await self._write()
        except ClusterError as error:
            self._must_look = True
            self._complain(str(error))
        self._fence.lead_until = self._candidate.lead_until

    async def _look(self) -> None:
        raw = await self._cluster.get("Lease", self._namespace, self._name)
        record = Record.of(raw) if raw is not None else None
        version = raw["metadata"]["resourceVersion"] if raw is not None else ""
        self._candidate = self._candidate.observe(record, version, monotonic())

    async def _write(self) -> None:
        record = self._candidate.wish(_wall(), monotonic())
        self._must_look = True
        if record is None:
            return
        sent_at = monotonic()
        written = await self._cluster.write_lease(self._lease(record))
        self._candidate = self._candidate.won(record, written["metadata"]["resourceVersion"], sent_at, monotonic())
        self._must_look = False
        self._trouble = ""

    async def _release(self) -> None:
        """Whoever waits need not wait for the end of the Lease. Where this fails, they do.

        A renewal that was under way at the end may or may not have been written: a conflict is looked at once.
        """
        try:
            try:
                await self._give_back()
            except Unavailable as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
                await self._look()
                await self._give_back()
        except ClusterError as error:
            logger.warning("lease not released", extra=kv(error=error))

    async def _give_back(self) -> None:
        record = self._candidate.release(_wall())
        if record is not None:
            await self._cluster.write_lease(self._lease(record))
            logger.info("lease released", extra=kv(identity=self._candidate.identity))

    def _lease(self, record: Record) -> Raw:
        """The object to write: over the version that was seen, or a new one."""
        version = {"resourceVersion": self._candidate.version} if self._candidate.version else {}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace, **version},
            "spec": record.spec(),
        }

    def _complain(self, trouble: str) -> None:
        """Says the same only once: this is tried every other second."""
        if trouble != self._trouble:
            logger.warning("lease", extra=kv(error=trouble))
        self._trouble = trouble


def _wall() -> str:
    """Now, as people read it in the Lease; nothing is decided by it."""
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
