"""/tokenize and /detokenize, as vLLM has them: what a text costs, before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from octavo_runtime.errors import RequestError
from octavo_runtime.server.openai import ChatCompletionRequest, Message
from octavo_runtime.server.sampling import check_vocabulary
from octavo_runtime.server.service import encode_chat, in_thread_if_long

if TYPE_CHECKING:
    from octavo_runtime.server.service import Ready, Service

_CHAT_FIELDS: Final = (
    "messages",
    "add_special_tokens",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
)


class TokenizeRequest(BaseModel):
    """Either a prompt or messages, with what changes their tokens."""

    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    prompt: str | None = None
    messages: list[Message] | None = Field(None, min_length=1)
    add_special_tokens: bool | None = None  # default: true for a prompt, false for messages
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, object] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    model: str | None = None
    tokens: list[int]


class Tokens(msgspec.Struct):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class Text(msgspec.Struct):
    prompt: str


def token_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> Response:
        ready = service.admit_model(body.model)
        tokens = await _encode(ready, body)
        names = [ready.tokenizer.pieces.name_of(token) for token in tokens] if body.return_token_strs else None
        answer = Tokens(len(tokens), ready.limits.max_model_len, tokens, names)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest) -> Response:
        ready = service.admit_model(body.model)
        check_vocabulary("tokens", body.tokens, ready.limits.vocab_size)
        text = ready.tokenizer.decode(body.tokens, skip_special_tokens=False)
        return Response(msgspec.json.encode(Text(text)), media_type="application/json")

    return router


async def _encode(ready: Ready, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise RequestError("prompt: give either prompt or messages", param="prompt")
    if body.prompt is not None:
        return await in_thread_if_long(ready.tokenizer.encode, body.prompt, body.add_special_tokens is not False)
    fields = {name: getattr(body, name) for name in _CHAT_FIELDS}
    chat = ChatCompletionRequest(**fields)
    chat.reject_unsupported()
    return await encode_chat(ready.tokenizer, chat)
