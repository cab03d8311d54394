"""Routed: what Gateways say of an HTTPRoute -> what the ModelServer's owner is told."""

import copy

import pytest

from octavo_operator.core.events import status_events
from octavo_operator.core.names import Reason
from octavo_operator.core.routed import LATER_SECONDS, SOON_SECONDS, next_look, routed, view_route
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.store import Key, Store

NOW = 1_767_225_600.0
PUBLIC = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public", "namespace": "gateways"}


def said(parent=PUBLIC, generation=1, **conditions):
    """What one controller wrote: each condition as (status, reason, message)."""
    listed = [
        {"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": generation}
        for kind, (status, reason, message) in conditions.items()
    ]
    return {"parentRef": parent, "controllerName": "example.com/gateway", "conditions": listed}


TAKEN = {"Accepted": ("True", "Accepted", ""), "ResolvedRefs": ("True", "ResolvedRefs", "")}


def raw_route(*parents, name="chat", namespace="default", hosts=("chat.example.com",), created=1, to=(PUBLIC,)):
    return {
        "kind": "HTTPRoute",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "generation": 1,
            "resourceVersion": "7",
            "creationTimestamp": f"2026-01-0{created}T00:00:00Z",
            "labels": {"octavo.dev/modelserver": name},
        },
        "spec": {"parentRefs": list(to), **({"hostnames": list(hosts)} if hosts else {})},
        **({"status": {"parents": list(parents)}} if parents else {}),
    }


def verdict(raw, *others):
    return routed(view_route(raw), tuple(map(view_route, others)))


def test_a_gateway_that_takes_the_route_and_finds_the_backend():
    assert verdict(raw_route(said(**TAKEN))) == (True, Reason.ROUTE_ACCEPTED, "Gateway gateways/public takes the route")
    assert routed(None) is None


@pytest.mark.parametrize(
    ("conditions", "reason", "words"),
    [
        (
            {"Accepted": ("False", "NoMatchingListenerHostname", "no listener has chat.example.com")},
            Reason.ROUTE_REFUSED,
            "Gateway gateways/public: NoMatchingListenerHostname: no listener has chat.example.com",
        ),
        (
            {"Accepted": ("False", "NotAllowedByListeners", ""), "ResolvedRefs": ("False", "BackendNotFound", "")},
            Reason.ROUTE_REFUSED,
            "Gateway gateways/public: NotAllowedByListeners",
        ),
        (
            TAKEN | {"ResolvedRefs": ("False", "InvalidKind", "InferencePool is unknown")},
            Reason.BACKEND_REFUSED,
            "Gateway gateways/public: InvalidKind: InferencePool is unknown",
        ),
    ],
)
def test_a_gateway_that_does_not_is_quoted(conditions, reason, words):
    assert verdict(raw_route(said(**conditions))) == (False, reason, words)


def test_a_gateway_that_says_nothing_of_the_newest_route_is_named():
    raw = raw_route(said(generation=0, **TAKEN))
    for route in (raw_route(), raw, raw_route(said(Accepted=("Unknown", "Pending", "")))):
        status, reason, message = verdict(route)
        assert (status, reason) == (None, Reason.GATEWAY_SILENT)
        assert "Gateway gateways/public has said nothing" in message


def test_of_several_gateways_each_counts():
    near = {"name": "near", "sectionName": "https", "port": 8443}
    both = (PUBLIC, near)
    assert verdict(raw_route(said(**TAKEN), to=both))[2].startswith("Gateway default/near listener https port 8443 has")
    refused = said(near, Accepted=("False", "NoMatchingParent", ""))
    assert verdict(raw_route(said(**TAKEN), refused, to=both))[1] == Reason.ROUTE_REFUSED
    taken = said(near | {"namespace": "default"}, **TAKEN)
    assert verdict(raw_route(said(**TAKEN), taken, to=both))[0] is True


def test_a_controller_that_has_nothing_to_do_with_the_gateway_does_not_count():
    other = said(Accepted=("False", "NoMatchingParent", ""))
    for order in ((other, said(**TAKEN)), (said(**TAKEN), other)):
        assert verdict(raw_route(*order))[0] is True


def test_an_older_route_with_the_same_host_name_gets_the_requests():
    mine, older = raw_route(said(**TAKEN), created=2), raw_route(name="first", namespace="team-b")
    status, reason, message = verdict(mine, older)
    assert (status, reason) == (False, Reason.HOSTNAME_TAKEN)
    assert "chat.example.com at Gateway gateways/public is led to HTTPRoute team-b/first" in message
    assert verdict(older | {"status": mine["status"]}, mine)[0] is True, "nothing is taken from the older one"


@pytest.mark.parametrize(
    ("to", "hosts", "clash"),
    [
        ([PUBLIC | {"sectionName": "http"}], ["chat.example.com"], True),
        ([{"name": "public"}], ["chat.example.com"], False),
        ([PUBLIC], ["*.example.com"], False),
        ([PUBLIC], ["a.example.com", "chat.example.com"], True),
        ([PUBLIC], [], False),
    ],
)
def test_only_the_same_name_at_the_same_listener_is_taken(to, hosts, clash):
    older = raw_route(name="first", namespace="team-b", to=to, hosts=hosts)
    assert (verdict(raw_route(said(**TAKEN), created=2), older)[1] == Reason.HOSTNAME_TAKEN) is clash


def test_listeners_that_differ_are_not_the_same_one():
    sections = [[PUBLIC | {"sectionName": name}] for name in ("a", "b")]
    older, mine = (
        raw_route(name=name, created=day, to=to) for name, day, to in zip("xy", (1, 2), sections, strict=True)
    )
    mine["status"] = {"parents": [said(sections[1][0], **TAKEN)]}
    assert verdict(mine, older)[0] is True


def test_the_store_knows_who_asks_for_the_same_name():
    store, mine, other = Store(), raw_route(), raw_route(name="first", namespace="team-b")
    beside = lambda: [raw["metadata"]["name"] for raw in store.routes_beside(Key("default", "chat"))]  # noqa: E731
    assert beside() == []
    store.put(mine)
    assert beside() == []
    store.put(other)
    assert beside() == ["first"]
    renamed = copy.deepcopy(other) | {"spec": {"hostnames": ["other.example.com"]}}
    renamed["metadata"]["resourceVersion"] = "8"
    store.put(renamed)
    assert beside() == []
    again = copy.deepcopy(other)
    again["metadata"]["resourceVersion"] = "9"
    store.put(again)
    assert beside() == ["first"]
    store.remove(again)
    assert beside() == []


def condition(status, reason=Reason.GATEWAY_SILENT, seconds=0):
    moment = {0: "2026-01-01T00:00:00Z", 90: "2025-12-31T23:58:30Z"}[seconds]
    return {
        "type": "Routed",
        "status": status,
        "reason": reason,
        "message": "words",
        "observedGeneration": 1,
        "lastTransitionTime": moment,
    }


def test_a_route_is_looked_at_until_it_is_taken(raw_server):
    def pause(*conditions):
        return next_look(raw_server(status={"conditions": list(conditions)}), NOW)

    assert pause() is None
    assert pause(condition("True", Reason.ROUTE_ACCEPTED)) is None
    assert pause(condition("False", Reason.HOSTNAME_TAKEN)) is None, "the other one's end is seen in the store"
    assert pause(condition("Unknown")) == SOON_SECONDS
    assert pause(condition("False", Reason.ROUTE_REFUSED)) == SOON_SECONDS
    assert pause(condition("Unknown", seconds=90)) == LATER_SECONDS


def test_an_event_tells_of_a_refusal_once():
    before, after = (
        ModelServerStatus.model_validate({"conditions": [each]})
        for each in (condition("Unknown"), condition("False", Reason.ROUTE_REFUSED))
    )
    (event,) = status_events(before, after)
    assert (event.type, event.reason, event.note) == ("Warning", Reason.ROUTE_REFUSED, "words")
    assert status_events(after, after) == ()
    assert status_events(after, before) == ()
