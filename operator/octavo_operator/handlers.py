"""The only module that imports kopf: it watches, and translates what it hears into (kind, object) for the caller.

kopf's own ideas stay switched off: no finalizers (a stopped operator must not block a deletion), no annotations, no
events from log lines, no peering, no scanning for resources. `on.event` is level-based and asks for none of them.
"""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import kopf

from octavo_operator.cluster import Credentials
from octavo_operator.core import names
from octavo_operator.settings import Settings
from octavo_operator.store import WATCHED
from octavo_operator.workqueue import jittered

Listener = Callable[[str, bool, dict[str, Any]], None]
"""Called with the kind, whether the object is gone, and the object."""

_RESOURCES: Final = {kind: names.RESOURCES[kind] for kind in WATCHED}


class EndlessBackoffs:
    """1, 2, 4, 8, 8, … seconds, jittered, for ever: kopf's default gives up after 54 s, an upgrade takes longer.

    Not longer than 8 s: that is how late the operator may notice that the API server is back.
    """

    def __iter__(self) -> Iterator[float]:
        """A new sequence of delays."""
        return (jittered(2.0 ** min(step, 3)) for step in itertools.count())


class NoDiffs(kopf.DiffBaseStorage):
    """No past states: kopf copies and compares each object of each event with one, and nobody here reads what it finds.

    With a thousand ModelServers that was a sixth of the operator's work.
    """

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:  # noqa: ARG002  kopf's names
        """Nothing of an object counts."""
        return kopf.BodyEssence()

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        """Nothing was stored."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Nothing is stored."""


class NoProgress(kopf.ProgressStorage):
    """No handler of ours goes on later; kopf looks for the traces of such ones in the annotations of each object."""

    def fetch(self, *, key: str, body: kopf.Body) -> None:
        """Nothing was stored."""

    def store(self, *, key: str, record: object, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing is stored."""

    def purge(self, *, key: str, body: kopf.Body, patch: kopf.Patch) -> None:
        """Nothing is there."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: str | None) -> None:
        """Nobody waits for a change."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Nothing is there."""
        return essence


async def watch(settings: Settings, login: Callable[[], Awaitable[Credentials]], listener: Listener) -> None:
    """Watches until the process is asked to end (SIGTERM, SIGINT), or a watch fails for good: then it raises."""
    registry = kopf.OperatorRegistry()
    _register_login(registry, login)
    for kind, resource in _RESOURCES.items():
        _register(registry, kind, resource, listener)
    await kopf.operator(
        registry=registry,
        settings=_kopf_settings(),
        standalone=True,
        identity=_identity(settings.instance),
        clusterwide=not settings.watch_namespaces,
        namespaces=settings.watch_namespaces,
    )


def _identity(instance: str) -> Any:  # noqa: ANN401  kopf's type has no public name
    """Who we are to kopf. Its own guess looks the user up by number, and a container's user has no entry to find."""
    return instance


def _register_login(registry: kopf.OperatorRegistry, login: Callable[[], Awaitable[Credentials]]) -> None:
    @kopf.on.login(registry=registry)
    async def log_in(**_: object) -> kopf.ConnectionInfo:
        found = await login()
        return kopf.ConnectionInfo(
            server=found.server,
            ca_path=found.ca_path,
            insecure=found.insecure,
            scheme="Bearer" if found.token else None,
            token=found.token,
            certificate_path=found.certificate_path,
            private_key_path=found.private_key_path,
            username=found.username,
            password=found.password,
        )


def _register(registry: kopf.OperatorRegistry, kind: str, resource: names.Resource, listener: Listener) -> None:
    @kopf.on.event(*resource, registry=registry)
    async def hear(event: kopf.RawEvent, **_: object) -> None:
        raw = {"kind": kind, **event["object"]}
        listener(kind, event["type"] == "DELETED", raw)


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.persistence.diffbase_storage = NoDiffs()
    settings.persistence.progress_storage = NoProgress()
    settings.queueing.idle_timeout = 0.2  # of the task that each object gets: after a list there are thousands of them
    settings.networking.error_backoffs = EndlessBackoffs()
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 5
    settings.watching.server_timeout = 300
    settings.watching.chunk_size = 500
    settings.watching.reconnect_backoff = 1.0
    for _, _, plural in [resource for kind, resource in _RESOURCES.items() if kind != names.KIND]:
        settings.watching.label_selectors[plural] = names.LABEL_MODEL_SERVER
    return settings
