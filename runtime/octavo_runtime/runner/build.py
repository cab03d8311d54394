"""The way to a runner that imports torch only after the process is ready for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from octavo_runtime.model.shard import check_divisible

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.parallel.meeting import Called
    from octavo_runtime.runner.base import Fatal, Progress, Runner


def build_runner(config: ServeConfig, info: ModelInfo, progress: Progress, fatal: Fatal | None = None) -> Runner:
    """Load `info`'s model and make it ready. `progress` hears the phases "weights" and "warmup".

    `fatal` is called when another rank of a divided model is lost; by default that ends the process. Where they are on
    several nodes, this waits for the nodes first.

    Raises `ModelUnsupported` when the weights do not fit the configuration, `OutOfMemory` when weights or KV cache do
    not fit the machine, `InvalidArgument` for an attention backend that the device cannot run, or for ranks that the
    model or the machine cannot have.
    """
    progress("weights", 0.0)
    wait_passively()
    called = _call_other_ranks(config, info, progress) if config.tensor_parallel_size > 1 else None
    from octavo_runtime.runner.torch_build import build_torch_runner  # noqa: PLC0415  seconds, and reads the environment

    return build_torch_runner(config, info, progress, fatal, called)


def _call_other_ranks(config: ServeConfig, info: ModelInfo, progress: Progress) -> Called:
    from octavo_runtime.parallel.meeting import call_together  # noqa: PLC0415  only who divides needs it

    check_divisible(info, config.tensor_parallel_size)
    return call_together(config, info, lambda: progress("weights", 0.0))


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait for each other; read when torch is imported, so this comes first.

    By default they spin. On cores shared with anything else (an API process, a neighbour, a CPU quota) the spinning
    thread takes the time that the one it waits for needs: a step of 0.08 s was seen to take 1.5 s on two busy cores,
    and 0.11 s this way. On idle cores the price is about a tenth at batch 1.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
