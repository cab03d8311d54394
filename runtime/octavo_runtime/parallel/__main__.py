"""A worker process. Started by rank 0 (workers.py), with one argument: its `WorkerArgs` as JSON."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

import msgspec

from octavo_runtime.child_process import die_with_parent, ignore_terminal_and_pod_signals
from octavo_runtime.engine.process import START_FAILED, decode_args
from octavo_runtime.errors import OutOfMemory, StartError
from octavo_runtime.logs import configure_logging
from octavo_runtime.model.info import read_model_info
from octavo_runtime.parallel.messages import Refused, WorkerArgs
from octavo_runtime.runner.build import wait_passively


def main() -> int:
    args = decode_args(sys.argv[1], WorkerArgs)
    die_with_parent(args.parent_pid)
    ignore_terminal_and_pod_signals()
    configure_logging()
    with Connection(args.pipe_fd) as pipe:
        try:
            work(args, pipe)
        except StartError as error:
            pipe.send_bytes(msgspec.msgpack.encode(Refused(error.reason, str(error))))
            return START_FAILED
    return 0


def work(args: WorkerArgs, pipe: Connection) -> None:
    """Raises `StartError` when this rank cannot load its part, and whatever takes it out of step later."""
    wait_passively()
    import torch  # noqa: PLC0415  after the process is tied to its parent

    from octavo_runtime.parallel.worker import Worker  # noqa: PLC0415

    try:
        worker = Worker(args, read_model_info(args.config.model))
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"its part of {args.config.model} does not fit: {error}") from error
    worker.run(pipe)


if __name__ == "__main__":
    sys.exit(main())
