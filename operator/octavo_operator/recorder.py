"""Posts events of events.k8s.io/v1 about ModelServers.

The same note is posted at most once in ten minutes and the same reason at most twice in 30 s, per ModelServer: an
event is for people. A lost event is logged and forgotten; the status says the same.
"""

import logging
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from octavo_operator.cluster import Cluster
from octavo_operator.core import names
from octavo_operator.core.errors import ClusterError
from octavo_operator.core.events import Event
from octavo_operator.logs import kv
from octavo_operator.store import Key, Raw

SAME_NOTE_SECONDS: Final = 600.0
SAME_REASON_SECONDS: Final = 30.0
SAME_REASON_BURST: Final = 2
_NOTE_LIMIT: Final = 1000
"""Bytes; the API server takes 1024."""

logger = logging.getLogger(__name__)


class Limiter:
    """Which events are worth posting; `now` is an argument."""

    def __init__(self) -> None:
        self._posted: dict[Key, list[tuple[float, Event]]] = {}

    def admits(self, key: Key, event: Event, now: float) -> bool:
        """Whether to post the event now; if so it counts as posted."""
        recent = [(at, old) for at, old in self._posted.get(key, []) if now - at < SAME_NOTE_SECONDS]
        same_reason = sum(1 for at, old in recent if old.reason == event.reason and now - at < SAME_REASON_SECONDS)
        admitted = same_reason < SAME_REASON_BURST and all(old != event for _, old in recent)
        self._posted[key] = [*recent, (now, event)] if admitted else recent
        return admitted

    def forget(self, key: Key) -> None:
        """Drops what is known about a ModelServer."""
        self._posted.pop(key, None)


class Recorder:
    """Posts what the limiter admits."""

    def __init__(self, cluster: Cluster, instance: str) -> None:
        self._cluster = cluster
        self._instance = instance
        self._limiter = Limiter()

    async def record(self, key: Key, server: Raw, events: Iterable[Event]) -> None:
        """Posts the events about a ModelServer, and logs them."""
        for event in events:
            if self._limiter.admits(key, event, time.time()):
                logger.info(event.note, extra=kv(server=f"{key.namespace}/{key.name}", reason=event.reason))
                await self._post(key, server, event)

    def forget(self, key: Key) -> None:
        """Drops what is known about a ModelServer."""
        self._limiter.forget(key)

    async def _post(self, key: Key, server: Raw, event: Event) -> None:
        try:
            await self._cluster.create_event(key.namespace, self._body(key, server, event))
        except ClusterError as error:
            logger.warning("event lost", extra=kv(server=f"{key.namespace}/{key.name}", error=error))

    def _body(self, key: Key, server: Raw, event: Event) -> Raw:
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": f"{key.name}.{uuid.uuid4().hex[:16]}", "namespace": key.namespace},
            "eventTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "type": event.type,
            "reason": event.reason,
            "action": event.action,
            "note": event.note.encode()[:_NOTE_LIMIT].decode(errors="ignore"),
            "reportingController": names.FIELD_MANAGER,
            "reportingInstance": self._instance,
            "regarding": {
                "apiVersion": names.API_VERSION,
                "kind": names.KIND,
                "namespace": key.namespace,
                "name": key.name,
                "uid": server["metadata"]["uid"],
                "resourceVersion": server["metadata"]["resourceVersion"],
            },
        }
