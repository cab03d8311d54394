"""The engine process's loop: inbox, step, one message out, state page; and an idle tick when there is nothing to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from octavo_runtime.engine.messages import Abort, Add, Stop
from octavo_runtime.engine.state_page import EngineState, Phase

if TYPE_CHECKING:
    from octavo_runtime.engine.channel import EngineChannel
    from octavo_runtime.engine.messages import ToEngine
    from octavo_runtime.engine.state_page import StatePage
    from octavo_runtime.engine.step import Engine

IDLE_TICK: Final = 0.5  # seconds between two signs of life when there is nothing to do


class Loop:
    """Runs an engine until it is told to stop."""

    def __init__(self, engine: Engine, channel: EngineChannel, page: StatePage, startup: EngineState) -> None:
        """`startup` is the state that the page had when the model was loaded; its phase times are kept."""
        self._engine = engine
        self._channel = channel
        self._page = page
        self._startup = startup
        self._publish()

    def run(self) -> None:
        while self._handle(self._channel.receive(0.0 if self._engine.has_work else IDLE_TICK)):
            done = self._engine.step(time.monotonic()) if self._engine.has_work else None
            self._publish()  # first: whoever has a token finds it on the page
            if done is not None:
                self._channel.send(done)

    def _handle(self, messages: list[ToEngine]) -> bool:
        """Take in what the API process says; False when it says stop."""
        for message in messages:
            match message:
                case Add():
                    self._engine.add(message)
                case Abort(request_id):
                    self._engine.abort(request_id)
                case Stop():
                    return False
        return True

    def _publish(self) -> None:
        stats = self._engine.stats()
        self._page.write(
            self._startup._replace(
                phase=Phase.READY,
                progress=1.0,
                beat=time.monotonic(),
                steps=self._engine.steps,
                running=stats.running,
                waiting=stats.waiting,
                waiting_tokens=stats.waiting_tokens,
                kv_tokens_used=stats.kv_tokens_used,
                kv_tokens_capacity=stats.kv_tokens_capacity,
                preemptions=stats.preemptions,
                prompt_tokens=stats.prompt_tokens,
                generation_tokens=stats.generation_tokens,
                prefix_queries=stats.prefix_queries,
                prefix_hits=stats.prefix_hits,
                spec_draft_tokens=stats.spec_draft_tokens,
                spec_accepted_tokens=stats.spec_accepted_tokens,
            )
        )
