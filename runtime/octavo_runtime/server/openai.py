"""OpenAI's wire format: what we accept (pydantic, bounded). Fields that OpenAI does not have are vLLM's.

A field that we do not know is ignored, as OpenAI's clients expect of a server. A field that we do know, that would
change the answer and that is not implemented, is refused by name unless it has the value that changes nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from octavo_runtime.errors import RequestError, UnsupportedParameter

MAX_STOP_STRINGS: Final = 4
MAX_STOP_LENGTH: Final = 1000  # characters
MAX_STOP_TOKEN_IDS: Final = 64
MAX_COUNT: Final = 1 << 31
MAX_CHOICES: Final = 128  # values of n
MAX_LOGPROBS: Final = 20  # tokens named beside the chosen one
MAX_BIASES: Final = 1024
MAX_BAD_WORDS: Final = 128

# Field: the values that change nothing. Any other value is refused, where an endpoint does not take the field.
_UNSUPPORTED: Final[dict[str, tuple[Any, ...]]] = {
    "add_generation_prompt": (True,),
    "audio": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "length_penalty": (1, 1.0),
    "modalities": (["text"],),
    "prompt_embeds": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
    "web_search_options": (),
}


Prompt = str | list[int]


def _prompts(value: object) -> list[Prompt]:
    """A string, a list of token ids, or a list of such."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(type(item) is int for item in value)):
        return [value]
    if isinstance(value, list) and value and all(_is_prompt(item) for item in value):
        return value
    raise ValueError("must be a string, a list of token ids, or a list of these, none of them empty")


def _is_prompt(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(item) is int for item in value)
    return isinstance(value, str)


def _biases(value: object) -> tuple[tuple[int, float], ...]:
    """{"token id": what is added to its logit}"""
    if value is None:
        return ()
    if not isinstance(value, dict):
        raise ValueError("must be an object with token ids as keys")  # noqa: TRY004  pydantic wants it
    if len(value) > MAX_BIASES:
        raise ValueError(f"has {len(value)} tokens, at most {MAX_BIASES} are allowed")
    return tuple((_token_id(token), _bias(token, bias)) for token, bias in value.items())


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 12):
        raise ValueError(f"has the key {key[:40]!r}, which is no token id")
    return int(key)


def _bias(token: str, value: object) -> float:
    if type(value) not in {int, float} or not -100 <= value <= 100:  # type: ignore[operator]
        raise ValueError(f"has {str(value)[:40]} for token {token}; a bias is a number from -100 to 100")
    return float(value)  # type: ignore[arg-type]


def _stop_strings(value: object) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if stops is None:
        return ()
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("must be a string or a list of strings, none of them empty")
    if len(stops) > MAX_STOP_STRINGS:
        raise ValueError(f"has {len(stops)} strings, at most {MAX_STOP_STRINGS} are allowed")
    if max(map(len, stops), default=0) > MAX_STOP_LENGTH:
        raise ValueError(f"has a string of more than {MAX_STOP_LENGTH} characters")
    return tuple(stops)


def _plain_text(value: object) -> object:
    """Join the parts of a content that is given as a list."""
    if not isinstance(value, list):
        return value
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise PydanticCustomError("unsupported_parameter", "only parts of type 'text' are supported")
    return "".join(part["text"] for part in value)


class Message(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_plain_text, json_schema_input_type=str | list[dict[str, str]])]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None  # in each chunk too


class GenerationRequest(BaseModel, ABC):
    """What both endpoints take."""

    model_config = ConfigDict(extra="allow", strict=True)

    model: str | None = None  # default: the served model
    max_tokens: int | None = Field(None, ge=1, le=MAX_COUNT)  # default: as many as fit
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=MAX_COUNT)  # 0 and -1: all
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)  # default: a random one
    min_tokens: int | None = Field(None, ge=0, le=MAX_COUNT)
    ignore_eos: bool | None = None
    stop: Annotated[tuple[str, ...], PlainValidator(_stop_strings, json_schema_input_type=str | list[str] | None)] = ()
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=MAX_STOP_TOKEN_IDS)
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None  # in the text; default: true
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    presence_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    frequency_penalty: float | None = Field(None, ge=-2, le=2, allow_inf_nan=False)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100, allow_inf_nan=False)
    logit_bias: Annotated[
        tuple[tuple[int, float], ...], PlainValidator(_biases, json_schema_input_type=dict[str, float] | None)
    ] = ()
    bad_words: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]] | None = Field(
        None, max_length=MAX_BAD_WORDS
    )
    allowed_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, min_length=1)
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)  # only n: nothing is generated to be thrown away
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    truncate_prompt_tokens: int | None = Field(None, ge=-1, le=MAX_COUNT)  # keep so many at the end; -1: what fits
    add_special_tokens: bool | None = None  # to the prompt; default: true for a completion, false for a chat
    priority: int | None = Field(None, ge=-1000, le=1000)  # lower is earlier, among the tenant's own; default: 0
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)  # seconds after which an answer is of no use
    cache_salt: str | None = Field(None, max_length=MAX_STOP_LENGTH)  # divides the tenant's prefix cache
    user: str | None = Field(None, max_length=MAX_STOP_LENGTH)  # the tenant, where there is no API key
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.continuous_usage_stats)

    @property
    def length_limit(self) -> tuple[str, int | None]:
        """The parameter that bounds the answer's tokens, and its value."""
        return "max_tokens", self.max_tokens

    @property
    def num_choices(self) -> int:
        """For each prompt."""
        return self.n or 1

    @property
    @abstractmethod
    def top_logprobs_wanted(self) -> int | None:
        """How many tokens to name beside each chosen one; None: no log probabilities at all."""

    @property
    def prompt_logprobs_wanted(self) -> int | None:
        """The same for each token of the prompt."""
        return self.prompt_logprobs

    def reject_unsupported(self) -> None:
        """Raises `UnsupportedParameter` for the first field that is known and not implemented."""
        _reject_unsupported(self.model_extra or {})
        if self.best_of not in {None, self.num_choices}:
            message = f"best_of: {self.best_of} is not supported by this server, only n, which is {self.num_choices}"
            raise UnsupportedParameter(message, param="best_of")
        if self.continuous_usage and not self.include_usage:
            param = "stream_options.continuous_usage_stats"
            raise RequestError(f"{param}: needs stream_options.include_usage", param=param)
        if self.prompt_logprobs is not None and self.stream:
            raise UnsupportedParameter("prompt_logprobs: is not supported with stream", param="prompt_logprobs")


class CompletionRequest(GenerationRequest):
    prompt: Annotated[
        list[Prompt], PlainValidator(_prompts, json_schema_input_type=str | list[int] | list[str] | list[list[int]])
    ]
    max_tokens: int | None = Field(None, ge=0, le=MAX_COUNT)  # 0 only with echo
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def top_logprobs_wanted(self) -> int | None:
        return self.logprobs

    @property
    def prompt_logprobs_wanted(self) -> int | None:
        """An echo has the log probabilities that the answer has."""
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((top for top in wanted if top is not None), default=None)

    def reject_unsupported(self) -> None:
        super().reject_unsupported()
        if self.max_tokens == 0 and not self.echo:
            raise RequestError("max_tokens: 0 needs echo; without it, must be at least 1", param="max_tokens")


class ChatCompletionRequest(GenerationRequest):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_COUNT)  # OpenAI's newer name; wins over max_tokens
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    add_generation_prompt: bool | None = None  # default: true, unless the final message is continued
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    @property
    def length_limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().length_limit

    @property
    def top_logprobs_wanted(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    def reject_unsupported(self) -> None:
        super().reject_unsupported()
        if self.top_logprobs and not self.logprobs:
            raise RequestError(f"top_logprobs: {self.top_logprobs} needs logprobs", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            conflict = "continue_final_message: excludes add_generation_prompt, which begins another message"
            raise RequestError(conflict, param="continue_final_message")
        for index, message in enumerate(self.messages):
            _reject_unsupported(message.model_extra or {}, f"messages[{index}].")


def _reject_unsupported(fields: dict[str, Any], prefix: str = "") -> None:
    for name, value in fields.items():
        harmless = _UNSUPPORTED.get(name)
        if harmless is None or value is None:
            continue
        if not any(type(value) is type(same) and value == same for same in harmless):
            param = prefix + name
            raise UnsupportedParameter(f"{param}: is not supported by this server", param=param)
