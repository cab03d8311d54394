"""The API process's view of the engine: submit, abort, read results, see its state."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from octavo_runtime import errors
from octavo_runtime.core.sequence import FinishReason
from octavo_runtime.engine.messages import Abort, Add, Terms
from octavo_runtime.engine.slot import OutputSlot
from octavo_runtime.engine.supervisor import Supervisor

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.core.batch import SamplingParams
    from octavo_runtime.engine.incarnation import Incarnation
    from octavo_runtime.engine.messages import StepDone
    from octavo_runtime.engine.state_page import EngineState

DEFAULT_TERMS: Final = Terms()
# What the metrics count where it is not just an error.
_FAILURES: Final[dict[type[errors.RequestError], str]] = {
    errors.Aborted: FinishReason.ABORT.value,
    errors.DeadlineExceeded: FinishReason.DEADLINE.value,
}


class Observer(Protocol):
    """Told what happens to requests and to the engine, for metrics. Times are seconds of time.monotonic()."""

    def queued(self, seconds: float) -> None: ...
    def first_token(self, seconds: float) -> None: ...
    def next_token(self, seconds: float) -> None: ...
    def finished(self, reason: str, seconds: float) -> None: ...
    def rejected(self, reason: str) -> None: ...
    def engine_restarted(self) -> None: ...


@dataclass(slots=True)
class _Request:
    slot: OutputSlot
    arrived_at: float
    queued_tokens: int  # of its prompt, until its first step
    last_token_at: float | None = None


class EngineClient:
    """Knows every request that is under way. A `Listener` of its supervisor's. Use from one event loop."""

    def __init__(self, config: ServeConfig, observer: Observer) -> None:
        self._config = config
        self._observer = observer
        self._requests: dict[int, _Request] = {}
        self._queued_tokens = 0
        self._ids = count(1)  # over all incarnations: an id is never used twice
        self.supervisor = Supervisor(config, self)

    def state(self) -> EngineState:
        """What the engine does; totals are those of all engines so far."""
        return self.supervisor.state()

    def submit(self, prompt: list[int], params: SamplingParams, terms: Terms = DEFAULT_TERMS) -> OutputSlot:
        """Hand a validated request to the engine. Raises `Unavailable`, `ContextLengthExceeded`."""
        engine = self._serving(len(prompt) + params.max_tokens)
        self._check_queue(len(prompt))
        slot = OutputSlot(next(self._ids))
        now = time.monotonic()
        self._requests[slot.request_id] = _Request(slot, now, len(prompt))
        self._queued_tokens += len(prompt)
        deadline = None if terms.timeout is None else now + terms.timeout
        engine.send(Add(slot.request_id, prompt, params, terms.tenant, terms.salt, terms.priority, now, deadline))
        return slot

    def abort(self, slot: OutputSlot, reason: FinishReason = FinishReason.ABORT) -> None:
        """Stop computing a request, whatever its state. `reason` is what the metrics count: a stop string is a stop."""
        if self._finish(slot.request_id, reason) is not None:
            self._send_abort(slot.request_id)

    def fail_all(self, error: errors.RequestError) -> None:
        """End every request with `error`."""
        for request_id in list(self._requests):
            self._fail(request_id, error)
            self._send_abort(request_id)

    def _serving(self, num_tokens: int) -> Incarnation:
        """The engine, when it can take a request of `num_tokens`."""
        engine = self.supervisor.engine
        if engine is None or engine.limits is None:
            raise errors.ModelLoading(self.state().phase.name.lower())
        if num_tokens > engine.limits.max_model_len:  # it was restarted with less room after the request was checked
            message = f"max_tokens: with the prompt {num_tokens}; this server takes {engine.limits.max_model_len}"
            raise errors.ContextLengthExceeded(message, param="max_tokens")
        return engine

    def _check_queue(self, num_prompt: int) -> None:
        """Refuse what would make the queue too long. Tokens: of prompts that have not had a step.

        The state page knows of those that the engine has taken in, and of preempted ones; `_queued_tokens` of those
        that are still under way to it too. Neither is more than the truth, so the larger counts.
        A prompt that finds nothing queued is let in, however long it is: it would never be otherwise.
        """
        if len(self._requests) >= self._config.max_num_seqs + self._config.max_queued_requests:
            self._observer.rejected("queued_requests")
            raise errors.QueueFull(f"{self._config.max_queued_requests} requests are queued")
        limit = self._config.max_queued_tokens
        if limit is None:
            return
        queued = max(self._queued_tokens, self.state().waiting_tokens)
        if queued and queued + num_prompt > limit:
            self._observer.rejected("queued_tokens")
            raise errors.QueueFull(f"{queued} prompt tokens are queued, and {num_prompt} more would pass {limit}")

    def engine_lost(self) -> None:
        for request_id in list(self._requests):
            self._fail(request_id, errors.EngineDied())

    def engine_restarted(self) -> None:
        self._observer.engine_restarted()

    def engine_stepped(self, step: StepDone) -> None:
        now = time.monotonic()
        for request_id, cached in zip(step.admitted, step.cached, strict=True):
            if (request := self._requests.get(request_id)) is not None:
                request.slot.cached_tokens = cached
                self._leave_queue(request)
                self._observer.queued(step.started_at - request.arrived_at)
        for output in step.each_output():
            if (request := self._requests.get(output.seq_id)) is not None:  # else aborted meanwhile
                if output.finish_reason is FinishReason.DEADLINE:
                    self._fail(output.seq_id, errors.DeadlineExceeded())
                    continue
                for _ in output.tokens:
                    self._observe_token(request, now)
                request.slot.put(output)
                if output.finish_reason is not None:
                    self._finish(output.seq_id, output.finish_reason)
        for request_id in step.failed:
            self._fail(request_id, errors.EngineError("computing this request failed; the server's log says why"))

    def _observe_token(self, request: _Request, now: float) -> None:
        if request.last_token_at is None:
            self._observer.first_token(now - request.arrived_at)
        else:
            self._observer.next_token(now - request.last_token_at)
        request.last_token_at = now

    def _send_abort(self, request_id: int) -> None:
        if self.supervisor.engine is not None:
            self.supervisor.engine.send(Abort(request_id))

    def _fail(self, request_id: int, error: errors.RequestError) -> None:
        reason = _FAILURES.get(type(error), "error")
        if (request := self._finish(request_id, reason)) is not None:
            request.slot.fail(error)

    def _finish(self, request_id: int, reason: str) -> _Request | None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._leave_queue(request)
            self._observer.finished(reason, time.monotonic() - request.arrived_at)
        return request

    def _leave_queue(self, request: _Request) -> None:
        self._queued_tokens -= request.queued_tokens
        request.queued_tokens = 0
