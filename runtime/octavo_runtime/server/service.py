"""From a parsed request to a running generation: everything is checked here, before the engine sees it."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.errors import ContextLengthExceeded, ModelLoading, RequestError, UnknownModel
from octavo_runtime.metrics import RuntimeCollector
from octavo_runtime.server.generation import Generation
from octavo_runtime.text.chat import render
from octavo_runtime.text.detokenize import Detokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.engine.client import EngineClient
    from octavo_runtime.engine.messages import Started
    from octavo_runtime.metrics import RequestMetrics
    from octavo_runtime.server.lifecycle import Lifecycle
    from octavo_runtime.server.openai import ChatCompletionRequest, CompletionRequest, GenerationRequest
    from octavo_runtime.text.tokenizer import Tokenizer

_SHORT_TEXT: Final = 4096  # characters that are tokenised at once; longer ones in a thread, beside the event loop

_COLDEST: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Ready:
    """What is known once the model is loaded."""

    tokenizer: Tokenizer
    limits: Started


class Service:
    """What the routes work with."""

    def __init__(
        self, config: ServeConfig, engine: EngineClient, lifecycle: Lifecycle, requests: RequestMetrics
    ) -> None:
        self.model_name = config.served_model_name or _default_name(config.model)
        self.engine = engine
        self.lifecycle = lifecycle
        self.ready: Ready | None = None
        self.started_at = int(time.time())
        self._since = time.monotonic()
        self.collector = RuntimeCollector(
            self.model_name,
            requests,
            state=engine.state,
            started=lambda: self.ready.limits if self.ready else None,
            draining=lambda: lifecycle.draining,
        )

    def uptime(self) -> float:
        """Seconds."""
        return time.monotonic() - self._since

    async def complete(self, request: CompletionRequest) -> Generation:
        """Start a completion. Raises `RequestError`."""
        ready = self._admit(request)
        if isinstance(request.prompt, str):
            tokens = await _encode(ready.tokenizer, request.prompt, add_special_tokens=True)
        else:
            tokens = request.prompt
            _check_vocabulary("prompt", tokens, ready.limits.vocab_size)
        return self._start(ready, request, tokens, "prompt")

    async def chat(self, request: ChatCompletionRequest) -> Generation:
        """Start the assistant's next message. Raises `RequestError`."""
        ready = self._admit(request)
        if ready.tokenizer.chat_template is None:
            raise RequestError("messages: the model has no chat template; use /v1/completions", param="messages")
        text = render(
            [{"role": _template_role(message.role), "content": message.content} for message in request.messages],
            ready.tokenizer.chat_template,
            special_tokens=ready.tokenizer.special_tokens,
        )
        tokens = await _encode(ready.tokenizer, text, add_special_tokens=False)  # the template has written them
        return self._start(ready, request, tokens, "messages")

    def _admit(self, request: GenerationRequest) -> Ready:
        if self.ready is None:
            raise ModelLoading(self.engine.state().phase.name.lower())
        if request.model not in {None, self.model_name}:
            raise UnknownModel(str(request.model), self.model_name)
        request.reject_unsupported()
        return self.ready

    def _start(self, ready: Ready, request: GenerationRequest, prompt: list[int], prompt_param: str) -> Generation:
        params = sampling_params(
            request,
            max_tokens=_fit(request, len(prompt), ready.limits.max_model_len, prompt_param),
            eos_token_ids=ready.tokenizer.eos_token_ids,
            vocab_size=ready.limits.vocab_size,
        )
        detokenizer = Detokenizer(ready.tokenizer, request.stop, prompt_ids=prompt)
        return Generation(self.engine, self.engine.submit(prompt, params), detokenizer, len(prompt))


def _default_name(model: Path) -> str:
    return model.stem if model.suffix == ".gguf" else model.resolve().name


def sampling_params(
    request: GenerationRequest, *, max_tokens: int, eos_token_ids: frozenset[int], vocab_size: int
) -> SamplingParams:
    """OpenAI's defaults filled in; a random seed where none is given."""
    own_stops = request.stop_token_ids or []
    _check_vocabulary("stop_token_ids", own_stops, vocab_size)
    min_tokens = request.min_tokens or 0
    if min_tokens > max_tokens:
        message = f"min_tokens: {min_tokens} is more than the {max_tokens} tokens that may be generated"
        raise RequestError(message, param="min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=_temperature(request.temperature),
        top_p=1.0 if request.top_p is None else request.top_p,
        top_k=min(max(request.top_k or 0, 0), vocab_size),
        seed=secrets.randbits(63) if request.seed is None else request.seed % (1 << 63),
        stop_token_ids=frozenset(own_stops) | (frozenset() if request.ignore_eos else eos_token_ids),
        min_tokens=min_tokens,
    )


def _temperature(asked: float | None) -> float:
    """Below `_COLDEST` dividing by it overflows, and the most likely token has all of the probability anyway."""
    if asked is None:
        return 1.0
    return asked if asked >= _COLDEST else 0.0


def _fit(request: GenerationRequest, num_prompt: int, max_model_len: int, prompt_param: str) -> int:
    """The number of tokens to generate at most. Raises when prompt and answer cannot both fit."""
    if num_prompt == 0:
        raise RequestError(f"{prompt_param}: has no tokens", param=prompt_param)
    room = max_model_len - num_prompt
    if room < 1:
        message = f"{prompt_param}: {num_prompt} tokens; this server takes {max_model_len}, prompt and answer together"
        raise ContextLengthExceeded(message, param=prompt_param)
    param, max_tokens = request.length_limit
    if max_tokens is None:
        return room
    if max_tokens > room:
        message = (
            f"{param}: {max_tokens} and a prompt of {num_prompt} tokens are more than the {max_model_len} tokens "
            "that this server takes"
        )
        raise ContextLengthExceeded(message, param=param)
    return max_tokens


def _check_vocabulary(param: str, token_ids: list[int], vocab_size: int) -> None:
    wrong = next((token for token in token_ids if not 0 <= token < vocab_size), None)
    if wrong is not None:
        raise RequestError(f"{param}: token id {wrong} is not in [0, {vocab_size})", param=param)


def _template_role(role: str) -> str:
    """OpenAI's newer name for the system's voice is unknown to models' templates."""
    return "system" if role == "developer" else role


async def _encode(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool) -> list[int]:
    if len(text) <= _SHORT_TEXT:
        return tokenizer.encode(text, add_special_tokens)
    return await asyncio.to_thread(tokenizer.encode, text, add_special_tokens)
