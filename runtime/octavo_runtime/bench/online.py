"""Load on any server that speaks OpenAI's API, over HTTP.

In an open loop each request is sent when it is due, whether or not the server has answered the others; a request that
the client itself sends late is counted as such. All requests are encoded before the clock runs.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Final

from octavo_runtime.bench.answer import Answer
from octavo_runtime.bench.http_client import HttpClient, fetch
from octavo_runtime.bench.load import poisson_arrivals
from octavo_runtime.bench.stats import Record
from octavo_runtime.errors import EngineFailed, InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from octavo_runtime.bench.load import Load
    from octavo_runtime.bench.prompts import Prompt

_ASK_SECONDS: Final = 10.0  # patience for the questions before the run


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the server, apart from the prompts."""

    model: str | None  # default: the first that the server lists
    endpoint: str  # auto | completions | chat
    ignore_eos: bool
    temperature: float
    timeout: float  # seconds per request
    warmup: int  # requests before the clock runs


class OnlineRun:
    """One run. `records` grows as answers come."""

    def __init__(self, client: HttpClient, bodies: Sequence[bytes], timeout: float) -> None:
        self._client = client
        self._bodies = bodies
        self._timeout = timeout
        self._start = time.perf_counter()
        self.records: list[Record] = []

    async def open_loop(self, schedule: Sequence[float]) -> None:
        """Send request i at `schedule[i]` seconds from now, and wait for the last answer."""
        self._start = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for index, due in enumerate(schedule):
                if (wait := due - self._now()) > 0:
                    await asyncio.sleep(wait)
                group.create_task(self._one(index, due))

    async def closed_loop(self, concurrency: int) -> None:
        """`concurrency` clients, each with one request at a time."""
        self._start = time.perf_counter()
        numbers = count()

        async def client() -> None:
            while (index := next(numbers)) < len(self._bodies):
                await self._one(index, None)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(concurrency, len(self._bodies))):
                group.create_task(client())

    async def _one(self, index: int, due: float | None) -> None:
        sent = self._now()
        answer, error = Answer(), None
        try:
            async with asyncio.timeout(self._timeout):
                await self._client.send(self._bodies[index], answer)
        except TimeoutError:
            error = "timeout"
        except OSError:
            error = "connect"
        arrival = sent if due is None else due
        tokens_in, tokens_out = answer.tokens()
        self.records.append(
            Record(
                arrival=arrival,
                lateness=sent - arrival,
                piece_times=[piece - self._start for piece in answer.piece_times],
                end=self._now(),
                input_tokens=tokens_in,
                output_tokens=tokens_out,
                error=error or answer.verdict(),
            )
        )

    def _now(self) -> float:
        return time.perf_counter() - self._start


async def run_online(
    client: HttpClient,
    prompts: Sequence[Prompt],
    request: Request,
    load: Load,
    *,
    seed: int,
    progress: Callable[[Sequence[Record]], None],
) -> tuple[list[Record], dict[str, Any]]:
    """The records of a run, and what the server says of itself. Raises `EngineFailed` when the warm-up fails."""
    _allow_many_connections()
    server = await ask_server(client)
    model = request.model or server["model"]
    bodies = [encode_request(client, prompt, request, model) for prompt in prompts]
    await _warm_up(client, bodies[: request.warmup], request.timeout)
    run = OnlineRun(client, bodies, request.timeout)
    reporter = asyncio.create_task(_report(run, progress))
    try:
        if load.rate is not None:
            await run.open_loop(poisson_arrivals(load.rate, len(bodies), seed))
        else:
            await run.closed_loop(load.concurrency or len(bodies))
    finally:
        reporter.cancel()
    return run.records, {**server, "model": model}


async def ask_server(client: HttpClient) -> dict[str, Any]:
    """The server's first model and, if it is one of ours, its version."""
    _, models = await fetch(client, "/v1/models", _ASK_SECONDS)
    _, own = await fetch(client, "/version", _ASK_SECONDS)
    listed = _field(models, "data")
    first = listed[0].get("id") if isinstance(listed, list) and listed and isinstance(listed[0], dict) else None
    return {"model": first, "version": _field(own, "version")}


def _field(body: bytes, name: str) -> Any:  # noqa: ANN401  JSON
    with suppress(ValueError):
        content = json.loads(body)
        return content.get(name) if isinstance(content, dict) else None
    return None


def encode_request(client: HttpClient, prompt: Prompt, request: Request, model: str | None) -> bytes:
    """The whole HTTP request. Raises `InvalidArgument` for messages that are to go to /v1/completions."""
    as_chat = request.endpoint == "chat" or (request.endpoint == "auto" and prompt.messages is not None)
    body: dict[str, Any] = {"model": model} if model is not None else {}
    body |= _content(prompt, as_chat=as_chat)
    body |= {"max_tokens": prompt.max_tokens, "temperature": request.temperature}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    if request.ignore_eos:
        body["ignore_eos"] = True  # not OpenAI's; Octavo, vLLM and SGLang know it
    path = "/v1/chat/completions" if as_chat else "/v1/completions"
    return client.encode("POST", path, json.dumps(body).encode())


def _content(prompt: Prompt, *, as_chat: bool) -> dict[str, Any]:
    if not as_chat:
        if prompt.messages is not None:
            raise InvalidArgument("--endpoint completions takes no messages; a chat template is the server's")
        return {"prompt": prompt.text if prompt.text is not None else list(prompt.token_ids or ())}
    if prompt.messages is not None:
        return {"messages": list(prompt.messages)}
    if prompt.text is None:
        raise InvalidArgument("--endpoint chat takes no token ids")
    return {"messages": [{"role": "user", "content": prompt.text}]}


async def _warm_up(client: HttpClient, bodies: Sequence[bytes], seconds: float) -> None:
    run = OnlineRun(client, bodies, seconds)
    await run.closed_loop(1)
    for record in run.records:
        if record.error is not None:
            raise EngineFailed(f"a request before the run failed: {record.error}; nothing was measured")


async def _report(run: OnlineRun, progress: Callable[[Sequence[Record]], None]) -> None:
    while True:
        await asyncio.sleep(1.0)
        progress(run.records)


def _allow_many_connections() -> None:
    """As many open files as we may have: each request under way has a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
