"""The scraper against real HTTP servers on loopback: what is a sample, and what is missing."""

import asyncio
from collections import Counter

import aiohttp
import pytest
from aiohttp import web

from octavo_operator.core import names
from octavo_operator.core.pace import DIRECT, RESTING
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.scraper import LARGEST_ANSWER, SETTLE_SECONDS, Scraper, Target, fetch
from octavo_operator.store import Key, Store

KEY = Key("default", "chat")
TEXT = "".join(
    f"{name} {value}\n"
    for name, value in {
        names.METRIC_RUNNING: 1,
        names.METRIC_WAITING: 2,
        names.METRIC_KV_USED: 30,
        names.METRIC_KV_CAPACITY: 100,
    }.items()
)


async def handle(request):
    kind = request.path.strip("/")
    if kind == "hang":
        await asyncio.sleep(60)
    if kind == "redirect":
        raise web.HTTPFound("/good")
    if kind == "endless":
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:  # until the client hangs up, which cancels the handler
            await answer.write(b"x" * 65536)
    texts = {"good": TEXT, "large": "#" * (LARGEST_ANSWER + 1), "fits": "#" * LARGEST_ANSWER}
    return web.Response(text=texts.get(kind, ""), status=200 if kind in texts else 500)


@pytest.fixture
async def server():
    runner = web.AppRunner(web.Application(), handler_cancellation=True, shutdown_timeout=0.1)
    runner.app.router.add_get("/{kind}", handle)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.fixture
async def session():
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def impatient():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
        yield session


@pytest.mark.parametrize("kind", ["good", "fits"])
async def test_a_plain_answer_is_taken(server, session, kind):
    assert await fetch(session, f"{server}/{kind}")


@pytest.mark.parametrize("kind", ["broken", "hang", "redirect", "large", "endless"])
async def test_everything_else_is_missing(server, impatient, kind):
    assert await fetch(impatient, f"{server}/{kind}") is None


async def test_nobody_there_is_missing(session):
    assert await fetch(session, "http://127.0.0.1:1/metrics") is None


@pytest.mark.parametrize(("address", "host"), [("10.1.2.3", "10.1.2.3"), ("fd00::1", "[fd00::1]")])
def test_addresses_of_both_families(address, host):
    assert Target(KEY, "uid", address, DIRECT).url == f"http://{host}:8000/metrics"


@pytest.fixture
def told():
    return []


@pytest.fixture
def scraper(raw_server, raw_pod, told):
    store, metrics = Store(), Metrics()
    store.put(raw_server())
    store.put(raw_pod("ready", ready=True))
    store.put(raw_pod("starting"))
    store.put(raw_pod("leaving", ready=True, terminating=True))
    return Scraper(store, metrics, Health(lambda: 0.0), period=1, tell=lambda *news: told.append(news))


def test_only_ready_pods_that_stay_are_asked(scraper):
    assert [target.uid for target in scraper._targets()] == ["uid-ready"]


@pytest.mark.parametrize(
    ("slo", "wanted"), [({"queueWait": "1s"}, True), ({"ttftP95": "1s"}, False), (None, False)], ids=str
)
def test_times_in_the_queue_are_kept_where_there_is_a_target_for_them(raw_server, raw_pod, slo, wanted):
    store = Store()
    scaling = {"maxReplicas": 3, "targets": {"waitingPerReplica": 2}} | ({"slo": slo} if slo else {})
    store.put(raw_server(autoscaling=scaling))
    store.put(raw_pod("ready", ready=True))
    scraper = Scraper(store, Metrics(), Health(lambda: 0.0), period=1, tell=lambda *_: None)
    (target,) = scraper._targets()
    scraper._forget_others([target])
    scraper._take(target, TEXT + '\noctavo_request_queue_time_seconds_bucket{le="+Inf"} 5\n')
    (window,) = scraper.windows(KEY).values()
    assert (window.samples[-1].queue_time is not None) == wanted


def test_an_answer_fills_the_window_and_a_bad_one_does_not(scraper):
    (target,) = scraper._targets()
    scraper._forget_others([target])
    scraper._take(target, TEXT)
    scraper._take(target, None)
    scraper._take(target, TEXT.replace("30", "NaN"))
    (window,) = scraper.windows(KEY).values()
    assert [sample.kv_used for sample in window.samples] == [30]


def test_an_answer_that_says_nothing_is_remembered_as_such(scraper):
    """G7: a replica that answers but cannot be read is another case than one that does not answer."""
    (target,) = scraper._targets()
    scraper._forget_others([target])
    scraper._take(target, None)
    assert scraper.windows(KEY)["uid-ready"].unusable is None
    scraper._take(target, "<html>hello</html>")
    assert scraper.windows(KEY)["uid-ready"].unusable is not None


def test_a_load_that_jumps_is_told_once_and_one_that_stays_or_falls_is_not(scraper, told):
    (target,) = scraper._targets()
    scraper._forget_others([target])
    idle = TEXT.replace(" 30\n", " 1\n").replace(" 2\n", " 0\n")
    for text in (idle, idle, TEXT):
        scraper._take(target, text)
    assert told == [(KEY, SETTLE_SECONDS)]
    for text in (idle, idle, None, "<html>hello</html>"):
        scraper._take(target, text)
    assert len(told) == 1


async def test_a_load_that_jumps_is_looked_at_again_soon(scraper, told, monkeypatch):
    """One sample is no burst; two are."""
    monkeypatch.setattr("octavo_operator.scraper.AGAIN_SECONDS", 0.0)
    target = Target(KEY, "uid-ready", "10.1.2.3", DIRECT)
    scraper._forget_others([target])
    idle, texts = TEXT.replace(" 30\n", " 1\n").replace(" 2\n", " 0\n"), []

    async def fetch(*_):
        return texts.pop(0)

    monkeypatch.setattr("octavo_operator.scraper.fetch", fetch)
    texts += [idle, idle]
    await scraper._ask(None, target)
    assert len(texts) == 1
    texts[:] = [TEXT, TEXT]
    await scraper._ask(None, target)
    assert (texts, len(told)) == ([], 2)
    assert scraper.windows(KEY)["uid-ready"].reading.waiting == 2


async def test_a_replica_that_hangs_delays_no_others_sample(raw_server, raw_pod, monkeypatch):
    store, told = Store(), asyncio.Event()
    store.put(raw_server())
    for name in ("hangs", "answers"):
        store.put(raw_pod(name, ready=True))
    scraper = Scraper(store, Metrics(), Health(lambda: 0.0), period=1, tell=lambda *_: told.set())
    forever, answers = asyncio.Event(), iter([None, TEXT])

    async def fetch(*_):
        text = next(answers)
        if text is None:
            await forever.wait()
        return text

    monkeypatch.setattr("octavo_operator.scraper.fetch", fetch)
    running = asyncio.create_task(scraper._scrape_all(None))
    async with asyncio.timeout(90):
        await told.wait()
    assert not running.done()
    forever.set()
    await running


def test_windows_of_pods_that_are_gone_are_forgotten(scraper):
    (target,) = scraper._targets()
    scraper._forget_others([target])
    scraper._take(target, TEXT)
    scraper._forget_others([])
    assert scraper.windows(KEY) == {}


def asked_in(scraper, seconds):
    """How often each replica is asked in so many seconds, at a round every second."""
    asked = Counter()
    for now in range(seconds):
        targets = scraper._targets()
        scraper._forget_others(targets)
        asked.update(target.uid for target in targets if scraper._is_due(target, float(now)))
    return asked


def test_replicas_that_nobody_scales_are_asked_seldom_and_at_once_when_they_come(raw_server, raw_pod):
    store = Store()
    store.put(raw_server())
    for number in range(20):
        store.put(raw_pod(f"fixed-{number}", ready=True))
    scraper = Scraper(store, Metrics(), Health(lambda: 0.0), period=1, tell=lambda *_: None)
    assert sum(asked_in(scraper, 1).values()) == 20
    fixed = asked_in(scraper, 600)
    assert all(15 <= number <= 30 for number in fixed.values())
    assert {window.pace for window in scraper.windows(KEY).values()} == {RESTING}
    scaled = raw_server(autoscaling={"maxReplicas": 4, "targets": {"waitingPerReplica": 3}})
    scaled["metadata"]["resourceVersion"] = "99999"
    store.put(scaled)
    assert set(asked_in(scraper, 10).values()) == {10}
    assert {window.pace for window in scraper.windows(KEY).values()} == {DIRECT}


async def test_replicas_that_are_asked_seldom_can_be_asked_now(raw_server, raw_pod, monkeypatch):
    async def fetch(*_):
        return TEXT

    monkeypatch.setattr("octavo_operator.scraper.fetch", fetch)
    store = Store()
    store.put(raw_server())
    store.put(raw_pod("ready", ready=True))
    scraper = Scraper(store, Metrics(), Health(lambda: 0.0), period=3600, tell=lambda *_: None)
    await scraper.refresh(KEY)  # before there is anything to ask with
    running = asyncio.create_task(scraper.run())

    def samples():
        return [len(window.samples) for window in scraper.windows(KEY).values()]

    async with asyncio.timeout(90):
        while samples() != [1]:  # noqa: ASYNC110  nothing tells of a sample that is no news
            await asyncio.sleep(0.01)
    await scraper.refresh(Key("default", "another"))
    assert samples() == [1]
    await scraper.refresh(KEY)
    assert samples() == [2]
    running.cancel()
