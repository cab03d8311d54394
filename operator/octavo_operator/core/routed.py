"""Whether Gateways lead requests here: what they say of the HTTPRoute -> the condition Routed.

    Routed   True      every Gateway of networking.httpRoute takes the route and finds what it leads to
             False     RouteRefused: one does not take it; BackendRefused: it does and cannot lead it on (its words)
                       HostnameTaken: all do, and an older HTTPRoute of another ModelServer has the host name there
             Unknown   GatewaySilent: one has said nothing of the newest route
             absent    there is no HTTPRoute

A Gateway that does not exist, or whose controller does not run, says nothing at all. Two routes with the same host name
are both taken, and the Gateway API gives the requests to the older one: nobody but us tells the younger one's owner.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.names import Condition, Reason

Raw = Mapping[str, Any]

YOUNG_SECONDS: Final = 60.0
SOON_SECONDS: Final = 2.0
LATER_SECONDS: Final = 60.0
"""Between two looks at a route that a Gateway has not taken, while that is news and then: no watch tells of it."""

_NAMED_ANY: Final = ""
"""What a route without host names asks for: those of the listener."""


class Parent(NamedTuple):
    """A Gateway, or one of its listeners by name, by port or by both."""

    namespace: str
    name: str
    section: str | None
    port: int | None

    def __str__(self) -> str:
        """As it is written in a message."""
        section = f" listener {self.section}" if self.section else ""
        return f"Gateway {self.namespace}/{self.name}{section}" + (f" port {self.port}" if self.port else "")

    def overlaps(self, other: "Parent") -> bool:
        """Whether both name a listener that is the same one."""
        same = (self.namespace, self.name) == (other.namespace, other.name)
        return same and _alike(self.section, other.section) and _alike(self.port, other.port)


class Refusal(NamedTuple):
    """Why a Gateway does not lead requests on."""

    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class RouteView:
    """One HTTPRoute."""

    namespace: str
    name: str
    created: str
    hostnames: tuple[str, ...]
    parents: tuple[Parent, ...]
    answers: Mapping[Parent, Refusal | None]
    """Of the Gateways that have spoken of the newest route: None where all is well."""

    @property
    def silent(self) -> tuple[Parent, ...]:
        """The Gateways that have not."""
        return tuple(parent for parent in self.parents if parent not in self.answers)

    @property
    def precedence(self) -> tuple[str, str, str]:
        """The Gateway API's: the lower one gets the requests."""
        return self.created, self.namespace, self.name


def view_route(raw: Raw) -> RouteView:
    """The facts of a raw HTTPRoute."""
    metadata, spec = raw["metadata"], raw.get("spec", {})
    namespace = metadata["namespace"]
    return RouteView(
        namespace,
        metadata["name"],
        metadata.get("creationTimestamp", ""),
        route_hosts(raw),
        tuple(_parent(reference, namespace) for reference in spec.get("parentRefs", ())),
        dict(_answers(raw, namespace)),
    )


def route_hosts(raw: Raw) -> tuple[str, ...]:
    """What names a raw HTTPRoute asks for."""
    return tuple(raw.get("spec", {}).get("hostnames", ())) or (_NAMED_ANY,)


def routed(route: RouteView | None, others: Iterable[RouteView] = ()) -> tuple[bool | None, str, str] | None:
    """Status, reason and message of the condition, None where there is no route; `others` are those of other
    ModelServers that ask for one of its host names.
    """
    if route is None:
        return None
    refused = [(parent, said) for parent, said in route.answers.items() if said is not None and parent in route.parents]
    if refused:
        return False, refused[0][1].reason, "; ".join(f"{parent}: {said.words}" for parent, said in refused)
    if route.silent:
        silent = " and ".join(map(str, route.silent))
        return (
            None,
            Reason.GATEWAY_SILENT,
            f"{silent} has said nothing of it: is it there, and does its controller run?",
        )
    if taken := next(_taken(route, others), None):
        return False, Reason.HOSTNAME_TAKEN, taken
    return True, Reason.ROUTE_ACCEPTED, " and ".join(f"{parent} takes the route" for parent in route.parents)


def next_look(server: Raw, now: float) -> float | None:
    """Seconds until a raw ModelServer's route should be looked at again; None where Gateways have taken it."""
    conditions = server.get("status", {}).get("conditions", ())
    told: Raw = next((item for item in conditions if item["type"] == Condition.ROUTED), {})
    if not told or told["status"] == "True" or told["reason"] == Reason.HOSTNAME_TAKEN:
        return None
    young = 0 <= now - from_timestamp(told["lastTransitionTime"]) < YOUNG_SECONDS
    return SOON_SECONDS if young else LATER_SECONDS


def _taken(route: RouteView, others: Iterable[RouteView]) -> Iterator[str]:
    """A sentence for each older route that has a host name of this one at one of its Gateways."""
    for other in sorted(others, key=lambda each: each.precedence):
        names = [host for host in route.hostnames if host in other.hostnames]
        shared = [mine for mine in route.parents for theirs in other.parents if mine.overlaps(theirs)]
        if names and shared and other.precedence < route.precedence:
            what = " and ".join(names) if names != [_NAMED_ANY] else "every host name"
            yield (
                f"{what} at {shared[0]} is led to HTTPRoute {other.namespace}/{other.name}, which is older: "
                "write another name into networking.httpRoute.hostnames"
            )


def _alike(mine: str | int | None, theirs: str | int | None) -> bool:
    return mine is None or theirs is None or mine == theirs


def _parent(reference: Raw, namespace: str) -> Parent:
    where = reference.get("namespace") or namespace
    return Parent(where, reference["name"], reference.get("sectionName"), reference.get("port"))


def _answers(raw: Raw, namespace: str) -> Iterator[tuple[Parent, Refusal | None]]:
    """What controllers wrote for this generation; of several for one Gateway, the one that takes the route counts."""
    found = []
    for status in raw.get("status", {}).get("parents", ()):
        conditions = {item["type"]: item for item in status.get("conditions", ())}
        if _is_current(conditions.get("Accepted"), raw["metadata"].get("generation", 0)):
            found.append((_parent(status["parentRef"], namespace), _refusal(conditions)))
    yield from sorted(found, key=lambda item: item[1] is None)


def _is_current(accepted: Raw | None, generation: int) -> bool:
    if accepted is None or accepted.get("status") == "Unknown":
        return False
    return bool(accepted.get("observedGeneration", generation) >= generation)


def _refusal(conditions: Mapping[str, Raw]) -> Refusal | None:
    """Why not, if so: the route is not taken, or leads to something that the Gateway cannot lead to."""
    for kind, reason in (("Accepted", Reason.ROUTE_REFUSED), ("ResolvedRefs", Reason.BACKEND_REFUSED)):
        said = conditions.get(kind, {})
        if said.get("status") == "False":
            words = f": {said['message']}" if said.get("message") else ""
            return Refusal(reason, f"{said.get('reason', 'no reason')}{words}")
    return None
