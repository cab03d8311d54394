"""How far a start is and how long starts take: what replicas say on /startupz, and what their pods show."""

import asyncio
import json

import pytest
from aiohttp import web

from octavo_operator import startups as startups_module
from octavo_operator.core import names
from octavo_operator.core.clock import to_timestamp
from octavo_operator.core.course import Course, typical
from octavo_operator.core.observed import view_pod
from octavo_operator.core.startup import (
    LONGEST_STARTUP_SECONDS,
    Progress,
    describe_startup,
    furthest,
    parse_progress,
    startup_p90,
)
from octavo_operator.core.status_model import Startup
from octavo_operator.health import Health
from octavo_operator.startups import Startups
from octavo_operator.store import Key, Store

BORN = 1_800_000_000.0


def raw_pod(name="chat-1", *, ready_after=None, scheduled=2, started=10, address="127.0.0.1"):
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": to_timestamp(BORN + scheduled)}]
    if ready_after is not None:
        moment = to_timestamp(BORN + ready_after)
        conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": moment})
    running = {"running": {"startedAt": to_timestamp(BORN + started)}} if started is not None else {}
    labels = {names.LABEL_MODEL_SERVER: "chat"}
    metadata = {"name": name, "namespace": "team", "uid": name, "creationTimestamp": to_timestamp(BORN)}
    return {
        "kind": "Pod",
        "metadata": metadata | {"labels": labels, "resourceVersion": "5"},
        "spec": {},
        "status": {
            "podIP": address,
            "conditions": conditions,
            "containerStatuses": [{"name": "runtime", "state": running, "image": "x"}],
        },
    }


def pods(*seconds, **more):
    return tuple(view_pod(raw_pod(f"chat-{index}", ready_after=value, **more)) for index, value in enumerate(seconds))


# --- what a replica says ---


def test_a_fetch_says_its_share_and_the_time_that_is_left():
    text = json.dumps({"phase": "fetch", "progress": 0.478, "seconds": 9, "seconds_left": 61.7})
    assert parse_progress(text) == Progress("fetch", 45, 62)
    assert str(parse_progress(text)) == "fetching the model, 45 %"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        '{"phase": "fetch"}',
        '{"phase": "lunch", "progress": 0.5}',
        '{"phase": ["fetch"], "progress": 0.5}',
        '{"phase": "fetch", "progress": NaN}',
        '{"phase": "fetch", "progress": 1.5}',
        '{"phase": "fetch", "progress": -1}',
        '{"phase": "fetch", "progress": "half"}',
        '{"phase": "ready", "progress": 1}',
    ],
)
def test_what_is_no_progress_is_none(text):
    assert parse_progress(text) is None


@pytest.mark.parametrize("left", [-1, float("nan"), 1e300, "soon", None])
def test_a_time_that_makes_no_sense_is_left_out(left):
    text = json.dumps({"phase": "fetch", "progress": 0.5, "seconds_left": left})
    assert parse_progress(text) == Progress("fetch", 50, None)


def test_the_furthest_speaks_for_all():
    found = [Progress("fetch", 90), Progress("weights", 5), Progress("weights", 40)]
    assert furthest(found) == Progress("weights", 40)
    assert furthest([]) is None


# --- what pods show ---


def test_the_parts_of_a_start_are_told_apart():
    said = describe_startup(pods(30, 40, 50), None, None)
    assert (said.p50_seconds, said.p90_seconds) == (40, 50)
    assert (said.scheduling_seconds, said.pulling_seconds, said.loading_seconds) == (2, 8, 30)
    assert (said.phase, said.progress_percent) == (None, None)


def test_what_was_learned_stays_when_the_replicas_are_gone_and_progress_does_not():
    before = describe_startup(pods(30), Progress("fetch", 40, 9), None)
    assert (before.phase, before.progress_percent, before.eta_seconds) == ("fetch", 40, 9)
    after = describe_startup((), None, before)
    assert (after.phase, after.progress_percent, after.eta_seconds, after.p50_seconds) == (None, None, None, 30)


def test_nothing_known_is_nothing_said():
    assert describe_startup((), None, None) is None
    assert describe_startup((), None, Startup(phase="fetch")) is None
    assert describe_startup((), Progress("weights", 0), None) == Startup(phase="weights", progress_percent=0)


def test_the_phases_of_loading_are_told_apart_and_outlive_the_process_that_saw_them():
    seen = {"process": 1, "fetch": 20, "weights": 7, "warmup": 2}
    said = describe_startup(pods(30), None, None, seen)
    assert (said.fetch_seconds, said.weights_seconds, said.warmup_seconds) == (20, 7, 2)
    later = describe_startup(pods(30), None, said, {"weights": 9})
    assert (later.fetch_seconds, later.weights_seconds, later.warmup_seconds) == (20, 9, 2)
    assert describe_startup((), None, later).fetch_seconds == 20


def watched_from(*looks, began=0.0):
    course = Course(began)
    for moment, phase in looks:
        course = course.at(phase, moment)
    return course


def test_a_phase_lasts_until_the_next_one_is_seen():
    course = watched_from((2, "process"), (4, "fetch"), (6, "fetch"), (30, "weights"), (40, "warmup"))
    assert course.lengths(42) == {"process": 4, "fetch": 26, "weights": 10, "warmup": 2}
    assert watched_from().lengths(42) == {}
    assert watched_from((2, "process"), (3, "fetch")).lengths(1)["fetch"] == 0  # another clock


def test_of_a_start_that_was_joined_in_the_middle_the_first_phase_is_not_known():
    assert watched_from((100, "fetch"), (130, "weights")).lengths(140) == {"weights": 10}


def test_the_median_start_counts():
    starts = [{"fetch": 10.0, "weights": 5.0}, {"fetch": 30.0}, {"fetch": 20.4}]
    assert typical(starts) == {"fetch": 20, "weights": 5}
    assert typical([]) == {}


def test_what_cannot_be_a_start_teaches_nothing():
    late = LONGEST_STARTUP_SECONDS + 1
    assert startup_p90(pods(late, -5)) is None
    assert startup_p90(pods(late, 20)) == 20
    assert describe_startup(pods(late), None, None) is None


# --- the shell ---


@pytest.fixture
async def replica(monkeypatch):
    """Answers /startupz with what the test says; `asked` counts."""
    said = {"status": 503, "body": {"phase": "fetch", "progress": 0.3, "seconds_left": 8}, "asked": 0, "now": BORN + 12}

    async def answer(_):
        said["asked"] += 1
        return web.json_response(said["body"], status=said["status"])

    app = web.Application()
    app.router.add_get("/startupz", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    monkeypatch.setattr(names, "PORT", runner.addresses[0][1])
    monkeypatch.setattr(startups_module, "PERIOD_SECONDS", 0.01)
    yield said
    await runner.cleanup()


@pytest.fixture
async def watched(raw_server, replica):
    """Startups that run over a store with a ModelServer; what they tell is kept."""
    store, told = Store(), []
    server = raw_server()
    server["metadata"] |= {"name": "chat", "namespace": "team"}
    store.put(server)
    startups = Startups(store, Health(lambda: 0.0), lambda key, _: told.append(key), lambda: replica["now"])
    task = asyncio.create_task(startups.run())
    yield store, startups, told, replica
    task.cancel()


async def until(check):
    async with asyncio.timeout(90):
        while not check():  # noqa: ASYNC110  what is waited for is no task's of ours
            await asyncio.sleep(0.01)


async def test_a_starting_replica_is_asked_and_its_news_is_told_once(watched):
    store, startups, told, said = watched
    key = Key("team", "chat")
    store.put(raw_pod())
    await until(lambda: startups.of(key) == Progress("fetch", 30, 8))
    asked = said["asked"]
    await until(lambda: said["asked"] > asked + 3)
    assert told == [key]
    said["body"] = {"phase": "weights", "progress": 0.0}
    await until(lambda: startups.of(key) == Progress("weights", 0))
    assert told == [key, key]


async def test_nobody_is_asked_who_serves_or_does_not_run(watched):
    store, startups, _, said = watched
    store.put(raw_pod("ready", ready_after=30))
    store.put(raw_pod("waiting", started=None))
    await asyncio.sleep(0.2)
    assert said["asked"] == 0
    assert startups.of(Key("team", "chat")) is None


async def test_a_replica_that_serves_is_not_starting_any_more(watched):
    store, startups, _, _ = watched
    store.put(raw_pod())
    await until(lambda: startups.of(Key("team", "chat")))
    served = raw_pod(ready_after=30)
    served["metadata"]["resourceVersion"] = "6"
    store.put(served)
    await until(lambda: startups.of(Key("team", "chat")) is None)


async def test_a_start_that_was_watched_teaches_how_long_its_phases_take(watched):
    store, startups, _, said = watched
    key, served = Key("team", "chat"), raw_pod(ready_after=47)
    store.put(raw_pod())  # its container has run since 10
    await until(lambda: startups.of(key) == Progress("fetch", 30, 8))
    said["body"], said["now"] = {"phase": "weights", "progress": 0.0}, BORN + 40
    await until(lambda: startups.of(key) == Progress("weights", 0))
    assert startups.phases(key) == {}
    served["metadata"]["resourceVersion"] = "6"
    store.put(served)
    await until(lambda: startups.phases(key) == {"fetch": 30, "weights": 7})
