"""Clients that leave at any moment: while they wait, in a prefill, in a stream."""

from __future__ import annotations

import asyncio
import contextlib
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from soak.goals import Goal
from soak.requests import post
from soak.server import Server, poll

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENTS = 50
LONGEST_PATIENCE = 0.1  # seconds until a client leaves, at most
FLAGS = (
    "--kv-cache-memory",
    "64Mi",
    "--max-num-seqs",
    "32",
    "--max-num-batched-tokens",
    "128",
    "--max-model-len",
    "1024",
)


def run(runner: str, count: int) -> Iterator[Goal]:
    with Server(runner, *FLAGS) as server:
        asyncio.run(_cancel(server.url, count))
        poll(server.is_idle, "all blocks free", 120)
        used = int(server.metric("octavo_kv_tokens_used"))
        capacity = min(int(server.metric("octavo_kv_tokens_capacity")), 1024)
        largest = server.complete(prompt=[7] * (capacity - 8), max_tokens=8)
        met = used == 0 and largest.json()["usage"]["total_tokens"] == capacity
        yield Goal(f"{count} cancels, {runner}: tokens of KV cache still held", "0", str(used), met)


async def _cancel(url: str, count: int) -> None:
    random = Random(7)
    host, port = urlsplit(url).hostname, urlsplit(url).port

    async def client() -> None:
        for _ in range(count // CLIENTS):
            reader, writer = await asyncio.open_connection(host, port)
            prompt = [random.randrange(1000) for _ in range(random.randrange(1, 300))]
            writer.write(post(prompt=prompt, max_tokens=random.randrange(1, 500), ignore_eos=True, stream=True))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1 << 20), random.random() * LONGEST_PATIENCE)
            writer.transport.abort()

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
