"""From a configuration to a runner that computes, with every phase and its time on the state page."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from octavo_runtime.engine.state_page import EngineState, Phase
from octavo_runtime.engine.step import Engine
from octavo_runtime.errors import EngineFailed, InvalidArgument, OutOfMemory, StartError

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.engine.state_page import StatePage
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.runner.base import Fatal, Progress, Runner

logger = logging.getLogger(__name__)

_PHASES: Final = {"weights": Phase.WEIGHTS, "warmup": Phase.WARMUP}


class StartupReporter:
    """The runner's progress, written to the page. A `Progress` callable."""

    def __init__(self, page: StatePage, started_at: float) -> None:
        """`started_at`: time.monotonic() when the process was started, in the API process's view."""
        self._page = page
        self._phase_since = started_at
        self.state = EngineState(beat=started_at)

    def __call__(self, phase: str, progress: float) -> None:
        """Note that `phase` ("weights", "warmup") is done to the share `progress`."""
        self._enter(_PHASES[phase])
        self.state = self.state._replace(progress=progress, beat=time.monotonic())
        self._page.write(self.state)

    def finish(self) -> EngineState:
        """The model is ready; return the state with the seconds of all phases."""
        self._enter(Phase.READY)
        return self.state

    def _enter(self, phase: Phase) -> None:
        if phase == self.state.phase:
            return
        now = time.monotonic()
        seconds = now - self._phase_since
        logger.info("start: %s took %.1f s", self.state.phase.name.lower(), seconds)
        match self.state.phase:
            case Phase.PROCESS:
                self.state = self.state._replace(process_seconds=seconds)
            case Phase.WEIGHTS:
                self.state = self.state._replace(weights_seconds=seconds)
            case Phase.WARMUP:
                self.state = self.state._replace(warmup_seconds=seconds)
        self.state = self.state._replace(phase=phase)
        self._phase_since = now


def resolve_max_model_len(config: ServeConfig, info: ModelInfo) -> int:
    """Tokens, prompt and output, of the longest sequence: what the model was trained for, or less if so configured."""
    if config.max_model_len is None:
        return info.max_positions
    if config.max_model_len > info.max_positions:
        raise InvalidArgument(
            f"--max-model-len {config.max_model_len} is more than the {info.max_positions} positions of {config.model}"
        )
    return config.max_model_len


def make_engine(config: ServeConfig, runner: Runner) -> Engine:
    """Scheduler and runner as `config` has them."""
    budget = config.max_num_batched_tokens or max(runner.step_tokens, config.max_num_seqs)
    return Engine(
        runner,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=budget,
        prefix_caching=config.prefix_caching,
        speculative_ngram=config.speculative_ngram,
        plan_ahead=runner.computes_apart if config.async_scheduling is None else config.async_scheduling,
    )


def load_runner(config: ServeConfig, info: ModelInfo, progress: Progress, fatal: Fatal | None = None) -> Runner:
    """Load the model, or what the simulator needs of it. Raises `StartError`, whatever went wrong."""
    try:
        return _build_runner(config, info, progress, fatal)
    except StartError:
        raise
    except MemoryError as error:
        raise OutOfMemory(f"out of memory while loading {config.model}: {error}") from error
    except Exception as error:
        logger.exception("the engine cannot start")
        raise EngineFailed(f"{type(error).__name__}: {error}") from error


def _build_runner(config: ServeConfig, info: ModelInfo, progress: Progress, fatal: Fatal | None) -> Runner:
    if config.runner == "sim":
        from octavo_runtime.engine.sim import build_sim_runner  # noqa: PLC0415  each runner loads its own libraries

        return build_sim_runner(config, info, progress)
    from octavo_runtime.runner.build import build_runner  # noqa: PLC0415

    return build_runner(config, info, progress, fatal)
