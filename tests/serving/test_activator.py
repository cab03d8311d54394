"""The runtime behind the operator's activator: streams are held while it loads and while it ends, and come whole."""

import argparse
import asyncio
import json

import aiohttp

from cluster.ports import free_ports
from octavo_operator.activator.command import running

SECONDS = 180.0
TOKENS = 40


async def stream(session, port, tokens=TOKENS):
    """The text of one stream; fails unless it ends as it should."""
    body = {"prompt": "hello", "max_tokens": tokens, "min_tokens": tokens, "seed": 1, "stream": True}
    async with session.post(f"http://127.0.0.1:{port}/v1/completions", json=body) as answer:
        assert answer.status == 200, await answer.text()
        lines = [line.decode().strip() async for line in answer.content]
    *events, done = [line.removeprefix("data: ") for line in lines if line]
    assert done == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events)


async def held(session, control, number):
    """Returns when so many requests are held."""
    version = ""
    async with asyncio.timeout(SECONDS):
        while True:
            async with session.get(f"http://127.0.0.1:{control}/held?seen={version}&wait=10") as answer:
                said = await answer.json()
            if said["held"] == number:
                return
            version = said["version"]


async def test_a_stream_waits_for_a_replica_that_loads_and_for_the_one_after_a_replica_that_ends(launch):
    port, control, replica = free_ports(3)
    options = argparse.Namespace(
        upstream=f"http://127.0.0.1:{replica}",
        model="sim-model",
        max_held=10,
        share=10,
        hold_timeout=SECONDS,
        drain_timeout=1,
        host="127.0.0.1",
        port=port,
        control_port=control,
    )
    flags = ("--port", str(replica), "--sim-step-time", "0.01", "--drain-delay", "0")
    async with running(options), aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(SECONDS)) as session:
        first = asyncio.create_task(stream(session, port))
        await held(session, control, 1)
        server = launch(*flags)
        assert len(await first) == TOKENS

        # A client of the replica's own keeps it alive while it ends.
        last = asyncio.create_task(stream(session, replica, tokens=400))
        await until(session, replica, "/metrics", lambda _, text: running_of(text) > 0)
        server.terminate()
        await until(session, replica, "/readyz", lambda status, _: status == 503)
        second = asyncio.create_task(stream(session, port))
        await held(session, control, 1)
        assert len(await last) == 400
        await asyncio.to_thread(server.exit_status)
        launch(*flags)
        assert len(await second) == TOKENS


async def until(session, port, path, check):
    """Returns when an answer is as it should be."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with session.get(f"http://127.0.0.1:{port}{path}") as answer:
                if check(answer.status, await answer.text()):
                    return


def running_of(text):
    (line,) = [line for line in text.splitlines() if line.startswith("octavo_requests_running{")]
    return float(line.split()[-1])
