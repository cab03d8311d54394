"""OpenAI's endpoints. Routes only translate: service.py decides, answers.py shapes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
from fastapi import APIRouter
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotations at run time
from starlette.responses import Response

from octavo_runtime.errors import UnknownModel
from octavo_runtime.server import answers
from octavo_runtime.server.openai import ChatCompletionRequest, CompletionRequest  # noqa: TC001  as above
from octavo_runtime.server.schema import ModelCard, ModelList
from octavo_runtime.server.stream import EventStream
from octavo_runtime.server.terms import terms_of

if TYPE_CHECKING:
    from octavo_runtime.server.generation import Generation, TextDelta
    from octavo_runtime.server.service import Service


def openai_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/models")
    async def list_models() -> Response:
        return _json(ModelList([_card(service)]))

    @router.get("/models/{model:path}")
    async def get_model(model: str) -> Response:
        if model != service.model_name:
            raise UnknownModel(model, service.model_name)
        return _json(_card(service))

    @router.post("/completions")
    async def complete(body: CompletionRequest, request: Request) -> Response:
        generation = await service.complete(body, terms_of(body, request))
        header = answers.completion_header(service.model_name)
        if body.stream:
            return EventStream(answers.completion_chunks(header, body, generation), generation)
        whole = await _whole(generation, request)
        return _json(answers.whole_completion(header, body, generation, whole)) if whole else Response(status_code=499)

    @router.post("/chat/completions")
    async def chat(body: ChatCompletionRequest, request: Request) -> Response:
        generation = await service.chat(body, terms_of(body, request))
        header = answers.chat_header(service.model_name)
        if body.stream:
            return EventStream(answers.chat_chunks(header, body, generation), generation)
        whole = await _whole(generation, request)
        return _json(answers.whole_chat(header, body, generation, whole)) if whole else Response(status_code=499)

    return router


async def _whole(generation: Generation, request: Request) -> list[TextDelta] | None:
    """The whole answer, or None when the client has gone, of which a plain handler is not told."""
    answer = asyncio.ensure_future(generation.whole())
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        answer.cancel()
        gone.cancel()
        generation.close()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _card(service: Service) -> ModelCard:
    length = service.ready.limits.max_model_len if service.ready else None
    return ModelCard(service.model_name, service.started_at, length)


def _json(body: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
