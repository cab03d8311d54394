"""Which replicas go: pods and their samples -> the marks that the ReplicaSet's controller goes by."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.desired import Scaler
from octavo_operator.core.exposition import Sample
from octavo_operator.core.manifest import Defaults
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.observed import Ending, PodView, ending, view_pod
from octavo_operator.core.proposal import propose
from octavo_operator.core.server import parse_server
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.victims import choose, make_marks
from octavo_operator.core.window import Window
from octavo_operator.departures import Departures
from octavo_operator.store import Key

NOW = 1_800_000_000.0
COST = "controller.kubernetes.io/pod-deletion-cost"


def pod(name, *, ready=True, since=NOW - 600, terminating=False, marked=False):
    return PodView(
        uid=f"uid-{name}",
        name=name,
        ip="10.0.0.1",
        ready=ready,
        ready_since=since,
        terminating=terminating,
        created="",
        revision="r1",
        problem=None,
        marked=marked,
    )


def holding(used, waiting_tokens=0, at=NOW - 1):
    return Window().add(Sample(at, running=1, waiting=0, kv_used=used, kv_capacity=1000, waiting_tokens=waiting_tokens))


def chosen(pods, tokens, excess):
    windows = {f"uid-{name}": holding(used) for name, used in tokens.items()}
    return {uid.removeprefix("uid-") for uid in choose(tuple(pods), windows, excess, NOW)}


ABC = (pod("a"), pod("b"), pod("c"))


@pytest.mark.parametrize(
    ("pods", "tokens", "excess", "expected"),
    [
        (ABC, {"a": 500, "b": 10, "c": 300}, 1, {"b"}),
        (ABC, {"a": 500, "b": 10, "c": 300}, 2, {"b", "c"}),
        (ABC, {"a": 0, "c": 300}, 1, {"a"}),
        (ABC, {"a": 500, "c": 900}, 1, {"a"}),  # b is silent: perhaps it has too much to do to answer
        (ABC, {}, 1, set()),
        ((*ABC, pod("d", ready=False)), {"a": 500, "b": 10, "c": 300}, 1, set()),  # the one that does not serve goes
        ((*ABC, pod("d", ready=False)), {"a": 500, "b": 10, "c": 300}, 2, {"b"}),
        ((*ABC, pod("d", terminating=True)), {"a": 5, "b": 10, "c": 3, "d": 0}, 1, {"c"}),
        ((pod("old"), pod("young", since=NOW - 60)), {"old": 7, "young": 7}, 1, {"young"}),  # its cache is colder
    ],
)
def test_the_idlest_go(pods, tokens, excess, expected):
    assert chosen(pods, tokens, excess) == expected


def test_requests_that_wait_count_and_old_samples_do_not():
    windows = {"uid-a": holding(10, waiting_tokens=900), "uid-b": holding(500), "uid-c": holding(0, at=NOW - 60)}
    assert choose(ABC, windows, 1, NOW) == {"uid-b"}


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.integers(0, 9))
def test_nobody_goes_who_holds_more_than_one_who_stays(tokens, excess):
    pods = [pod(str(index)) for index in range(len(tokens))]
    held = {str(index): used for index, used in enumerate(tokens)}
    going = chosen(pods, held, excess)
    assert len(going) == min(excess, len(tokens))
    staying = [used for name, used in held.items() if name not in going]
    assert max((held[name] for name in going), default=0) <= min(staying, default=1000)


def test_marks_are_written_where_they_are_missing_and_taken_back_where_they_are_left_over():
    windows = {f"uid-{name}": holding(used) for name, used in {"a": 500, "b": 10, "c": 300}.items()}
    pods = (pod("a", marked=True), pod("b"), pod("c"))
    marks = make_marks("default", pods, windows, 1, NOW)
    assert [(mark["metadata"]["name"], mark["metadata"].get("annotations")) for mark in marks] == [
        ("a", None),
        ("b", {COST: "-1"}),
    ]
    assert all(mark["metadata"]["uid"] and mark.keys() == {"apiVersion", "kind", "metadata"} for mark in marks)
    assert make_marks("default", (pod("a"), pod("b", marked=True), pod("c")), windows, 1, NOW) == ()


@pytest.mark.parametrize(("wanted", "marks"), [(1, ["chat-2"]), (2, []), (3, []), (0, [])])
def test_a_plan_marks_before_fewer_are_wanted_and_only_then(raw_server, raw_deployment, raw_pod, wanted, marks):
    pods = tuple(raw_pod(f"chat-{number}", ready=True) for number in (1, 2))
    windows = {"uid-chat-1": holding(500), "uid-chat-2": holding(10)}
    proposal = propose(
        parse_server(raw_server(replicas=wanted)),
        ModelServerStatus(),
        children={"Deployment": raw_deployment(2)},
        pods=pods,
        windows=windows,
        scaler=Scaler(None, ScalerMemory(0.0)),
        defaults=Defaults(runtime_image="example.invalid/runtime:1"),
        now=NOW,
    )
    assert [mark["metadata"]["name"] for mark in proposal.plan.marks] == marks


def last_words(raw_pod, text):
    state = {"terminated": {"exitCode": 0, "reason": "Completed", "message": text}}
    return raw_pod(container={"state": state}, terminating=True)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ('{"reason": "RequestsCut", "message": "3 requests cut", "requests": 3}\n', 3),
        ('{"reason": "RequestsCut", "message": "x"}', 0),
        ('{"reason": "RequestsCut", "requests": "many"}', 0),
        ('{"reason": "RequestsCut", "requests": -1}', 0),
        ('{"reason": "EngineFailed", "requests": 3}', 0),
        ("", 0),
    ],
)
def test_what_was_cut_is_read_from_the_last_words(raw_pod, text, cut):
    raw = last_words(raw_pod, text)
    assert ending(raw) == (Ending(0.0, cut) if cut else None)
    assert view_pod(raw).problem is None


def test_an_end_is_told_once_and_to_its_own_server(raw_pod):
    departures, told = Departures(), last_words(raw_pod, '{"reason": "RequestsCut", "requests": 3}')
    departures.see(told, gone=True)
    departures.see(told, gone=True)
    departures.see(raw_pod("other", ready=True), gone=True)
    assert departures.take(Key("default", "another")) == ()
    assert [(cut.pod, cut.requests) for cut in departures.take(Key("default", "chat"))] == [("chat-1", 3)]
    assert departures.take(Key("default", "chat")) == ()
    again = last_words(raw_pod, '{"reason": "RequestsCut", "requests": 4}')
    departures.see(again, gone=True)
    departures.forget_all()
    departures.see(again, gone=True)
    assert departures.take(Key("default", "chat")) == ()


def test_a_pod_that_stays_after_its_end_is_told_of_at_once_and_not_again(raw_pod):
    """A node that is taken away ends its pods by itself: they stay, as failed ones, until somebody cleans up."""

    def ended(finished, cut):
        words = json.dumps({"reason": "RequestsCut", "requests": cut})
        terminated = {"exitCode": 0, "reason": "Completed", "message": words, "finishedAt": finished}
        return raw_pod(container={"state": {"terminated": terminated}})

    departures, key = Departures(from_timestamp("2026-01-01T00:10:00Z")), Key("default", "chat")
    departures.see(ended("2026-01-01T00:10:05Z", 2), gone=False)
    assert [cut.requests for cut in departures.take(key)] == [2]
    departures.see(ended("2026-01-01T00:10:05Z", 2), gone=False)
    departures.see(ended("2026-01-01T00:10:05Z", 2), gone=True)
    assert departures.take(key) == ()
    departures.see(ended("2026-01-01T00:12:00Z", 1), gone=False)  # its container was started again, and has ended again
    assert [cut.requests for cut in departures.take(key)] == [1]
    departures.see(ended("2026-01-01T00:09:59Z", 5), gone=False)  # before this process: another one has told
    assert departures.take(key) == ()
