"""The activator over loopback: what is held and for how long, what is passed on, what each side sees of the other."""

import argparse
import asyncio
import contextlib
import gzip
import json
import select
import socket

import aiohttp
import pytest
from aiohttp import web

from cluster.ports import free_ports
from octavo_operator.activator import gate
from octavo_operator.activator import proxy as proxy_module
from octavo_operator.activator.command import running
from octavo_operator.core.held import LONGEST_LOOK_SECONDS

SECONDS = 90.0
ASK = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


async def until(check):
    """Returns when `check` holds; fails after a generous time."""
    async with asyncio.timeout(SECONDS):
        while not check():  # noqa: ASYNC110  what is waited for is no task's of ours
            await asyncio.sleep(0.01)


class Replica:
    """Speaks as the test tells it. `said` are the requests that came, `left` those whose client hung up."""

    def __init__(self, port):
        self.port, self.said, self.left = port, [], 0
        self.pieces, self.status, self.headers, self.refusals = asyncio.Queue(), 200, {}, 0
        self._runner = None

    async def start(self):
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, auto_decompress=False, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self):
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request):
        body = await request.read()
        self.said.append((request.method, request.raw_path, dict(request.headers), body))
        if self.refusals:
            self.refusals -= 1
            body = {"error": {"message": "ending", "type": "server_error", "code": "server_shutting_down"}}
            return web.json_response(body, status=503, headers={"Retry-After": "1"})
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        try:
            while (piece := await self.pieces.get()) is not None:
                if piece == b"die":
                    request.transport.abort()
                    return response
                await response.write(piece)
        except asyncio.CancelledError:
            self.left += 1
            raise
        return response


class World:
    """An activator, the place of its replica, and a client."""

    def __init__(self, session, port, control, replica):
        self.session, self.replica = session, replica
        self.url, self.control = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{control}"

    def post(self, path="/v1/chat/completions", **more):
        return self.session.post(self.url + path, **({"json": ASK} | more))

    async def get(self, path):
        async with self.session.get(self.url + path) as answer:
            return answer.status, await answer.text()

    async def held(self, seen="", wait=0):
        async with self.session.get(f"{self.control}/held?seen={seen}&wait={wait}") as answer:
            return await answer.json()

    async def wait_for_held(self, number):
        said = await self.held()
        while said["held"] != number:
            said = await self.held(said["version"], LONGEST_LOOK_SECONDS)
        return said

    async def metric(self, line):
        async with self.session.get(f"{self.control}/metrics") as answer:
            found = [text for text in (await answer.text()).splitlines() if text.startswith(line + " ")]
        return float(found[0].split()[1]) if found else 0.0


@pytest.fixture
async def make():
    """Starts an activator with these options; its replica is not there yet."""
    async with contextlib.AsyncExitStack() as stack:

        async def build(**options):
            port, control, upstream = free_ports(3)
            defaults = {"max_held": 10, "share": 64, "hold_timeout": SECONDS, "drain_timeout": 0.1, "model": "chat"}
            addresses = {
                "host": "127.0.0.1",
                "port": port,
                "control_port": control,
                "upstream": f"http://127.0.0.1:{upstream}",
            }
            await stack.enter_async_context(running(argparse.Namespace(**defaults | addresses | options)))
            session = await stack.enter_async_context(aiohttp.ClientSession())
            replica = Replica(upstream)
            stack.push_async_callback(replica.stop)
            return World(session, port, control, replica)

        yield build


@pytest.fixture
async def asked(make):
    """A request that is held, as a task of its answer."""
    world = await make()
    task = asyncio.create_task(world.post().__aenter__())
    await world.wait_for_held(1)
    yield world, task
    task.cancel()


async def test_a_request_is_held_until_a_replica_is_there_and_its_answer_comes_piece_by_piece(asked):
    world, task = asked
    assert not task.done()
    await world.replica.start()
    world.replica.pieces.put_nowait(b"data: 1\n\n")
    answer = await task
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    assert await answer.content.readany() == b"data: 1\n\n"  # and the replica has not said more yet
    for piece in (b"data: 2\n\n", b"data: [DONE]\n\n", None):
        world.replica.pieces.put_nowait(piece)
    assert await answer.read() == b"data: 2\n\ndata: [DONE]\n\n"
    await until_metric(world, 'octavo_activator_requests_total{outcome="passed"}', 1)
    assert await world.metric("octavo_activator_hold_seconds_count") == 1
    assert await world.metric("octavo_activator_wake_seconds_count") == 1


async def until_metric(world, line, value):
    async with asyncio.timeout(SECONDS):
        while await world.metric(line) != value:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_what_the_client_said_is_passed_on_as_it_is(make):
    world = await make()
    await world.replica.start()
    world.replica.status, world.replica.headers = 418, {"X-Request-Id": "7", "Keep-Alive": "timeout=5"}
    world.replica.pieces.put_nowait(None)
    headers = {"Authorization": "Bearer x", "Connection": "X-Mine", "X-Mine": "hop"}
    async with world.post("/v1/a%2Fb?c=1", headers=headers) as answer:
        assert (answer.status, answer.headers["X-Request-Id"]) == (418, "7")
        assert "Keep-Alive" not in answer.headers
    ((method, path, said, body),) = world.replica.said
    assert (method, path, json.loads(body)) == ("POST", "/v1/a%2Fb?c=1", ASK)
    assert said["Authorization"] == "Bearer x"
    assert said["Host"] == world.url.removeprefix("http://")
    assert not {"X-Mine", "Transfer-Encoding"} & said.keys()


@pytest.mark.parametrize("target", ["//127.0.0.9:1/v1/x", "http://127.0.0.9:1//v1/x", "http://u:p@127.0.0.9:1/v1/x?y"])
async def test_no_client_says_where_we_connect_to(make, target):
    world = await make()
    await world.replica.start()
    world.replica.pieces.put_nowait(None)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rsplit(":", 1)[1]))
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b"200 OK" in await reader.readline()
    writer.close()
    ((_, path, _, _),) = world.replica.said
    assert path.startswith("/")
    assert path.endswith(("/v1/x", "/v1/x?y"))


async def test_a_compressed_body_stays_compressed(make):
    world = await make()
    await world.replica.start()
    world.replica.pieces.put_nowait(None)
    body = gzip.compress(json.dumps(ASK).encode())
    async with world.post(data=body, json=None, headers={"Content-Encoding": "gzip"}) as answer:
        assert answer.status == 200
    ((_, _, headers, seen),) = world.replica.said
    assert (headers["Content-Encoding"], seen) == ("gzip", body)


async def status(task):
    """Of an answer that has come to its end."""
    async with await task as answer:
        await answer.read()
        return answer.status


async def test_the_first_replica_gets_its_share_and_the_next_one_goes_when_one_has_ended(make, monkeypatch):
    monkeypatch.setattr(gate, "GROWTH_SECONDS", 1000 * SECONDS)
    world = await make(share=2)
    tasks = [asyncio.create_task(world.post().__aenter__()) for _ in range(5)]
    await world.wait_for_held(5)
    await world.replica.start()
    await until(lambda: len(world.replica.said) == 2)
    assert (await world.wait_for_held(3))["held"] == 3, "the rest waits for the next replicas"
    for expected in (3, 4, 5):
        world.replica.pieces.put_nowait(None)
        await until(lambda expected=expected: len(world.replica.said) == expected)
    for _ in range(2):
        world.replica.pieces.put_nowait(None)
    assert [await status(task) for task in tasks] == [200] * len(tasks)


async def test_the_share_grows_so_that_nobody_waits_for_long_answers(make, monkeypatch):
    monkeypatch.setattr(gate, "GROWTH_SECONDS", 0.05)
    world = await make(share=1)
    tasks = [asyncio.create_task(world.post().__aenter__()) for _ in range(4)]
    await world.wait_for_held(4)
    await world.replica.start()
    await until(lambda: len(world.replica.said) == 4)
    for _ in tasks:
        world.replica.pieces.put_nowait(None)
    assert [await status(task) for task in tasks] == [200] * len(tasks)


async def test_a_client_that_leaves_while_it_waits_for_its_turn_takes_nobodys(make, monkeypatch):
    monkeypatch.setattr(gate, "GROWTH_SECONDS", 1000 * SECONDS)
    world = await make(share=1)
    tasks = [asyncio.create_task(world.post().__aenter__()) for _ in range(3)]
    await world.wait_for_held(3)
    await world.replica.start()
    await until(lambda: len(world.replica.said) == 1)
    tasks[1].cancel()
    await world.wait_for_held(1)
    for _ in range(2):
        world.replica.pieces.put_nowait(None)
    assert [await status(tasks[number]) for number in (0, 2)] == [200, 200]
    assert len(world.replica.said) == 2


async def test_more_than_the_limit_are_refused_with_a_time_to_come_back(make):
    world = await make(max_held=2)
    waiting = [asyncio.create_task(world.post().__aenter__()) for _ in range(2)]
    await world.wait_for_held(2)
    async with world.post() as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        error = (await answer.json())["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "too_many_held", None)
    assert "2" in error["message"]
    await until_metric(world, 'octavo_activator_requests_total{outcome="rejected"}', 1)
    for task in waiting:
        task.cancel()
    await world.wait_for_held(0)


async def test_bodies_are_bounded_together_and_alone(make, monkeypatch):
    world = await make()
    monkeypatch.setattr("octavo_operator.activator.ledger.MOST_BYTES", 1000)
    async with world.post(data=b"x" * 1001, json=None) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "too_many_held")
    monkeypatch.setattr(proxy_module, "LARGEST_BODY", 100)
    async with world.post(data=b"x" * 101, json=None) as answer:
        assert (answer.status, (await answer.json())["error"]["param"]) == (413, "body")
    await world.wait_for_held(0)


async def test_a_body_of_unknown_length_counts_in_full_only_until_it_is_read(make):
    world = await make()

    async def pieces():
        yield b"x" * 40

    tasks = [asyncio.create_task(world.post(data=pieces(), json=None).__aenter__()) for _ in range(6)]
    said = await world.wait_for_held(6)
    while said["tokens"] != 6 * 10:
        said = await world.held(said["version"], LONGEST_LOOK_SECONDS)
    for task in tasks:
        task.cancel()


async def test_a_request_is_not_held_for_ever(make):
    world = await make(hold_timeout=0.2)
    async with world.post() as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (503, "10")
        assert (await answer.json())["error"]["code"] == "no_replica_in_time"
    await world.wait_for_held(0)


async def test_a_long_answer_is_not_cut_by_the_time_that_a_request_may_be_held(make, monkeypatch):
    """The time counts until a replica has taken it."""
    world, loop = await make(hold_timeout=SECONDS), asyncio.get_running_loop()
    clock = loop.time
    await world.replica.start()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(world.post().__aenter__())
        await until(lambda: world.replica.said)
        monkeypatch.setattr(loop, "time", lambda: clock() + 2 * SECONDS)
        await asyncio.sleep(0.1)  # timers that were to end meanwhile have rung
        world.replica.pieces.put_nowait(b"late")
        world.replica.pieces.put_nowait(None)
    assert await task.result().read() == b"late"


async def test_a_held_client_that_leaves_makes_room(asked):
    world, task = asked
    task.cancel()
    await world.wait_for_held(0)
    await until_metric(world, 'octavo_activator_requests_total{outcome="cancelled"}', 1)
    await world.replica.start()
    assert world.replica.said == []


async def test_a_client_that_leaves_amid_its_answer_is_gone_for_the_replica_too(make):
    world = await make()
    await world.replica.start()
    world.replica.pieces.put_nowait(b"data: 1\n\n")
    async with world.post() as answer:
        assert await answer.content.readany()
        answer.close()
    await until(lambda: world.replica.left == 1)


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "1000"}])
async def test_a_replica_that_breaks_off_is_an_error_for_the_client_and_no_end(make, headers):
    world = await make()
    await world.replica.start()
    world.replica.headers = headers
    for piece in (b"data: 1\n\n", b"die"):
        world.replica.pieces.put_nowait(piece)
    with pytest.raises(aiohttp.ClientError):
        async with world.post() as answer:
            await answer.read()
    await until_metric(world, 'octavo_activator_requests_total{outcome="broken"}', 1)


async def test_a_replica_that_breaks_off_before_its_answer_is_asked_once_more_and_not_again(make):
    """The request itself may be what ends it."""
    world = await make()
    server = await asyncio.start_server(hang_up, "127.0.0.1", world.replica.port)
    async with server, world.post() as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (502, "replica_failed")
    assert len(HANGUPS) == 2


async def test_a_request_in_the_backlog_of_a_replica_that_ends_goes_to_the_next_one(make):
    world = await make()
    ending = socket.socket()
    ending.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    ending.bind(("127.0.0.1", world.replica.port))
    ending.listen()
    for piece in (b"whole", None):
        world.replica.pieces.put_nowait(piece)
    with ending:
        request = asyncio.create_task(text_of(world.post()))
        await until(lambda: select.select([ending], [], [], 0)[0])  # a connection stands, and nobody takes it
    await world.replica.start()
    assert await request == (200, "whole")


async def text_of(post):
    async with post as answer:
        return answer.status, await answer.text()


HANGUPS = []


async def hang_up(reader, writer):
    HANGUPS.append(await reader.readuntil(b"\r\n\r\n"))
    writer.close()


async def test_a_replica_that_is_shutting_down_has_not_begun_so_the_request_is_held_again(make):
    world = await make()
    await world.replica.start()
    world.replica.refusals = 2
    for piece in (b"whole", None):
        world.replica.pieces.put_nowait(piece)
    async with world.post() as answer:
        assert (answer.status, await answer.text()) == (200, "whole")
    assert len(world.replica.said) == 3


async def test_only_work_wakes(make):
    """Listing models and health checks cost no replica; neither does a path that nobody has."""
    world = await make(model="team/chat")
    status, models = await world.get("/v1/models")
    assert (status, [item["id"] for item in json.loads(models)["data"]]) == (200, ["team/chat"])
    assert (await world.get("/v1/models/team/chat"))[0] == 200
    assert [(await world.get(path))[0] for path in ("/livez", "/readyz", "/v1/models/other", "/x")] == [
        200,
        200,
        503,
        503,
    ]
    async with world.post("/wp-login.php") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "asleep")
    assert (await world.held())["version"].endswith("-0")


async def test_with_a_replica_all_is_asked_there(make):
    world = await make()
    await world.replica.start()
    for piece in (b"theirs", None):
        world.replica.pieces.put_nowait(piece)
    assert await world.get("/v1/models") == (200, "theirs")


@pytest.mark.parametrize("target", ["//127.0.0.1:{}/x", "http://127.0.0.1:{}/x"])
async def test_a_request_cannot_name_another_server(make, target):
    world, elsewhere = await make(), Replica(*free_ports(1))
    await world.replica.start()
    await elsewhere.start()
    world.replica.pieces.put_nowait(None)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(world.url.rpartition(":")[2]))
    writer.write(f"GET {target.format(elsewhere.port)} HTTP/1.1\r\nHost: chat\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), SECONDS)
    writer.close()
    await elsewhere.stop()
    assert elsewhere.said == []
    assert b" 400 " in answer or [path for _, path, _, _ in world.replica.said if path.endswith("/x")]


async def test_the_operator_is_answered_when_there_is_news_and_not_before(make):
    world = await make()
    first = await world.held()
    look = asyncio.create_task(world.held(first["version"], LONGEST_LOOK_SECONDS))
    await asyncio.sleep(0.2)
    assert not look.done()
    task = asyncio.create_task(world.post().__aenter__())
    news = await look
    assert (news["held"], news["version"] != first["version"]) == (1, True)
    assert await world.held(news["version"], "garbage") == news
    task.cancel()


async def test_nobody_is_knocked_for_while_nobody_waits(make):
    """An idle activator is silent, also after a request that was given up."""
    world = await make(hold_timeout=0.2)
    async with world.post() as answer:
        assert answer.status == 503
    names = {task.get_name() for task in asyncio.all_tasks()}
    while "knock" in names:
        await asyncio.sleep(0.01)
        names = {task.get_name() for task in asyncio.all_tasks()}
    await world.replica.start()
    world.replica.pieces.put_nowait(None)
    async with world.post() as answer:
        assert answer.status == 200


async def test_at_its_end_what_is_held_is_still_served():
    """SIGTERM: no new connections after a while, and the held request gets its answer."""
    port, control, upstream = free_ports(3)
    options = {"max_held": 10, "share": 64, "hold_timeout": SECONDS, "drain_timeout": SECONDS, "model": "chat"}
    addresses = {"host": "127.0.0.1", "port": port, "control_port": control, "upstream": f"http://127.0.0.1:{upstream}"}
    replica = Replica(upstream)
    async with aiohttp.ClientSession() as session:
        async with running(argparse.Namespace(**options, **addresses)):
            world = World(session, port, control, replica)
            task = asyncio.create_task(world.post().__aenter__())
            await world.wait_for_held(1)
            start = asyncio.create_task(later(replica, port))
        await start
        answer = await task
        assert (answer.status, await answer.text()) == (200, "last")
    await replica.stop()


async def later(replica, port):
    """The replica comes when nobody can connect to the activator any more."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                break
            writer.close()
            await asyncio.sleep(0.01)
    await replica.start()
    for piece in (b"last", None):
        replica.pieces.put_nowait(piece)
