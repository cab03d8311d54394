"""The doorbell against activators' control ports on loopback: who is asked, what is told, what counts as silence."""

import asyncio
import itertools
import os
import time

import pytest
from aiohttp import web

from octavo_operator import doorbell as module
from octavo_operator.activator.control import make_control
from octavo_operator.activator.ledger import Ledger
from octavo_operator.activator.metrics import Metrics as ActivatorMetrics
from octavo_operator.core import names
from octavo_operator.doorbell import Bell, Doorbell
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.store import Key, Store

KEY = Key("default", "chat")
SECONDS = 90.0
NUMBERS = itertools.count(1)


class Activator:
    """A control port on an address of its own, where operators look for it."""

    def __init__(self):
        pid = os.getpid()
        self.address = f"127.{20 + pid % 20}.{pid // 20 % 250}.{next(NUMBERS)}"
        self.ledger = Ledger(100, "boot")
        self.app = make_control(self.ledger, ActivatorMetrics())

    async def start(self):
        self.runner = web.AppRunner(self.app, handler_cancellation=True, shutdown_timeout=0.1)
        await self.runner.setup()
        await web.TCPSite(self.runner, self.address, names.CONTROL_PORT).start()


@pytest.fixture
async def activator():
    activator = Activator()
    await activator.start()
    yield activator
    await activator.runner.cleanup()


def service(leads_to, version):
    metadata = {"name": "chat", "namespace": "default", "resourceVersion": str(version)}
    metadata["labels"] = names.labels("chat")
    return {"kind": "Service", "metadata": metadata, "spec": {"selector": leads_to("chat")}}


def activators_pod(raw_pod, address, name="activator", **more):
    pod = raw_pod(name, ready=True, **more)
    pod["metadata"]["labels"] = names.activator_labels("chat")
    pod["status"]["podIP"] = address
    return pod


class World:
    def __init__(self, raw_server):
        self.store, self.told, self.versions = Store(), asyncio.Queue(), itertools.count(1)
        self.store.put(raw_server())
        self.bell = Doorbell(
            self.store, Metrics(), Health(lambda: 0.0), lambda key, delay: self.told.put_nowait((key, delay))
        )

    def lead(self, leads_to):
        self.store.put(service(leads_to, next(self.versions)))

    async def held(self, check):
        """What the operator knows as soon as it is so."""
        async with asyncio.timeout(SECONDS):
            while not check(found := self.bell.held(KEY, time.time())):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
async def world(raw_server, monkeypatch):
    monkeypatch.setattr(module, "ROUND_SECONDS", 0.02)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.02)
    world = World(raw_server)
    task = asyncio.create_task(world.bell.run())
    yield world
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_held_request_is_told_at_once(world, activator, raw_pod):
    world.store.put(activators_pod(raw_pod, activator.address))
    world.lead(names.activator_selector)
    await world.held(lambda held: held is not None and held.requests == 0)
    assert world.told.empty()
    with activator.ledger.hold(40):
        async with asyncio.timeout(SECONDS):
            assert await world.told.get() == (KEY, 0.0)
        held = await world.held(lambda held: held is not None)
        assert (held.requests, held.tokens) == (1, 10)
    await world.held(lambda held: held is not None and held.requests == 0)
    assert world.told.empty(), "one that is gone is no news"


async def test_nothing_is_asked_while_the_service_leads_to_the_replicas(world, activator, raw_pod):
    world.store.put(activators_pod(raw_pod, activator.address))
    world.lead(names.selector)
    assert world.bell._bells() == set()
    world.lead(names.activator_selector)
    assert world.bell._bells() == {Bell(KEY, "uid-activator", activator.address)}
    await world.held(lambda held: held is not None)
    world.lead(names.selector)
    await world.held(lambda held: held is None)


async def test_replicas_are_no_activators_and_activators_no_replicas(world, raw_pod):
    world.store.put(raw_pod("replica", ready=True))
    world.store.put(activators_pod(raw_pod, "10.0.0.9"))
    world.lead(names.activator_selector)
    assert {bell.uid for bell in world.bell._bells()} == {"uid-activator"}
    assert [pod["metadata"]["name"] for pod in world.store.observe(KEY).pods] == ["replica"]
    assert [pod.name for _, pod in world.store.replicas()] == ["replica"]


async def test_one_that_ends_is_asked_for_what_it_still_holds(world, activator, raw_pod):
    ending = Activator()
    await ending.start()
    world.store.put(activators_pod(raw_pod, activator.address))
    world.store.put(activators_pod(raw_pod, ending.address, "ending", terminating=True))
    world.lead(names.activator_selector)
    with ending.ledger.hold(4), activator.ledger.hold(4):
        await world.held(lambda held: held is not None and held.requests == 2)
    await ending.runner.cleanup()
    await world.held(lambda held: held is None)


async def test_an_activator_that_does_not_answer_is_unknown_and_counts_anew_when_it_does(world, activator, raw_pod):
    world.store.put(activators_pod(raw_pod, activator.address))
    world.lead(names.activator_selector)
    await world.held(lambda held: held is not None and held.seconds > 0.3)
    await activator.runner.cleanup()
    await world.held(lambda held: held is None)
    begun = time.time()
    activator.app = make_control(Ledger(100, "restarted"), ActivatorMetrics())
    await activator.start()
    (report,) = [report for report in await reports(world) if report]
    assert report.version.startswith("restarted")
    assert report.since >= begun


async def reports(world):
    await world.held(lambda held: held is not None)
    return world.bell._reports.values()


async def test_garbage_is_no_answer(world, raw_pod, monkeypatch):
    async def fetch(*_):
        return '{"version": "x", "held": NaN, "tokens": 0}'

    monkeypatch.setattr(module, "fetch", fetch)
    world.store.put(activators_pod(raw_pod, "10.0.0.9"))
    world.lead(names.activator_selector)
    async with asyncio.timeout(SECONDS):
        while not world.bell._metrics.looks.labels(result="invalid")._value.get():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert world.bell.held(KEY, time.time()) is None
    assert world.told.empty()
