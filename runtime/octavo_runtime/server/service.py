"""From a parsed request to a running generation: everything is checked here, before the engine sees it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from octavo_runtime.engine.state_page import Phase
from octavo_runtime.errors import ModelLoading, RequestError, UnknownModel
from octavo_runtime.metrics import RuntimeCollector
from octavo_runtime.server.generation import Choice, Generation, Prompt
from octavo_runtime.server.sampling import after_prompt, check_vocabulary, choice_seed, sampling_params, truncate
from octavo_runtime.sources.child import ModelFetch
from octavo_runtime.text.chat import render
from octavo_runtime.text.detokenize import Detokenizer
from octavo_runtime.text.special import ContentGuard

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.core.batch import SamplingParams
    from octavo_runtime.engine.client import EngineClient
    from octavo_runtime.engine.messages import Started, Terms
    from octavo_runtime.metrics import RequestMetrics
    from octavo_runtime.server.lifecycle import Lifecycle
    from octavo_runtime.server.openai import ChatCompletionRequest, CompletionRequest, GenerationRequest
    from octavo_runtime.text.tokenizer import Tokenizer

_SHORT_TEXT: Final = 4096  # characters that are tokenised at once; longer ones in a thread, beside the event loop


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
        self.fetch = ModelFetch()
        self.started_at = int(time.time())
        self._since = time.monotonic()
        self._most_choices = config.max_num_seqs + config.max_queued_requests
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

    def startup(self) -> tuple[str, float]:
        """The phase of the start, and how much of it is done, 0 to 1."""
        state = self.engine.state()
        if self.ready is not None:
            return "ready", 1.0
        if self.fetch.meter is not None:
            return "fetch", self.fetch.meter.share
        return ("tokenizer", 0.0) if state.phase == Phase.READY else (state.phase.name.lower(), state.progress)

    async def complete(self, request: CompletionRequest, terms: Terms) -> Generation:
        """Start a completion of each prompt. Raises `RequestError`."""
        ready = self._admit(request)
        self._check_choices(len(request.prompt), request.num_choices, "prompt")
        prompts = []
        for prompt in request.prompt:
            prompts.append(await _read_prompt(ready, request, prompt))
            await asyncio.sleep(0)  # hundreds of short ones must not keep the event loop from everybody else
        return self._start(ready, request, prompts, "prompt", terms)

    async def chat(self, request: ChatCompletionRequest, terms: Terms) -> Generation:
        """Start the assistant's next message. Raises `RequestError`."""
        ready = self._admit(request)
        self._check_choices(1, request.num_choices, "n")
        tokens = await encode_chat(ready.tokenizer, request)
        tokens = truncate(request, tokens, ready.limits.max_model_len)
        return self._start(ready, request, [Prompt(tokens, "")], "messages", terms)

    def admit_model(self, model: str | None) -> Ready:
        """Raises `RequestError` unless the model is ready, and the one that is asked for."""
        if self.ready is None:
            raise ModelLoading(self.startup()[0])
        if model not in {None, self.model_name}:
            raise UnknownModel(str(model), self.model_name)
        return self.ready

    def _admit(self, request: GenerationRequest) -> Ready:
        ready = self.admit_model(request.model)
        request.reject_unsupported()
        return ready

    def _check_choices(self, num_prompts: int, num_choices: int, param: str) -> None:
        """More than may ever be queued together would be refused as "try again" for ever."""
        if num_prompts * num_choices > self._most_choices:
            message = (
                f"{param}: {num_prompts} prompts with n = {num_choices} are more than {self._most_choices} choices"
            )
            raise RequestError(message, param=param)

    def _start(
        self, ready: Ready, request: GenerationRequest, prompts: list[Prompt], prompt_param: str, terms: Terms
    ) -> Generation:
        """Submit all choices or none. Each is a sequence of its own; those of one prompt differ in their seed."""
        common = sampling_params(request, ready.tokenizer, ready.limits)
        params = [after_prompt(common, request, ready.limits, len(prompt.tokens), prompt_param) for prompt in prompts]
        choices: list[Choice] = []
        try:
            for prompt, first in zip(prompts, params, strict=True):
                for number in range(request.num_choices):
                    own = replace(first, seed=choice_seed(first.seed, number))
                    choices.append(self._submit(ready, request, prompt, own, terms))
        except RequestError:
            for choice in choices:
                choice.close()
            raise
        return Generation(choices, request.num_choices, ready.tokenizer)

    def _submit(
        self, ready: Ready, request: GenerationRequest, prompt: Prompt, params: SamplingParams, terms: Terms
    ) -> Choice:
        detokenizer = Detokenizer(
            ready.tokenizer,
            request.stop,
            prompt_ids=prompt.tokens,
            skip_special_tokens=request.skip_special_tokens is not False,
            include_stop=bool(request.include_stop_str_in_output),
        )
        slot = self.engine.submit(prompt.tokens, params, terms)
        return Choice(
            self.engine,
            slot,
            detokenizer,
            prompt,
            max_tokens=request.length_limit[1],
            min_tokens=params.min_tokens,
            shows_stop_token=bool(request.include_stop_str_in_output),
        )


def _default_name(model: Path) -> str:
    return model.stem if model.suffix == ".gguf" else model.resolve().name


async def _read_prompt(ready: Ready, request: CompletionRequest, prompt: str | list[int]) -> Prompt:
    if isinstance(prompt, str):
        special = request.add_special_tokens is not False
        tokens = await in_thread_if_long(ready.tokenizer.encode, prompt, special)
    else:
        tokens = prompt
        check_vocabulary("prompt", tokens, ready.limits.vocab_size)
    kept = truncate(request, tokens, ready.limits.max_model_len)
    if not request.echo:
        return Prompt(kept, "")
    whole = isinstance(prompt, str) and len(kept) == len(tokens)
    skip_special = request.skip_special_tokens is not False
    return Prompt(kept, str(prompt) if whole else ready.tokenizer.decode(kept, skip_special))


async def encode_chat(tokenizer: Tokenizer, chat: ChatCompletionRequest) -> list[int]:
    """The tokens of a conversation, by the model's own template. Raises `RequestError`."""
    if tokenizer.chat_template is None:
        raise RequestError("messages: the model has no chat template; use /v1/completions", param="messages")
    guard = ContentGuard(tokenizer)
    text = render(
        [{"role": _template_role(message.role), "content": guard.hide(message.content)} for message in chat.messages],
        tokenizer.chat_template,
        add_generation_prompt=not chat.continue_final_message and chat.add_generation_prompt is not False,
        continue_final_message=bool(chat.continue_final_message),
        special_tokens=tokenizer.special_tokens,
        variables=chat.chat_template_kwargs,
    )
    # Where the template has written BOS and the like, as nearly all do, the tokenizer must not do it again.
    special = bool(chat.add_special_tokens)
    if guard.hides_something:  # rare, and the first time slow
        return await asyncio.to_thread(guard.encode, text, special)
    return await in_thread_if_long(guard.encode, text, special)


def _template_role(role: str) -> str:
    """OpenAI's newer name for the system's voice is unknown to models' templates."""
    return "system" if role == "developer" else role


async def in_thread_if_long(encode: Callable[[str, bool], list[int]], text: str, add_special_tokens: bool) -> list[int]:
    if len(text) <= _SHORT_TEXT:
        return encode(text, add_special_tokens)
    return await asyncio.to_thread(encode, text, add_special_tokens)
