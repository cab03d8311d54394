"""OpenAI's wire format: what we accept (pydantic, bounded) and what we answer (msgspec, like the official client's).

A field that we do not know is ignored, as OpenAI's clients expect of a server. A field that we do know, that would
change the answer and that is not implemented, is refused by name unless it has the value that changes nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from octavo_runtime.errors import UnsupportedParameter

MAX_STOP_STRINGS: Final = 4
MAX_STOP_LENGTH: Final = 1000  # characters
MAX_STOP_TOKEN_IDS: Final = 64
MAX_COUNT: Final = 1 << 31

# Field: the values that change nothing. Any other value is refused.
_UNSUPPORTED: Final[dict[str, tuple[Any, ...]]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "frequency_penalty": (0, 0.0),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1, 1.0),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0, 0.0),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0, 0.0),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "repetition_penalty": (1, 1.0),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_calls": ([],),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}


def _one_prompt(value: object) -> str | list[int]:
    """A string, a list of token ids, or a list with one of these."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], (str, list)):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return value
    if isinstance(value, list) and len(value) > 1 and all(isinstance(item, (str, list)) for item in value):
        raise PydanticCustomError("unsupported_parameter", "one prompt per request is supported, not several")
    raise ValueError("must be a string or a list of token ids, not empty")


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


class GenerationRequest(BaseModel):
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
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def length_limit(self) -> tuple[str, int | None]:
        """The parameter that bounds the answer's tokens, and its value."""
        return "max_tokens", self.max_tokens

    def reject_unsupported(self) -> None:
        """Raises `UnsupportedParameter` for the first field that is known and not implemented."""
        _reject_unsupported(self.model_extra or {})


class CompletionRequest(GenerationRequest):
    prompt: Annotated[str | list[int], PlainValidator(_one_prompt, json_schema_input_type=str | list[int] | list[str])]


class ChatCompletionRequest(GenerationRequest):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_COUNT)  # OpenAI's newer name; wins over max_tokens

    @property
    def length_limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is not None:
            return "max_completion_tokens", self.max_completion_tokens
        return super().length_limit

    def reject_unsupported(self) -> None:
        super().reject_unsupported()
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


FinishReason = Literal["stop", "length"]


class Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(msgspec.Struct):
    text: str
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: None = None


class Completion(msgspec.Struct):
    """An answer of /v1/completions, and each of its chunks."""

    id: str
    created: int  # Unix time
    model: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "text_completion"


class ChatMessage(msgspec.Struct):
    content: str
    role: str = "assistant"
    refusal: None = None


class ChatChoice(msgspec.Struct):
    message: ChatMessage
    finish_reason: FinishReason
    index: int = 0
    logprobs: None = None


class ChatCompletion(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    object: str = "chat.completion"


class ChatDelta(msgspec.Struct, omit_defaults=True):
    role: str | None = None
    content: str | None = None


class ChatChunkChoice(msgspec.Struct):
    delta: ChatDelta
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: None = None


class ChatChunk(msgspec.Struct):
    id: str
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | msgspec.UnsetType | None = msgspec.UNSET
    object: str = "chat.completion.chunk"


class ModelCard(msgspec.Struct):
    id: str
    created: int
    max_model_len: int | None = None  # tokens; not OpenAI's, but clients of vLLM read it
    object: str = "model"
    owned_by: str = "octavo"


class ModelList(msgspec.Struct):
    data: list[ModelCard]
    object: str = "list"
