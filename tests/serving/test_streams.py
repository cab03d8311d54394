"""Clients that go, stop reading or come in numbers."""

import asyncio
import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from octavo_runtime.core.outputs import Output
from octavo_runtime.core.sequence import FinishReason
from octavo_runtime.engine.slot import Delta, OutputSlot
from octavo_runtime.errors import EngineDied

LONG = {"prompt": "hello", "max_tokens": 4000, "ignore_eos": True}


@pytest.fixture(scope="module")
def slow(start_server):
    """A server whose steps take 5 ms, so that there is time to do things while it generates."""
    return start_server("--sim-step-time", "0.005")


def assert_idle(server, wait_for):
    """Nothing runs, nothing waits, no block is held."""
    names = ("octavo_requests_running", "octavo_requests_waiting", "octavo_waiting_tokens", "octavo_kv_tokens_used")
    wait_for(lambda: not any(server.metric(name) for name in names), "all blocks given back")


def test_a_client_that_leaves_a_stream_aborts_it(slow, wait_for):
    before = slow.metric("octavo_requests_total", finished_reason="abort")
    with slow.client.stream("POST", "/v1/completions", json=LONG | {"stream": True}) as response:
        lines = response.iter_lines()  # the connection is closed with the iterator
        next(lines)
        assert slow.metric("octavo_kv_tokens_used") > 0
    assert_idle(slow, wait_for)
    assert slow.metric("octavo_requests_total", finished_reason="abort") == before + 1


def test_a_client_that_gives_up_on_a_whole_answer_aborts_it(slow, wait_for):
    with pytest.raises(httpx.ReadTimeout):
        slow.client.post("/v1/completions", json=LONG, timeout=0.3)
    assert_idle(slow, wait_for)


def test_clients_that_leave_while_they_wait_or_prefill_leave_nothing_behind(start_server, wait_for):
    server = start_server("--sim-step-time", "0.005", "--max-num-seqs", "2", "--max-num-batched-tokens", "16")
    url = urlsplit(server.url)
    body = json.dumps(LONG | {"prompt": "a" * 90, "stream": True}).encode()  # for 20 s, if nobody leaves
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    connections = []
    for _ in range(20):
        connections.append(socket.create_connection((url.hostname, url.port)))
        connections[-1].sendall(head % len(body) + body)
    wait_for(lambda: server.metric("octavo_requests_waiting") == 18, "all but two wait")
    assert server.metric("octavo_waiting_tokens") >= 900
    for connection in connections:
        connection.close()
    assert_idle(server, wait_for)
    assert server.metric("octavo_requests_total", finished_reason="abort") == 20


def test_a_client_that_does_not_read_delays_nobody_and_still_gets_all_in_the_end(slow, wait_for):
    url = urlsplit(slow.url)
    body = json.dumps({"prompt": "hello", "max_tokens": 1500, "min_tokens": 1500, "stream": True}).encode()
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect((url.hostname, url.port))
        stalled.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        wait_for(lambda: slow.metric("octavo_requests_running") == 1, "the stream runs")
        other = slow.client.post("/v1/completions", json=LONG | {"max_tokens": 20})
        assert other.json()["usage"]["completion_tokens"] == 20
        wait_for(lambda: slow.metric("octavo_requests_running") == 0, "the engine did not wait for the reader")
        received = b""
        while piece := stalled.recv(65536):
            received += piece
    text = "".join(
        json.loads(line.removeprefix(b"data: "))["choices"][0]["text"]
        for line in received.splitlines()
        if line.startswith(b"data: {")
    )
    assert len(text) == 1500
    assert b"data: [DONE]" in received


async def test_a_slot_merges_what_its_reader_has_not_fetched():
    slot = OutputSlot(1)
    for token in range(5):
        slot.put(Output(1, [token], None))
    slot.put(Output(1, [5], FinishReason.LENGTH))
    assert await slot.get(1) == Delta([0, 1, 2, 3, 4, 5], FinishReason.LENGTH, [], [])


async def test_a_slot_hands_out_its_tokens_before_the_error_that_ended_it():
    slot = OutputSlot(1)
    slot.put(Output(1, [7], None))
    slot.fail(EngineDied())
    assert await slot.get(1) == Delta([7], None, [], [])
    with pytest.raises(EngineDied):
        await slot.get(1)


async def test_a_slot_says_when_there_is_nothing_new():
    slot = OutputSlot(1)
    assert await slot.get(0.01) == Delta()
    slot.put(Output(1, [3], None))
    assert await slot.get(0.01) == Delta([3], None, [], [])


async def test_silence_becomes_a_comment(monkeypatch):
    from octavo_runtime.server import generation, stream

    monkeypatch.setattr(generation, "SILENCE", 0.01)
    slot = OutputSlot(1)
    prompt = generation.Prompt([1], "")
    choice = generation.Choice(None, slot, None, prompt, max_tokens=None, min_tokens=0, shows_stop_token=False)

    async def chunks():
        async for delta in choice.deltas():
            yield delta if any(delta) else None

    events = stream.events(chunks())
    assert await anext(events) == b": keep-alive\n\n"
    slot.fail(EngineDied())
    last = [event async for event in events]
    assert last[-1].startswith(b'data: {"error":')
    assert b"data: [DONE]\n\n" not in last


@pytest.fixture
def two_choices(sim_model):
    """The slots of two choices, and the chunks of a request of theirs with these options."""
    from octavo_runtime.model.info import read_model_info
    from octavo_runtime.server.answers import completion_chunks, completion_header
    from octavo_runtime.server.generation import Choice, Generation, Prompt
    from octavo_runtime.server.openai import CompletionRequest
    from octavo_runtime.text.detokenize import Detokenizer
    from octavo_runtime.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(sim_model, read_model_info(sim_model))
    slots = [OutputSlot(1), OutputSlot(2)]
    choices = [
        Choice(None, slot, Detokenizer(tokenizer), Prompt([1], ""), max_tokens=5, min_tokens=0, shows_stop_token=False)
        for slot in slots
    ]

    def chunks(**options):
        request = CompletionRequest(prompt="a", n=2, stream=True, **options)
        return completion_chunks(completion_header("m"), request, Generation(choices, 2, tokenizer))

    return slots, chunks


NEWS = (
    (0, [8], None),
    (1, [8, 5], None),
    (0, [5, 3, 2, 1], FinishReason.LENGTH),
    (1, [5, 3, 2], FinishReason.LENGTH),
)  # fmt: skip


async def test_the_choices_come_at_the_same_time_and_not_one_after_the_other(two_choices):
    slots, chunks = two_choices
    stream, indices = chunks(), []
    for slot, tokens, reason in NEWS:
        slots[slot].put(Output(slot + 1, tokens, reason))
        indices.append((await anext(stream)).choices[0].index)
    assert indices == [0, 1, 0, 1]


async def test_usage_in_a_chunk_is_what_was_generated_up_to_it(two_choices):
    slots, chunks = two_choices
    stream = chunks(stream_options={"include_usage": True, "continuous_usage_stats": True})
    counts = []
    for slot, tokens, reason in NEWS:
        slots[slot].put(Output(slot + 1, tokens, reason))
        counts.append((await anext(stream)).usage.completion_tokens)
    last = await anext(stream)
    assert counts == [1, 3, 7, 10]
    assert (last.usage.prompt_tokens, last.usage.completion_tokens, last.usage.total_tokens) == (1, 10, 11)


async def test_many_streams_at_once_get_the_texts_that_they_would_get_alone(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=180, trust_env=False) as client:

        async def text(seed, prefix):
            request = {"prompt": prefix * (seed % 7 + 1), "max_tokens": 10 + seed, "seed": seed, "ignore_eos": True}
            response = await client.post("/v1/completions", json=request)
            return response.json()["choices"][0]["text"]

        together = await asyncio.gather(*(text(seed, "abc ") for seed in range(100)))
        alone = [await text(seed, "abc ") for seed in range(0, 100, 9)]
    assert together[::9] == alone
    assert len(set(together)) == 100
