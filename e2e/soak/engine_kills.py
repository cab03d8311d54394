"""kill -9 of the engine in the middle of streams, many times: who is told, when is the next answer, what leaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import httpx

from soak.goals import Goal
from soak.server import Footprint, Server, poll

if TYPE_CHECKING:
    from collections.abc import Iterator

STREAMS = 8
FLAGS = ("--max-engine-restarts", "1000000", "--max-num-seqs", str(STREAMS), "--kv-cache-memory", "256Mi")
ANSWER_WAIT = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Kill:
    told: int  # streams that ended with an error event and without [DONE]
    load: float  # seconds that the new engine took, by its own account
    answer: float  # seconds from the kill to the next whole answer


def run(runner: str, count: int) -> Iterator[Goal]:
    flags = (*FLAGS, "--sim-step-time", "0.005") if runner == "sim" else FLAGS
    with Server(runner, *flags) as server:
        server.complete(max_tokens=5).raise_for_status()
        before = server.footprint()
        kills = []
        print(f"{'kill':>6} {'streams told':>14} {'load, s':>9} {'next answer, s':>16}")
        for number in range(1, count + 1):
            kills.append(_kill(server))
            print(
                f"{number:6} {kills[-1].told:11}/{STREAMS} {kills[-1].load:9.2f} {kills[-1].answer:16.2f}", flush=True
            )
        poll(server.is_idle, "all blocks free", 30)
        assert server.metric("octavo_engine_restarts_total") == count, f"other deaths than ours:\n{server.log()}"
        leaked = _leaked(server, before) + server.stop()
    yield from _goals(f"{count} engine kills, {runner}", kills, leaked)


def _goals(name: str, kills: list[Kill], leaked: list[str]) -> Iterator[Goal]:
    silent = sum(STREAMS - kill.told for kill in kills)
    yield Goal(f"{name}: streams without an error event", "0", f"{silent} of {STREAMS * len(kills)}", silent == 0)
    late = max(kill.answer - kill.load for kill in kills)
    load = sum(kill.load for kill in kills) / len(kills)
    value = f"load {load:.1f} s on average + {late:.2f} s at most"
    yield Goal(f"{name}: next answer", "load time + 2 s", value, late < 2)
    yield Goal(f"{name}: leaked", "nothing", ", ".join(leaked) or "nothing", not leaked)


def _leaked(server: Server, before: Footprint) -> list[str]:
    """What has grown and does not go away."""
    with contextlib.suppress(TimeoutError):
        poll(lambda: server.footprint() == before, "as before", 30)
    after = asdict(server.footprint())
    return [f"{name}: {value}, now {after[name]}" for name, value in asdict(before).items() if value != after[name]]


def _kill(server: Server) -> Kill:
    (engine,) = server.children()
    ends, killed_at = asyncio.run(_streams(server.url, engine))
    poll(lambda: server.complete().status_code == 200, "an answer", ANSWER_WAIT)
    answer = time.monotonic() - killed_at
    return Kill(sum(map(_is_error_event, ends)), server.metric("octavo_startup_seconds"), answer)


async def _streams(url: str, engine: int) -> tuple[list[str], float]:
    """Kill `engine` when all streams have begun; return the last line of each, and when it was."""
    begun = [asyncio.Event() for _ in range(STREAMS)]
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as client, asyncio.TaskGroup() as group:
        streams = [group.create_task(_last_line(client, number, event)) for number, event in enumerate(begun)]
        for event in begun:
            await event.wait()
        os.kill(engine, signal.SIGKILL)
        killed_at = time.monotonic()
    return [stream.result() for stream in streams], killed_at


async def _last_line(client: httpx.AsyncClient, number: int, begun: asyncio.Event) -> str:
    last = ""
    request: dict[str, Any] = {"prompt": f"Stream {number}:", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    try:
        async with client.stream("POST", "/v1/completions", json=request) as response:
            async for line in response.aiter_lines():
                last = line or last
                begun.set()
    except httpx.HTTPError as error:
        return f"cut: {error!r}"
    finally:
        begun.set()
    return last


def _is_error_event(line: str) -> bool:
    return line.startswith("data: {") and "error" in json.loads(line.removeprefix("data: "))
