"""Clients that take their time to say what they want, or never come to an end."""

import asyncio
import contextlib
import json
import socket

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from octavo_runtime.server import connections
from octavo_runtime.server.hosting import HttpServer

PATIENCE = 60.0  # seconds
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"


async def echo(request):
    return Response(await request.body())


async def slow_answer(_):
    async def pieces():
        for _ in range(10):
            await asyncio.sleep(0.1)
            yield b"piece "

    return StreamingResponse(pieces())


async def until(condition):
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  uvicorn has no event for it
            await asyncio.sleep(0.01)


@pytest.fixture
async def server(monkeypatch):
    """A server that waits half a second for requests."""
    monkeypatch.setattr(connections, "REQUEST_WAIT", 0.5)
    app = Starlette(routes=[Route("/", echo, methods=["POST"]), Route("/slow", slow_answer)])
    config = uvicorn.Config(app, port=0, http=connections.PatientProtocol, lifespan="off", log_config=None,
                            timeout_keep_alive=PATIENCE)  # fmt: skip
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    yield server
    server.should_exit = True
    await serving


@pytest.fixture
def address(server):
    return server.servers[0].sockets[0].getsockname()


async def connect(address, sent):
    """A connection on which these bytes have come before the server knows of it, so before it waits for any."""
    peer = socket.create_connection(address[:2])
    peer.sendall(sent)
    return await asyncio.open_connection(sock=peer)


async def exchange(address, sent):
    """Send that, and return all that comes until the server closes."""
    reader, writer = await connect(address, sent)
    try:
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()


@pytest.mark.parametrize("sent", [b"POST / HT", HEAD, HEAD + b"\r\n", HEAD + b"\r\n1234"])
async def test_a_request_that_does_not_arrive_whole_is_refused_and_its_connection_closed(address, sent):
    head, _, body = (await exchange(address, sent)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "request_timeout"


async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(address):
    assert await exchange(address, b"") == b""


async def test_a_byte_now_and_then_does_not_prolong_the_wait(address):
    reader, writer = await connect(address, HEAD + b"X-More: ")

    async def drip():
        while True:
            writer.write(b"a")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    with contextlib.suppress(ConnectionError):
        assert b" 408 " in await asyncio.wait_for(reader.read(), PATIENCE)
    dripping.cancel()
    writer.close()


async def test_the_second_request_of_a_connection_has_a_deadline_too(address):
    reader, writer = await connect(address, HEAD + b"\r\n12345")
    assert (await asyncio.wait_for(reader.readuntil(b"12345"), PATIENCE)).startswith(b"HTTP/1.1 200 ")
    writer.write(b"POST / HT")
    assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_an_answer_may_take_as_long_as_it_likes(address):
    ask, last = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n0\r\n\r\n"
    reader, writer = await connect(address, ask)
    assert (await asyncio.wait_for(reader.readuntil(last), PATIENCE)).count(b"piece ") == 10
    writer.write(ask)
    assert (await asyncio.wait_for(reader.readuntil(last), PATIENCE)).count(b"piece ") == 10
    writer.close()


async def test_a_head_without_end_is_refused(address, monkeypatch):
    monkeypatch.setattr(connections, "MAX_HEAD", 1000)
    answer = await exchange(address, HEAD + b"X-More: " + b"a" * 1000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def waiting_in_head(server):
    return [peer for peer in server.server_state.connections if peer.deadline is not None and peer._in_head]


async def test_of_too_many_incomplete_requests_the_oldest_gives_way(server, address, monkeypatch):
    monkeypatch.setattr(connections, "REQUEST_WAIT", 60)
    monkeypatch.setattr(connections, "MAX_INCOMPLETE", 3)
    peers = []
    for number in range(1, 6):
        peers.append(await asyncio.open_connection(*address))
        peers[-1][1].write(HEAD)
        await until(lambda: len(waiting_in_head(server)) == min(number, 3))  # noqa: B023  called at once
    for reader, _ in peers[:2]:
        assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 408 ")
    for reader, writer in peers[2:]:
        writer.write(b"Connection: close\r\n\r\n12345")
        assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(b"12345")
    for _, writer in peers:
        writer.close()


def kept(server):
    return [peer for peer in server.server_state.connections if peer.timeout_keep_alive_task is not None]


async def test_of_too_many_kept_connections_the_most_silent_one_gives_way(server, address, monkeypatch):
    monkeypatch.setattr(connections, "MAX_INCOMPLETE", 2)
    peers = []
    for number in range(1, 4):
        peers.append(await connect(address, HEAD + b"\r\n12345"))
        assert (await asyncio.wait_for(peers[-1][0].readuntil(b"12345"), PATIENCE)).startswith(b"HTTP/1.1 200 ")
        await until(lambda: len(kept(server)) == min(number, 2))  # noqa: B023  called at once
    assert await asyncio.wait_for(peers[0][0].read(), PATIENCE) == b""
    for reader, writer in peers[1:]:
        writer.write(HEAD + b"Connection: close\r\n\r\n12345")
        assert (await asyncio.wait_for(reader.read(), PATIENCE)).endswith(b"12345")
    for _, writer in peers:
        writer.close()


def test_a_gateway_closes_its_kept_connections_before_we_do():
    """A request that goes out while we close is lost. Envoy keeps a connection for an hour, Traefik for 90 s."""
    assert HttpServer(Starlette()).config.timeout_keep_alive > 3600
