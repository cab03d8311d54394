"""More work than room."""

import asyncio
import contextlib
import json
import re
import signal
import socket
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import httpx

PATIENCE = 180.0  # seconds


async def test_requests_beyond_the_queue_are_told_to_come_back(start_server):
    server = start_server("--max-num-seqs", "1", "--max-queued-requests", "2")
    request = {"prompt": "a", "max_tokens": 5, "ignore_eos": True}
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE, trust_env=False) as client:
        with stopped(server):  # so that nobody makes room before all have asked
            asked = {asyncio.create_task(client.post("/v1/completions", json=request)) for _ in range(8)}
            while len([task for task in asked if task.done()]) < 5:
                await asyncio.wait({task for task in asked if not task.done()}, return_when=asyncio.FIRST_COMPLETED)
        answers = await asyncio.gather(*asked)
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 5
    for answer in refused:
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "engine_overloaded"


def test_a_cache_that_is_too_small_for_all_makes_them_take_turns(start_server):
    # 64 bytes per token: 40 blocks of 16 tokens
    server = start_server("--kv-cache-memory", "40Ki", "--max-model-len", "400")
    assert server.metric("octavo_kv_tokens_capacity") == 640
    requests = [{"prompt": "abc", "max_tokens": 300, "seed": seed, "ignore_eos": True} for seed in range(8)]
    with contextlib.ExitStack() as streams:
        with stopped(server):  # so that nobody is done before the last has come
            answers = [streams.enter_context(streamed(server, request)) for request in requests]
        together = [text_of(answer) for answer in answers]
    assert server.metric("octavo_preemptions_total") > 0
    alone = [server.client.post("/v1/completions", json=request).json() for request in requests]
    assert together == [body["choices"][0]["text"] for body in alone]
    assert server.metric("octavo_kv_tokens_used") == 0


@contextlib.contextmanager
def stopped(server):
    """The engine stands still: requests are taken in and not computed."""
    engine = server.engine()
    engine.send(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.send(signal.SIGCONT)


def streamed(server, request):
    """Its headers come when the engine has been given it."""
    return server.client.stream("POST", "/v1/completions", json=request | {"stream": True})


def text_of(answer):
    events = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


def test_the_cache_bounds_what_a_request_may_ask_for(start_server):
    server = start_server("--kv-cache-memory", "40Ki")
    response = server.client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 638})
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
    whole = server.client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 637, "ignore_eos": True})
    assert whole.json()["usage"]["total_tokens"] == 640


def post(url, body):
    """An HTTP request as bytes."""
    content = json.dumps(body).encode()
    head = f"POST {url} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def test_prompts_beyond_the_token_limit_are_told_to_come_back(start_server, wait_for):
    server = start_server("--max-queued-tokens", "100")
    with stopped(server), contextlib.ExitStack() as streams:  # nothing leaves the queue
        requests = [{"prompt": "a" * size, "max_tokens": 1} for size in (40, 41, 40, 19, 1)]
        answers = [streams.enter_context(streamed(server, request)) for request in requests]
        assert [answer.status_code for answer in answers] == [200, 200, 503, 200, 503]
        refused = json.loads(answers[2].read())
        assert int(answers[2].headers["retry-after"]) >= 1
    assert refused["error"]["code"] == "engine_overloaded"
    assert "81 prompt tokens are queued" in refused["error"]["message"]
    assert server.metric("octavo_admission_rejections_total", reason="queued_tokens") == 2
    assert server.metric("octavo_admission_rejections_total", reason="queued_requests") == 0
    wait_for(lambda: is_idle(server), "the queue is empty")
    alone = server.client.post("/v1/completions", json={"prompt": "a" * 300, "max_tokens": 1})
    assert alone.status_code == 200, "a long prompt is served when it is the only one"


async def test_cancels_at_any_moment_leave_every_block_free(start_server, wait_for):
    """Also at moments at which a step is under way and the next one planned on top of it."""
    flags = ("--max-num-seqs", "32", "--max-num-batched-tokens", "64", "--async-scheduling")
    server = start_server("--kv-cache-memory", "100Ki", *flags)
    url, random = urlsplit(server.url), Random(7)

    async def cancel_some(count):
        for _ in range(count):
            size, tokens = random.randrange(1, 200), random.randrange(1, 400)
            reader, writer = await asyncio.open_connection(url.hostname, url.port)
            request = {"prompt": "a" * size, "max_tokens": tokens, "ignore_eos": True, "stream": True}
            writer.write(post("/v1/completions", request))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1 << 20), random.random() * 0.05)
            writer.transport.abort()

    await asyncio.gather(*(cancel_some(40) for _ in range(50)))
    wait_for(lambda: is_idle(server), "all blocks given back")
    capacity = int(server.metric("octavo_kv_tokens_capacity"))
    whole_cache = {"prompt": "a" * 10, "max_tokens": capacity - 10, "ignore_eos": True}
    assert server.client.post("/v1/completions", json=whole_cache).json()["usage"]["total_tokens"] == capacity


def test_readers_that_have_stalled_cost_little_memory(start_server, wait_for):
    server = start_server("--max-num-seqs", "200")
    url = urlsplit(server.url)
    request = post("/v1/completions", {"prompt": "a", "max_tokens": 1000, "ignore_eos": True, "stream": True})
    assert server.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 100}).status_code == 200
    before = resident_bytes(server.process.pid)
    with contextlib.ExitStack() as connections:
        for _ in range(200):
            reader = connections.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect((url.hostname, url.port))
            reader.sendall(request)
        wait_for(lambda: finished(server) == 201, "all are computed", 2 * PATIENCE)
        assert resident_bytes(server.process.pid) - before < 50 << 20


def finished(server):
    return sum(server.metric("octavo_requests_total", finished_reason=reason) for reason in ("length", "stop"))


def resident_bytes(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10


def is_idle(server):
    names = ("octavo_requests_running", "octavo_requests_waiting", "octavo_waiting_tokens", "octavo_kv_tokens_used")
    return not any(server.metric(name) for name in names)
