"""What the server needs beyond weights and KV cache, and what clients cost that stop reading."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from models import smollm2_safetensors
from soak.goals import Goal
from soak.requests import post
from soak.server import Server, poll, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

READERS = 200
TOKENS = 4000
POOL = 64 << 20  # bytes of KV cache; small, so that the load below touches all of it


def stalled_readers() -> Iterator[Goal]:
    """200 clients that ask for long streams and never read: what has been computed for them waits in the server."""
    with (
        Server("sim", "--max-num-seqs", str(READERS), "--kv-cache-memory", "64Gi") as server,
        contextlib.ExitStack() as open_,
    ):
        server.complete(max_tokens=100).raise_for_status()
        before = resident_bytes(server.process.pid)
        address = urlsplit(server.url)
        for _ in range(READERS):
            reader = open_.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect((address.hostname, address.port))
            reader.sendall(post(prompt="a", max_tokens=TOKENS, ignore_eos=True, stream=True))
        tokens = READERS * TOKENS
        poll(lambda: server.metric("octavo_generation_tokens_total") >= tokens + 100, "all computed", 600)
        poll(server.is_idle, "nothing runs", 60)
        grown = (resident_bytes(server.process.pid) - before) / 1e6
    yield Goal(
        f"{READERS} stalled readers of {TOKENS} tokens: memory of the API process",
        "under 50 MB",
        f"{grown:.0f} MB",
        grown < 50,
    )


def overhead() -> Iterator[Goal]:
    """SmolLM2-135M in fp32: resident memory of both processes under load, less the checkpoint and the KV cache."""
    weights = sum(file.stat().st_size for file in smollm2_safetensors().glob("*.safetensors"))
    with Server("torch", "--dtype", "float32", "--kv-cache-memory", str(POOL)) as server:
        asyncio.run(_fill_the_pool(server.url))
        (engine,) = server.children()
        api, engine_rss = resident_bytes(server.process.pid), resident_bytes(engine)
    over = (api + engine_rss - weights - POOL) / 1e6
    value = (
        f"{over:.0f} MB (API process {api / 1e6:.0f}, engine {engine_rss / 1e6:.0f}, of it weights {weights / 1e6:.0f})"
    )
    yield Goal("memory over weights and KV cache, SmolLM2-135M fp32", "under 900 MB", value, over < 900)


async def _fill_the_pool(url: str) -> None:
    """16 x 144 tokens, more than there is room for at once."""
    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as client:
        request = {"max_tokens": 64, "ignore_eos": True}
        prompts = [[100 + number] * 80 for number in range(16)]
        answers = await asyncio.gather(
            *(client.post("/v1/completions", json=request | {"prompt": prompt}) for prompt in prompts)
        )
    for answer in answers:
        answer.raise_for_status()
