"""The engine process. Started by the API process (process.py), with one argument: its `EngineArgs` as JSON."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

from octavo_runtime.child_process import die_with_parent, ignore_terminal_and_pod_signals
from octavo_runtime.engine.channel import EngineChannel, send_last_words
from octavo_runtime.engine.loop import Loop
from octavo_runtime.engine.messages import Started, StartFailed
from octavo_runtime.engine.process import START_FAILED, EngineArgs, decode_args
from octavo_runtime.engine.startup import StartupReporter, load_runner, make_engine, resolve_max_model_len
from octavo_runtime.engine.state_page import StatePage
from octavo_runtime.errors import EngineFailed, StartError
from octavo_runtime.logs import configure_logging
from octavo_runtime.model.info import read_model_info

if TYPE_CHECKING:
    from pathlib import Path


def main() -> int:
    args = decode_args(sys.argv[1], EngineArgs)
    die_with_parent(args.parent_pid)
    ignore_terminal_and_pod_signals()
    configure_logging()
    page = StatePage(args.page_fd)
    os.set_inheritable(args.page_fd, False)
    channel = EngineChannel(args.folder)
    try:
        loop = start(args, channel, page)
        loop.run()
    except StartError as error:
        channel.send(StartFailed(error.reason, str(error)))
        return START_FAILED
    finally:
        channel.close()
    return 0


def start(args: EngineArgs, channel: EngineChannel, page: StatePage) -> Loop:
    """Load the model and say so. Raises `StartError`."""
    config = args.config
    reporter = StartupReporter(page, args.started_at)
    info = read_model_info(config.model)
    max_model_len = resolve_max_model_len(config, info)
    runner = load_runner(config, info, reporter, lambda reason: end_at_once(args.folder, reason))
    engine = make_engine(config, runner)
    gc.collect()
    gc.freeze()  # what is loaded now stays; full collections need not walk it
    loop = Loop(engine, channel, page, reporter.finish())
    longest = min(max_model_len, runner.num_blocks * runner.block_size)
    channel.send(Started(longest, info.vocab_size, runner.num_blocks, runner.block_size))
    return loop


def end_at_once(folder: Path, reason: str) -> None:
    """End this process from any of its threads, whatever the others wait for."""
    send_last_words(folder, StartFailed(EngineFailed.reason, reason))
    os._exit(START_FAILED)


if __name__ == "__main__":
    sys.exit(main())
