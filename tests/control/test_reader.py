"""The reader against a real Prometheus that scrapes replicas on loopback, and against servers that are none."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from cluster.processes import wait_until
from cluster.prometheus import Prometheus, Target
from octavo_operator.core import names
from octavo_operator.core.errors import PrometheusError, SettingsError
from octavo_operator.core.names import Reason
from octavo_operator.core.window import aggregate
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.prometheus import LARGEST_ANSWER, PrometheusClient
from octavo_operator.reader import PODS_PER_QUERY, Reader
from octavo_operator.samples import ChosenSamples
from octavo_operator.scraper import Scraper
from octavo_operator.settings import PrometheusServer
from octavo_operator.store import Key, Store

EXAMPLES = Path(__file__).parents[2] / "charts/octavo/examples"
KEY = Key("default", "chat")
SCALED = {"maxReplicas": 3, "targets": {"waitingPerReplica": 2}, "metrics": {"source": "Prometheus"}}
PATIENCE = 120.0


class Replica:
    """/metrics of one pod on loopback."""

    def __init__(self):
        self.values = {
            names.METRIC_RUNNING: 1.0,
            names.METRIC_WAITING: 2.0,
            names.METRIC_KV_USED: 30.0,
            names.METRIC_KV_CAPACITY: 100.0,
            names.METRIC_PROMPT_TOKENS: 0.0,
        }
        self.latencies = {"0.5": 0.0, "1.0": 0.0, "+Inf": 0.0}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def text(self):
        lines = [f'{name}{{model_name="m"}} {value}' for name, value in self.values.items()]
        lines += [
            f'{names.METRIC_TTFT}_bucket{{model_name="m",le="{le}"}} {count}' for le, count in self.latencies.items()
        ]
        return "\n".join([*lines, ""])

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _handler(self):
        replica = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(replica.text().encode())

            def log_message(self, *_):
                pass

        return Handler


@pytest.fixture
def replica():
    replica = Replica()
    yield replica
    replica.close()


@pytest.fixture
def prometheus(tmp_path):
    with Prometheus(tmp_path).start() as prometheus:
        yield prometheus


@pytest.fixture
def store(raw_server, raw_pod):
    store = Store()
    store.put(raw_server(autoscaling=SCALED))
    store.put(raw_pod("chat-1", ready=True))
    store.put(raw_pod("starting"))
    store.put(raw_pod("leaving", ready=True, terminating=True))
    return store


def reader_of(store, server=None, told=None):
    tell = told.append if told is not None else lambda _: None
    return Reader(store, Metrics(), Health(lambda: 0.0), server=server, period=1, tell=lambda key, _: tell(key))


async def read_until(reader, client, check):
    """Rounds until `check` says yes."""
    async with asyncio.timeout(PATIENCE):
        while True:
            await reader.read_all(client)
            if found := check():
                return found
            await asyncio.sleep(0.2)


async def test_samples_of_a_real_prometheus_are_those_that_it_scraped(prometheus, replica, store):
    prometheus.scrape([Target("default", "chat-1", "chat", replica.address)])
    told = []
    reader = reader_of(store, told=told)
    async with PrometheusClient(PrometheusServer(prometheus.url), PATIENCE) as client:
        window = await read_until(reader, client, lambda: (w := reader.windows(KEY)["uid-chat-1"]).reading and w)
        sample = window.samples[-1]
        assert (sample.waiting, sample.kv_used, sample.kv_capacity, sample.prompt_tokens) == (2, 30, 100, 0)
        assert time.time() - PATIENCE < sample.time <= time.time()
        assert sample.ttft is not None
        assert told == [KEY]
        assert reader.trouble(KEY) is None

        replica.latencies = {"0.5": 0, "1.0": 50, "+Inf": 50}
        replica.values[names.METRIC_WAITING] = 40  # last: it is what is waited for
        await read_until(reader, client, lambda: reader.windows(KEY)["uid-chat-1"].samples[-1].waiting == 40)
        now = time.time()
        signals = aggregate(reader.windows(KEY), {"uid-chat-1": 0.0}, now, pace=window.pace)
        assert (signals.known, signals.silent) == (1, 0)
        assert 0.5 < signals.ttft_p95 <= 1.0
        times = [sample.time for sample in reader.windows(KEY)["uid-chat-1"].samples]
        assert times == sorted(set(times))


@pytest.mark.parametrize("slo", [{"queueWait": "1s"}, {"ttftP95": "1s"}], ids=str)
async def test_times_in_the_queue_are_asked_for_where_there_is_a_target_for_them(raw_server, raw_pod, slo):
    store, queries = Store(), []
    store.put(raw_server(autoscaling=SCALED | {"slo": slo}))
    store.put(raw_pod("chat-1", ready=True))

    class Client:
        async def query(self, query, _):
            queries.append(query)
            return 200, b'{"status": "success", "data": {"result": []}}'

    await reader_of(store).read_all(Client())
    assert [names.METRIC_QUEUE_TIME in query for query in queries] == ["queueWait" in slo]


async def test_a_prometheus_without_its_operator_gives_the_same_with_our_example(tmp_path, replica, store):
    """Its relabelling alone: Debian's Prometheus is built without Kubernetes' discovery."""
    (scrapes,) = yaml.safe_load((EXAMPLES / "scrape-config.yaml").read_text())["scrape_configs"]
    with Prometheus(tmp_path, relabel=scrapes["relabel_configs"]).start() as prometheus:
        prometheus.scrape([Target("default", "chat-1", "chat", replica.address)])
        reader = reader_of(store)
        async with PrometheusClient(PrometheusServer(prometheus.url), PATIENCE) as client:
            await read_until(reader, client, lambda: reader.windows(KEY)["uid-chat-1"].reading)
        (series,) = prometheus.query("octavo_kv_tokens_used")
        assert series["metric"]["octavo_dev_modelserver"] == "chat"


async def test_without_an_answer_nothing_is_known_and_why_is_said(prometheus, replica, store):
    prometheus.scrape([Target("default", "chat-1", "chat", replica.address)])
    reader = reader_of(store)
    async with PrometheusClient(PrometheusServer(prometheus.url), PATIENCE) as client:
        await read_until(reader, client, lambda: reader.windows(KEY)["uid-chat-1"].reading)
        prometheus.stop()
        await reader.read_all(client)
        trouble = reader.trouble(KEY)
        assert trouble.reason == Reason.PROMETHEUS_UNAVAILABLE
        assert trouble.words.startswith("Prometheus could not be asked: ")
        window = reader.windows(KEY)["uid-chat-1"]
        last = window.samples[-1].time
        assert window.at(last + 29) is not None
        assert window.at(last + 31) is None

        prometheus.start()
        await read_until(
            reader,
            client,
            lambda: reader.windows(KEY)["uid-chat-1"].samples[-1].time > last and not reader.trouble(KEY),
        )


async def test_g6_series_that_are_not_there_are_no_load_of_0(prometheus, replica, store):
    prometheus.scrape([Target("default", "chat-2", "chat", replica.address)])
    reader = reader_of(store)
    async with PrometheusClient(PrometheusServer(prometheus.url), PATIENCE) as client:
        assert wait_until(lambda: bool(prometheus.query(names.METRIC_WAITING)), PATIENCE)
        await reader.read_all(client)
    assert reader.windows(KEY)["uid-chat-1"].samples == ()
    assert "no series" in reader.trouble(KEY).words


async def test_series_that_are_no_samples_are_told_apart_from_none(prometheus, replica, store):
    replica.values[names.METRIC_KV_USED] = float("nan")
    prometheus.scrape([Target("default", "chat-1", "chat", replica.address)])
    reader = reader_of(store)
    async with PrometheusClient(PrometheusServer(prometheus.url), PATIENCE) as client:
        await read_until(reader, client, lambda: reader.windows(KEY)["uid-chat-1"].unusable)
    assert reader.trouble(KEY).words == "Prometheus has series of them, but no usable sample"


async def test_a_query_for_more_replicas_than_fit_into_one_is_several(store, raw_pod):
    for number in range(PODS_PER_QUERY):
        store.put(raw_pod(f"more-{number}", ready=True))
    asked = []

    class Client:
        async def query(self, promql, _):
            asked.append(promql)
            return 200, b'{"status":"success","data":{"resultType":"matrix","result":[]}}'

    reader = reader_of(store)
    await reader.read_all(Client())
    assert len(asked) == 2
    assert all(promql.endswith("[60s]") for promql in asked)
    await reader.read_all(Client())
    assert 20 <= int(asked[-1].rpartition("[")[2].removesuffix("s]")) < 60


async def test_who_does_not_answer_is_asked_once_a_round(store, raw_pod):
    """A hundred replicas each, 5 s each: a round must not take minutes while Prometheus hangs."""
    for number in range(3 * PODS_PER_QUERY):
        store.put(raw_pod(f"more-{number}", ready=True))
    asked = []

    class Client:
        async def query(self, promql, _):
            asked.append(promql)
            raise PrometheusError("did not answer within 5 s")

    reader = reader_of(store)
    await reader.read_all(Client())
    assert len(asked) == 1
    assert reader.trouble(KEY).words == "Prometheus did not answer within 5 s"


async def test_where_none_is_named_that_is_the_reason(store):
    reader = reader_of(store)
    await reader.read_all(None)
    assert reader.trouble(KEY).reason == Reason.PROMETHEUS_UNAVAILABLE
    assert "prometheus.url" in reader.trouble(KEY).words
    assert reader.windows(KEY)["uid-chat-1"].reading is None


async def test_while_nobody_is_scaled_by_it_nothing_is_asked(raw_server, raw_pod):
    store = Store()
    store.put(raw_server(autoscaling=SCALED | {"metrics": {"source": "Direct"}}))
    store.put(raw_pod("chat-1", ready=True))
    await reader_of(store).read_all(object())


async def test_replicas_are_gone_through_only_after_a_change(store, raw_pod, monkeypatch):
    reader = reader_of(store)
    seen = []
    monkeypatch.setattr("octavo_operator.reader.keep_windows", lambda before, sources: seen.append(sources) or before)
    for _ in range(3):
        await reader.read_all(None)
    assert len(seen) == 1
    store.put(raw_pod("chat-2", ready=True))
    await reader.read_all(None)
    assert [source.uid for source in seen[-1]] == ["uid-chat-1", "uid-chat-2"]


def test_the_two_sources_are_never_mixed(store, raw_server, raw_pod):
    """A replica is scraped, or read from Prometheus; a decision sees the windows of one source alone."""
    store.put(raw_server() | {"metadata": raw_server()["metadata"] | {"name": "plain", "uid": "other"}})
    plain = raw_pod("plain-1", ready=True)
    plain["metadata"]["labels"] = {names.LABEL_MODEL_SERVER: "plain"}
    store.put(plain)
    scraper = Scraper(store, Metrics(), Health(lambda: 0.0), period=1, tell=lambda *_: None)
    reader = reader_of(store)
    assert [target.uid for target in scraper._targets()] == ["uid-plain-1"]
    assert [source.uid for source in reader._sources()] == ["uid-chat-1"]
    scraper._forget_others(scraper._targets())
    reader._forget_others(reader._sources())
    chosen = ChosenSamples(store, direct=scraper, prometheus=reader)
    assert set(chosen.windows(KEY)) == {"uid-chat-1"}
    assert set(chosen.windows(Key("default", "plain"))) == {"uid-plain-1"}


async def handle(request):
    form = await request.post()
    kind = form["query"]
    if kind == "hang":
        await asyncio.sleep(60)
    if kind == "redirect":
        raise web.HTTPTemporaryRedirect("/good/api/v1/query")
    if kind == "endless":
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:  # until the client hangs up, which cancels the handler
            await answer.write(b" " * 65536)
    if kind == "who":
        return web.json_response({"status": "success", "who": request.headers.get("Authorization")})
    return web.Response(text="<html>", status=503)


@pytest.fixture
async def odd_server():
    runner = web.AppRunner(web.Application(), handler_cancellation=True, shutdown_timeout=0.1)
    runner.app.router.add_post("/api/v1/query", handle)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("hang", "did not answer within 0.5 s"), ("endless", f"more than {LARGEST_ANSWER >> 20} MiB|within 0.5 s")],
)
async def test_a_server_that_gives_no_end_is_left(odd_server, kind, words):
    async with PrometheusClient(PrometheusServer(odd_server), 0.5) as client:
        with pytest.raises(PrometheusError, match=words):
            await client.query(kind, 0)


@pytest.mark.parametrize(("kind", "status"), [("redirect", 307), ("anything", 503)])
async def test_a_redirect_is_not_followed_and_an_error_is_an_answer(odd_server, kind, status):
    async with PrometheusClient(PrometheusServer(odd_server), PATIENCE) as client:
        assert (await client.query(kind, 0))[0] == status


@pytest.mark.parametrize(("text", "sent"), [("abc\n", "Bearer abc"), ("Basic dXNlcg==", "Basic dXNlcg==")])
async def test_the_authorization_is_read_anew_for_each_request(odd_server, tmp_path, text, sent):
    path = tmp_path / "token"
    path.write_text("old")
    async with PrometheusClient(PrometheusServer(odd_server, authorization_file=str(path)), PATIENCE) as client:
        assert json.loads((await client.query("who", 0))[1])["who"] == "Bearer old"
        path.write_text(text)
        assert json.loads((await client.query("who", 0))[1])["who"] == sent
        path.unlink()
        with pytest.raises(PrometheusError, match=r"could not be asked: .*token"):
            await client.query("who", 0)


async def test_certificates_that_cannot_be_read_end_the_start(tmp_path):
    path = tmp_path / "ca.crt"
    with pytest.raises(SettingsError, match="OCTAVO_PROMETHEUS_CA_FILE"):
        await PrometheusClient(PrometheusServer("https://p", ca_file=str(path)), 1).__aenter__()
    path.write_text("no certificate")
    with pytest.raises(SettingsError, match=r"ca\.crt"):
        await PrometheusClient(PrometheusServer("https://p", ca_file=str(path)), 1).__aenter__()
