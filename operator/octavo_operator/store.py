"""What the operator has observed: fed by the watch, by the answers to its own writes, and by full lists.

An idle operator reads from here and asks the API server nothing. Three rules keep it true:
- an object never becomes older: resource versions are compared (they are ordered numbers since Kubernetes 1.35,
  KEP-5504, and were before in fact), so a late watch event cannot undo the answer to a write;
- an object that is gone does not come back: a list, or the answer to a write, that was under way when the watch told of
  the deletion is older than it;
- the watch does not report deletions that happened while it was broken, so a full list removes what it does not
  contain.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

from octavo_operator.core import names
from octavo_operator.core.footprint import part_of
from octavo_operator.core.observed import PodView, leads_to_activator, view_pod
from octavo_operator.core.profiles import BUILT_IN
from octavo_operator.core.routed import route_hosts

Raw = dict[str, Any]
Made = TypeVar("Made")

WATCHED: Final = (names.KIND, *(kind for kind in names.CHILD_KINDS if kind not in names.OPTIONAL_KINDS), "Pod")
LAST_VERSION: Final = sys.maxsize
"""Newer than any object: an empty list of this version forgets all."""
_KINDS: Final = (*WATCHED, *names.OPTIONAL_KINDS)


class Key(NamedTuple):
    """Namespace and name of a ModelServer."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Observed:
    """One ModelServer with everything that belongs to it. `server` is None when it is gone or going."""

    key: Key
    server: Raw | None
    children: Mapping[str, Raw]
    """By slot (core/manifest.py)."""
    pods: tuple[Raw, ...]
    """The replicas', of groups the leaders' (core/groups.py), without the activator's."""
    workers: tuple[Raw, ...] = ()
    """The other pods of groups."""


class Store:
    """Objects by kind and name, and pods by the ModelServer that they belong to."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[Key, Raw]] = {kind: {} for kind in _KINDS}
        self._gone: dict[str, dict[Key, int]] = {kind: {} for kind in _KINDS}
        """Resource versions of deletions, since the last list: a later list cannot contain what they ended."""
        self._pods: dict[Key, dict[str, Raw]] = {}
        self._views: dict[Key, PodView] = {}
        """Of pods, made once for each version: the samplers look at all of them every 2 s."""
        self._hosts: dict[str, set[Key]] = {}
        """HTTPRoutes by the host names that they ask for."""
        self._seen: dict[str, int] = dict.fromkeys(_KINDS, 0)
        self._changes = 0
        self.replicas = self.while_unchanged(self._find_replicas)
        """The pods that are replicas of known ModelServers, of groups the leaders."""
        self.served: set[str] = set()
        """The optional kinds that the cluster has, as of the last list."""
        self.profiles = BUILT_IN
        """Accelerator profiles, as of the last list."""

    def put(self, raw: Raw, *, watched: bool = False) -> Key | None:
        """Takes in an object, unless it is known or a newer one is. Returns the ModelServer that it is news of."""
        kind, version = raw["kind"], version_of(raw)
        if watched:
            self._seen[kind] = max(self._seen[kind], version)
        objects, own = self._objects[kind], _own_key(raw)
        known = version_of(objects[own]) if own in objects else self._gone[kind].get(own, -1)
        if version <= known:
            return None
        self._forget_hosts(objects.get(own))
        objects[own] = _shared(raw)
        self._index(objects[own], own)
        self._changes += 1
        return owner_key(raw)

    def remove(self, raw: Raw, *, watched: bool = False) -> Key | None:
        """Forgets an object. Returns the ModelServer that it concerned."""
        kind, own = raw["kind"], _own_key(raw)
        if watched:
            self._seen[kind] = max(self._seen[kind], version_of(raw))
            self._gone[kind][own] = version_of(raw)
        self._forget_hosts(self._objects[kind].pop(own, None))
        self._unindex(kind, own)
        self._changes += 1
        return owner_key(raw)

    def replace(self, kind: str, raws: Iterable[Raw], list_version: int) -> None:
        """Takes in a full list and forgets what it does not contain, unless that is newer than the list."""
        listed = {_own_key(raw): raw for raw in raws}
        for raw in [raw for own, raw in self._objects[kind].items() if own not in listed]:
            if version_of(raw) <= list_version:
                self.remove(raw)
        for raw in listed.values():
            self.put(raw)
        self._gone[kind] = {own: gone for own, gone in self._gone[kind].items() if gone > list_version}

    def observe(self, key: Key) -> Observed:
        """One ModelServer with everything that belongs to it."""
        server = self._objects[names.KIND].get(key)
        if server is not None and "deletionTimestamp" in server["metadata"]:
            server = None
        children = {kind + suffix: raw for kind, suffix in names.CHILDREN if (raw := self._child(key, kind, suffix))}
        pods = self._pods.get(key, {}).values()
        return Observed(
            key, server, children, tuple(filter(_is_replica, pods)), tuple(pod for pod in pods if _is_worker(pod))
        )

    def routes_beside(self, key: Key) -> tuple[Raw, ...]:
        """The HTTPRoutes of other ModelServers that ask for a host name that its own one asks for."""
        routes = self._objects["HTTPRoute"]
        own = routes.get(key)
        found = {each for host in route_hosts(own) for each in self._hosts[host]} - {key} if own else set[Key]()
        return tuple(routes[each] for each in sorted(found))

    def server(self, key: Key) -> Raw | None:
        """One ModelServer, also one that is going."""
        return self._objects[names.KIND].get(key)

    def asks_anew(self, raw: Raw) -> bool:
        """Whether it is a ModelServer that nobody has seen, or whose spec is another one than before."""
        known = self._objects[names.KIND].get(_own_key(raw)) if raw["kind"] == names.KIND else raw
        return known is None or known["metadata"].get("generation") != raw["metadata"].get("generation")

    def servers(self) -> tuple[Key, ...]:
        """All ModelServers."""
        return tuple(self._objects[names.KIND])

    def _find_replicas(self) -> tuple[tuple[Key, PodView], ...]:
        servers = self._objects[names.KIND]
        return tuple(
            (key, self._view(pod))
            for key, pods in self._pods.items()
            if key in servers
            for pod in pods.values()
            if _is_replica(pod)
        )

    def activators(self) -> Iterator[tuple[Key, PodView]]:
        """The activators' pods of those ModelServers whose Service leads to them now."""
        for key, service in self._objects["Service"].items():
            if leads_to_activator(service) and key in self._objects[names.KIND]:
                yield from ((key, self._view(pod)) for pod in self._pods.get(key, {}).values() if _is_activators(pod))

    def while_unchanged(self, make: Callable[[], Made]) -> Callable[[], Made]:
        """`make`, which reads the store, called again only when something in here has changed; else the same result.

        The samplers go through all pods every moment, and at rest for nothing.
        """
        made: list[tuple[int, Made]] = []

        def get() -> Made:
            if not made or made[0][0] != self._changes:
                made[:] = [(self._changes, make())]
            return made[0][1]

        return get

    def newest_watched(self, kind: str) -> int:
        """The newest resource version of that kind that the watch itself has delivered."""
        return self._seen[kind]

    def _view(self, pod: Raw) -> PodView:
        own = _own_key(pod)
        if own not in self._views:
            self._views[own] = view_pod(pod)
        return self._views[own]

    def _child(self, key: Key, kind: str, suffix: str) -> Raw | None:
        """A child under the ModelServer's name; under a longer name only if it is not another one's."""
        raw = self._objects[kind].get(Key(key.namespace, key.name + suffix))
        return raw if raw is not None and (not suffix or owner_key(raw) == key) else None

    def _index(self, raw: Raw, own: Key) -> None:
        if raw["kind"] == "HTTPRoute":
            for host in route_hosts(raw):
                self._hosts.setdefault(host, set()).add(own)
        if raw["kind"] == "Pod" and (key := owner_key(raw)) is not None:
            self._views.pop(own, None)
            self._pods.setdefault(key, {})[own.name] = raw

    def _forget_hosts(self, raw: Raw | None) -> None:
        if raw is None or raw["kind"] != "HTTPRoute":
            return
        for host in route_hosts(raw):
            self._hosts[host].discard(_own_key(raw))
            if not self._hosts[host]:
                del self._hosts[host]

    def _unindex(self, kind: str, own: Key) -> None:
        if kind != "Pod":
            return
        self._views.pop(own, None)
        for key in [key for key, pods in self._pods.items() if key.namespace == own.namespace and own.name in pods]:
            del self._pods[key][own.name]
            if not self._pods[key]:
                del self._pods[key]


def slim(raw: Mapping[str, Any]) -> Raw:
    """The object without managedFields, which nobody here reads and which are half of its size; of a pod's spec, which
    is most of what is kept for each replica, only what is asked of its node.
    """
    metadata = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
    spec = raw.get("spec", {})
    return {**raw, "metadata": metadata} | ({"spec": part_of(spec)} if "containers" in spec else {})


def _shared(value: Any) -> Any:  # noqa: ANN401  JSON
    """The same value with each string kept once: a thousand ModelServers' objects say the same words."""
    match value:
        case str():
            return sys.intern(value)
        case dict():
            return {sys.intern(key): _shared(item) for key, item in value.items()}
        case list():
            return [_shared(item) for item in value]
    return value


def version_of(raw: Mapping[str, Any]) -> int:
    """The resource version as a number; 0 where there is none."""
    return int(raw["metadata"].get("resourceVersion") or 0)


def owner_key(raw: Mapping[str, Any]) -> Key | None:
    """The ModelServer that an object is or belongs to, by its label."""
    metadata = raw["metadata"]
    name = metadata["name"] if raw["kind"] == names.KIND else names.server_of(_label(raw))
    return Key(metadata["namespace"], name) if name else None


def _label(raw: Mapping[str, Any]) -> str:
    return str(raw["metadata"].get("labels", {}).get(names.LABEL_MODEL_SERVER, ""))


def _is_replica(pod: Mapping[str, Any]) -> bool:
    return not (_is_activators(pod) or _is_worker(pod))


def _is_worker(pod: Mapping[str, Any]) -> bool:
    return names.is_workers(_label(pod))


def _is_activators(pod: Mapping[str, Any]) -> bool:
    return names.is_activators(_label(pod))


def _own_key(raw: Mapping[str, Any]) -> Key:
    return Key(raw["metadata"]["namespace"], raw["metadata"]["name"])
