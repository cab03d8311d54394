"""One streamed answer as it comes: server-sent events in OpenAI's form to the times of its pieces. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from octavo_runtime.bench.stats import CUT


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None

    @property
    def has_text(self) -> bool:
        return bool(self.text or (self.delta and (self.delta.content or self.delta.reasoning_content)))


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class Answer:
    """Fed with the body of a response; `verdict` says how it went once the response is over."""

    def __init__(self) -> None:
        self.status = 0  # 0 until the head of the response is there
        self.piece_times: list[float] = []
        self._usage: _Usage | None = None
        self._buffer = b""
        self._done = False
        self._error: str | None = None

    def begin(self, status: int) -> None:
        self.status = status

    def feed(self, data: bytes, now: float) -> None:
        """Take in a part of the body that came at `now`."""
        self._buffer += data
        if self.status != 200:
            return  # an error's body is read as one
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip(), now)

    def verdict(self) -> str | None:
        """The kind of error, or None of a complete answer: [DONE] is its only proof."""
        if self.status == 0:
            return "disconnected"
        if self.status != 200:
            return f"http_{self.status}{_code_of(self._buffer)}"
        if self._error is not None:
            return self._error
        return None if self._done else CUT

    def tokens(self) -> tuple[int, int]:
        """Tokens in and out: as the server counts, or else 0 and one for each piece."""
        if self._usage is None:
            return 0, len(self.piece_times)
        return self._usage.prompt_tokens, self._usage.completion_tokens

    def _event(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        try:
            chunk = _decoder.decode(data)
        except msgspec.DecodeError:
            self._error = "stream/not_understood"
            return
        if chunk.error is not None:
            self._error = f"stream{_code(chunk.error)}"
        elif any(choice.has_text for choice in chunk.choices):
            self.piece_times.append(now)
        if chunk.usage is not None:
            self._usage = chunk.usage


def _code_of(body: bytes) -> str:
    try:
        return _code(_decoder.decode(body).error)
    except msgspec.DecodeError:
        return ""


def _code(error: object) -> str:
    """`/engine_died` of {"code": "engine_died", …}; nothing where there is no code."""
    code = (error.get("code") or error.get("type")) if isinstance(error, dict) else None
    return f"/{code}" if code else ""
