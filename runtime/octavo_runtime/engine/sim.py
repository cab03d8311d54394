"""`--runner sim`: a model's configuration and tokenizer without its weights; tokens are made up, always the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from octavo_runtime.errors import InvalidArgument
from octavo_runtime.runner.sim_runner import SimRunner, StepTime

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.runner.base import Progress

_FREE: Final = 512 << 20  # bytes, of no machine
_SHARE: Final = 0.5  # of them, as on a CPU
# Of a number and of a row's scale, by --kv-cache-dtype, as if the model computed in float32.
_BYTES: Final = {"auto": (4, 0), "fp8_e4m3": (1, 0), "int8": (1, 2)}


def build_sim_runner(config: ServeConfig, info: ModelInfo, progress: Progress) -> SimRunner:
    """A simulated runner with as many blocks as the real one would have in the same memory."""
    progress("weights", 1.0)
    block_bytes = info.kv_bytes_per_token(*_BYTES[config.kv_cache_dtype]) * config.block_size
    asked = config.kv_cache_memory or _SHARE
    memory = int(_FREE * asked) if isinstance(asked, float) else asked
    if memory < block_bytes:
        raise InvalidArgument(f"--kv-cache-memory {memory} is less than one block of {block_bytes} bytes")
    progress("warmup", 1.0)
    return SimRunner(
        num_blocks=memory // block_bytes,
        block_size=config.block_size,
        vocab_size=info.vocab_size,
        step_time=_step_time(config),
    )


def _step_time(config: ServeConfig) -> StepTime:
    if config.sim_profile is None:
        return StepTime(base=config.sim_step_time)
    if config.sim_step_time:
        raise InvalidArgument("--sim-step-time and --sim-profile: only one of them")
    try:
        return StepTime.read(config.sim_profile)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"--sim-profile: {error}") from error
