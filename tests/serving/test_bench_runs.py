"""`octavo bench` as users run it: against the sim server, in process, and one result beside the other."""

import asyncio
import json
import threading
import time

import pytest

from octavo_runtime import cli
from octavo_runtime.bench.http_client import HttpClient
from octavo_runtime.bench.load import Feed, Load
from octavo_runtime.bench.offline import OfflineRun
from octavo_runtime.bench.online import OnlineRun
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.sim_runner import SimRunner

SHORT = ("--input-len", "12", "--output-len", "6", "--num-prompts", "20")


@pytest.fixture
def bench(capsys):
    """`bench("online", URL, …)`: the line of JSON that the run prints."""

    def run(*arguments, status=0):
        capsys.readouterr()
        assert cli.main(["bench", *map(str, arguments)]) == status
        (line,) = capsys.readouterr().out.splitlines()
        return json.loads(line)

    return run


@pytest.mark.parametrize("load", [("--rate", "100"), ("--concurrency", "4"), ()])
@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_online_counts_what_the_server_counts(bench, server, load, endpoint):
    before = server.metric("octavo_requests_total", finished_reason="length")
    line = bench("online", server.url, *load, *SHORT, "--endpoint", endpoint, "--seed", "3")
    results = line["results"]
    assert (results["requests"], results["completed"], results["errors"]) == (20, 20, {})
    assert results["output_tokens"] == 20 * 6
    assert results["input_tokens"] >= 20 * 12
    assert server.metric("octavo_requests_total", finished_reason="length") - before == 21  # one to warm up
    assert line["seed"] == 3
    assert line["settings"]["server"]["model"] == "sim-model"


def test_online_takes_prompts_of_a_file_to_their_endpoints(bench, server, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"prompt": "hello", "max_tokens": 3}\n{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}\n'
    )
    line = bench("online", server.url, "--prompts", file, "--concurrency", "2", "--num-prompts", "6", "--ignore-eos")
    assert line["results"]["completed"] == 6
    assert line["results"]["output_tokens"] == 3 * 3 + 3 * 4


def test_errors_of_the_server_are_counted_by_kind(bench, server, tmp_path):
    """A prompt that the model cannot take is refused, and the others are not."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "hello", "max_tokens": 3}\n{"prompt": "hello", "max_tokens": 1000000}\n')
    line = bench("online", server.url, "--prompts", file, "--num-prompts", "10")
    assert line["results"]["errors"] == {"http_400/context_length_exceeded": 5}
    assert line["results"]["completed"] == 5


def test_a_run_in_which_nothing_completed_fails(bench, server, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "hello", "max_tokens": 1000000}\n')
    line = bench("online", server.url, "--prompts", file, "--warmup", "0", status=2)
    assert line["results"]["completed"] == 0


def test_a_server_that_is_not_there_is_named_before_the_run(capsys):
    assert cli.main(["bench", "online", "http://127.0.0.1:9", "--num-prompts", "1"]) == 2
    assert "connect" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://"])
def test_an_url_that_is_none_is_named(capsys, url):
    assert cli.main(["bench", "online", url]) == 64
    assert url in capsys.readouterr().err


def test_a_stream_whose_engine_dies_is_an_error_with_its_code(launch, wait_for):
    """What is under way when the engine is killed ends with the error event's code, and is not taken for complete."""
    import signal

    server = launch("--sim-step-time", "0.01").started()
    client = HttpClient(server.url, {})
    body = json.dumps({"prompt": "hello", "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
    run = OnlineRun(client, [client.encode("POST", "/v1/completions", body)] * 3, timeout=180)

    async def load():
        await run.closed_loop(3)
        client.close()

    thread = threading.Thread(target=lambda: asyncio.run(load()))
    thread.start()
    # Of the server's own count: the engine's page knows of a step before anybody has its tokens.
    wait_for(lambda: server.metric("octavo_time_to_first_token_seconds_count") == 3, "a first token of each")
    server.engine().send(signal.SIGKILL)
    thread.join(180)
    assert [record.error for record in run.records] == ["stream/engine_died"] * 3
    assert all(record.piece_times for record in run.records)


class FakeServer:
    """Answers every request on loopback with the same bytes and closes, once it has `hold` requests; or never."""

    def __init__(self, answer: bytes | None, hold: int = 1) -> None:
        self._answer = answer
        self._hold = hold
        self._enough = asyncio.Event()
        self._requests = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        self._requests += 1
        if self._requests >= self._hold:
            self._enough.set()
        await self._enough.wait()
        if self._answer is None:
            await reader.read()
        else:
            writer.write(self._answer)
        writer.close()


async def sent_to(answer, schedule, patience=60.0, hold=1):
    """The records of an open loop on a server that answers thus."""
    async with FakeServer(answer, hold) as server:
        client = HttpClient(server.url, {})
        run = OnlineRun(client, [client.encode("GET", "/")] * len(schedule), patience)
        await run.open_loop(schedule)
        client.close()
        return run.records


async def test_a_stream_that_ends_without_done_is_cut():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b'data: {"choices": [{"text": "a"}]}\n\n'
    records = await sent_to(head + f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n", [0.0, 0.0])
    assert [record.error for record in records] == ["cut", "cut"]


async def test_a_body_that_ends_with_its_connection_is_complete_if_it_says_so():
    """HTTP/1.0's way: no length, no chunks."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    (record,) = await sent_to(head + b'data: {"choices": [{"text": "a"}]}\n\ndata: [DONE]\n\n', [0.0])
    assert (record.error, record.output_tokens) == (None, 1)


async def test_what_is_no_http_is_a_disconnection():
    (record,) = await sent_to(b"SSH-2.0-OpenSSH\r\n", [0.0])
    assert record.error == "disconnected"


async def test_an_open_loop_is_not_slowed_by_a_server_that_does_not_answer():
    """The server answers nobody until it has all requests, so a client that waited for answers would never end."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    records = await sent_to(head + b"data: [DONE]\n\n", [0.0, 0.01, 0.02, 0.03], hold=4)
    assert [record.error for record in records] == [None] * 4
    assert sorted(record.arrival for record in records) == [0.0, 0.01, 0.02, 0.03]


async def test_a_server_that_never_answers_is_a_timeout():
    (record,) = await sent_to(None, [0.0], patience=0.2)
    assert record.error == "timeout"


async def test_a_request_that_the_client_sends_late_is_late_and_slow():
    """Its latency counts from the moment at which it was due."""
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
    async with FakeServer(head + b"data: [DONE]\n\n") as server:
        client = HttpClient(server.url, {})
        run = OnlineRun(client, [client.encode("GET", "/")] * 2, 30.0)
        loop = asyncio.create_task(run.open_loop([0.0, 0.05]))
        await asyncio.sleep(0)  # the loop has begun
        time.sleep(0.3)  # noqa: ASYNC251  a client whose processor is taken away
        await loop
        client.close()
    late = max(run.records, key=lambda record: record.arrival)
    assert late.lateness > 0.1
    assert late.end - late.arrival > 0.1


def test_offline_runs_the_scheduler_without_a_server(bench, sim_model):
    line = bench("offline", sim_model, "--runner", "sim", *SHORT, "--shared-prefix-len", "5", "--cost-per-hour", "2")
    results = line["results"]
    assert (results["completed"], results["output_tokens"], results["input_tokens"]) == (20, 120, 20 * 17)
    assert results["cost_per_million_output_tokens"] == pytest.approx(2 / 3600 / results["output_tokens_per_s"] * 1e6)
    assert line["settings"]["engine"]["runner"] == "sim"


def test_offline_and_online_ask_for_the_same_where_the_tokenizer_is_known(bench, server, sim_model):
    offline = bench("offline", sim_model, "--runner", "sim", *SHORT)
    online = bench("online", server.url, *SHORT, "--tokenizer", sim_model)
    assert offline["settings"]["prompts_digest"] == online["settings"]["prompts_digest"]
    assert offline["results"]["input_tokens"] == online["results"]["input_tokens"]


def test_offline_refuses_a_prompt_that_the_model_cannot_take(capsys, sim_model):
    assert cli.main(["bench", "offline", str(sim_model), "--runner", "sim", "--input-len", "5000"]) == 64
    assert "5000" in capsys.readouterr().err


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_offline_latencies_are_those_of_the_steps():
    """Two requests at once in steps of 1 s: the first token after one step, the others after one each."""
    from octavo_runtime.runner.sim_runner import StepTime

    clock = Clock()
    runner = SimRunner(64, 4, 50, step_time=StepTime(base=1.0), sleep=clock.sleep)
    engine = Engine(runner, max_num_seqs=8, max_num_batched_tokens=64)
    requests = [Add(index, [1, 2, 3], SamplingParams(max_tokens=3)) for index in range(2)]
    run = OfflineRun(engine, requests, Feed(Load(), 2, 0), progress=lambda _: None, clock=clock, sleep=clock.sleep)
    records = run.run()
    assert [record.piece_times for record in records] == [[1.0, 2.0, 3.0]] * 2
    assert [record.end for record in records] == [3.0, 3.0]


def test_compare_prints_the_ratios(bench, capsys, sim_model, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(bench("offline", sim_model, "--runner", "sim", *SHORT)) + "\n")
    assert cli.main(["bench", "compare", str(file), str(file), "--markdown"]) == 0
    printed = capsys.readouterr().out
    assert "| output tokens/s" in printed
    assert "not the same load" not in printed


def test_compare_names_a_file_that_is_no_result(capsys, tmp_path):
    file = tmp_path / "a.json"
    file.write_text('{"bench": 1}')
    assert cli.main(["bench", "compare", str(file), str(file)]) == 64
    assert "a.json" in capsys.readouterr().err
