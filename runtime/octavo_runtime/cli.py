"""`octavo serve` and `octavo bench`: flags to settings. Imports nothing heavy: `--help` and errors come at once."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from octavo_runtime.bench.flags import add_bench
from octavo_runtime.config import ServeConfig
from octavo_runtime.errors import InvalidArgument, StartError
from octavo_runtime.logs import configure_logging
from octavo_runtime.parallel.topology import contradiction
from octavo_runtime.sources.reference import parse_model
from octavo_runtime.termination import EXIT_USAGE, write_termination_message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UNITS: Final = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}

_MOST_PERCENT: Final = 95


def entry() -> int:
    """The `octavo` command."""
    _end_on_sigterm()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments` and carry the command out; returns the exit status."""
    options = vars(_make_parser().parse_args(arguments))
    command: Callable[[Any], int] = options.pop("command")
    return command(_make_config(options) if command is _serve else options)


def _make_config(options: dict[str, Any]) -> ServeConfig:
    config = ServeConfig(**options | _name_model(options["model"], options.get("served_model_name")))
    if config.max_num_batched_tokens is not None and config.max_num_seqs > config.max_num_batched_tokens:
        _fail(
            f"--max-num-seqs {config.max_num_seqs} is more than --max-num-batched-tokens "
            f"{config.max_num_batched_tokens}: each running sequence needs a token of each step"
        )
    if config.enforce_eager and config.max_cudagraph_capture_size is not None:
        _fail(
            f"--max-cudagraph-capture-size {config.max_cudagraph_capture_size} makes no sense with --enforce-eager, "
            "which captures nothing"
        )
    if config.async_scheduling and config.tensor_parallel_size > 1:
        _fail(f"--async-scheduling: not with --tensor-parallel-size {config.tensor_parallel_size}, yet")
    if config.runner == "sim" and config.tensor_parallel_size > 1:
        _fail(f"--tensor-parallel-size {config.tensor_parallel_size}: --runner sim has no layers to divide")
    if (problem := contradiction(config)) is not None:
        _fail(problem)
    return config


def _name_model(text: str, name: str | None) -> dict[str, Any]:
    """The settings that follow from the MODEL argument."""
    try:
        model = parse_model(text)
    except InvalidArgument as error:
        _fail(str(error))
    if isinstance(model, Path):
        return {"model": model}
    return {"model": Path(model.name), "remote": text, "served_model_name": name or model.name}


def _end_on_sigterm() -> None:
    """End on SIGTERM, until the server drains on it.

    In a container we have process id 1, for which the kernel drops a signal without a handler: a pod that is deleted in
    its first seconds would run on to the end of its grace period.
    """
    signal.signal(signal.SIGTERM, lambda number, _: os._exit(128 + number))


def _serve(config: ServeConfig) -> int:
    from octavo_runtime.server.main import serve  # noqa: PLC0415  heavy

    return serve(config)


def _bench(options: dict[str, Any]) -> int:
    from octavo_runtime.bench.command import run  # noqa: PLC0415  heavy

    return run(options, _make_config)


def _compile(options: dict[str, Any]) -> int:
    from octavo_runtime.runner.rehearsal import compile_kernels  # noqa: PLC0415  heavy

    architectures, folder = options.pop("architecture"), options.pop("out")
    configure_logging()
    try:
        compile_kernels(ServeConfig(**options), architectures, folder)
    except StartError as error:
        _fail(str(error))
    return 0


class _Parser(argparse.ArgumentParser):
    """Ends with 64 (EX_USAGE) and tells Kubernetes why."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        _fail(message)


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"octavo: {message}\n")
    write_termination_message("InvalidArgument", message)
    sys.exit(EXIT_USAGE)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="octavo", description="Serve an open-weight language model, with OpenAI's API.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="serve a model", allow_abbrev=False)
    serve.set_defaults(command=_serve)
    _add_model(serve)
    _add_server_flags(serve)
    _add_node_flags(serve)
    _add_engine_flags(serve)
    _add_limits(serve)
    compiling = commands.add_parser("compile", help="compile a model's GPU kernels into a folder", allow_abbrev=False)
    compiling.set_defaults(command=_compile)
    _add_compile_flags(compiling)
    bench = commands.add_parser("bench", help="measure a server or the engine", allow_abbrev=False)
    bench.set_defaults(command=_bench)
    add_bench(bench, _number, _add_engine_flags)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL",
        help="folder with safetensors, .gguf file, hf://org/name[@revision][/file.gguf] or s3://bucket/prefix",
    )  # fmt: skip
    parser.add_argument(
        "--download-dir", type=Path, metavar="DIR",
        help="where remote models are kept (default: $OCTAVO_MODEL_CACHE or ~/.cache/octavo/models)",
    )  # fmt: skip


def _add_compile_flags(parser: argparse.ArgumentParser) -> None:
    """The names and defaults of the flags of `serve`: what is compiled is what that asks for."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder with a config.json; weights are not read")
    parser.add_argument(
        "--architecture", action="append", required=True, type=int, choices=(80, 89, 90, 100),
        help="of the GPUs: 80 A100, 89 L40S, 90 H100 and H200, 100 B200; may be given more than once",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for OCTAVO_KERNELS of the image")
    _add_dtype_flags(parser)
    _flag(parser, "block_size", _number(int, 1), "tokens per block of the KV cache")
    _flag(parser, "tensor_parallel_size", _number(int, 1), "processes that divide each layer, one per GPU")


def _add_server_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    _flag(group, "host", str, "address to listen on")
    _flag(group, "port", _number(int, 0, 65535), "port to listen on; 0 takes any that is free")
    _flag(group, "served_model_name", str, "name in the API; default: the folder's or file's name")
    _flag(group, "drain_timeout", _number(float, 0), "seconds that running requests get after SIGTERM and delay")
    _flag(group, "drain_delay", _number(float, 0), "seconds after SIGTERM in which new requests are still served")


def _add_node_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several nodes, all with the same flags but for --node-rank")
    _flag(group, "nodes", _number(int, 1), "machines or pods over which --tensor-parallel-size is spread")
    _flag(group, "node_rank", _number(int, 0), "this one's number; 0 is the leader, which alone serves the API")
    _flag(group, "leader_address", str, "host name or IP address of node 0")
    _flag(group, "leader_port", _number(int, 1, 65534), "where node 0 takes in the others; it takes the next port too")
    _flag(group, "group_timeout", _number(float, 1), "seconds that the nodes wait for each other at the start")


def _add_dtype_flags(group: argparse._ActionsContainer) -> None:
    _flag(
        group,
        "dtype",
        str,
        "of weights, and of the KV cache unless --kv-cache-dtype says otherwise",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    _flag(
        group,
        "kv_cache_dtype",
        str,
        "auto: as the model computes; fp8_e4m3, int8: one byte a number, so more tokens fit, and keys and values are "
        "rounded; int8 rounds less, for 2 bytes more a token and head",
        choices=("auto", "fp8_e4m3", "int8"),
    )


def _add_engine_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    _flag(group, "max_model_len", _number(int, 1), "tokens per sequence, prompt and answer; default: the model's")
    _add_dtype_flags(group)
    _flag(group, "max_num_seqs", _number(int, 1), "sequences that run at once")
    _flag(
        group,
        "max_num_batched_tokens",
        _number(int, 1),
        "tokens per step, of all sequences together; default: 2048 on a GPU, 512 on a CPU",
    )
    _flag(
        group,
        "kv_cache_memory",
        _size_or_share,
        "bytes of KV cache, like 256Mi, or a share of the memory that is free once the model is loaded, like 80%% (on "
        "a GPU beside its largest step, on a CPU within the cgroup's limit); default: 92%% on a GPU, 50%% on a CPU",
    )
    _flag(group, "block_size", _number(int, 1), "tokens per block of the KV cache")
    group.add_argument(
        "--no-prefix-caching", dest="prefix_caching", action="store_false",
        help="compute every prompt anew, also the start that it shares with an earlier one",
    )  # fmt: skip
    group.add_argument(
        "--async-scheduling", action=argparse.BooleanOptionalAction, default=None,
        help="plan each step while the device computes the one before; default: on a GPU. Same tokens. No use on a CPU",
    )  # fmt: skip
    _flag(group, "speculative_ngram", _number(int, 0, 64), "tokens to guess ahead from the text so far; 0: none")
    _flag(group, "attention_backend", str, "kernels", choices=("auto", "reference", "cpu", "triton"))
    group.add_argument(
        "--enforce-eager", action="store_true", help="no CUDA graphs: less memory on the GPU, slower decodes"
    )
    _flag(
        group,
        "max_cudagraph_capture_size",
        _number(int, 1),
        "sequences in the largest decode step that is captured as a CUDA graph; default: --max-num-seqs, at most 256",
    )
    _flag(group, "tensor_parallel_size", _number(int, 1), "processes that divide each layer, one per GPU")
    _flag(group, "threads", _number(int, 1), "CPU threads, of all processes; default: the cgroup's quota")
    _flag(group, "runner", str, "sim: no weights, made-up tokens; for tests and simulation", choices=("torch", "sim"))
    _flag(group, "sim_step_time", _number(float, 0), "seconds that a step of --runner sim takes")
    _flag(group, "sim_profile", Path, "JSON file that says how long its steps take, by runtime/bench/sim_profile.py")


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    _flag(group, "max_queued_requests", _number(int, 1), "requests beyond --max-num-seqs; more get a 503")
    _flag(group, "max_queued_tokens", _number(int, 1), "prompt tokens that may wait; more get a 503; default: any")
    _flag(group, "max_body_size", _size, "bytes of a request's body, like 1Mi; more get a 413")
    _flag(group, "stall_limit", _number(float, 1), "seconds without a sign of life of the engine until /livez fails")
    _flag(group, "startup_stall_limit", _number(float, 1), "the same while the model loads")
    _flag(
        group,
        "max_engine_restarts",
        _number(int, 0),
        "restarts of an engine that ended, within 10 minutes; one death more ends the server",
    )


def _flag(
    group: argparse._ActionsContainer,
    name: str,
    kind: Callable[[str], object],
    text: str,
    choices: Sequence[str] | None = None,
) -> None:
    """Add `--name`, with the default of `ServeConfig`."""
    default = next(field.default for field in fields(ServeConfig) if field.name == name)
    group.add_argument(
        "--" + name.replace("_", "-"),
        type=kind,
        default=default,
        choices=choices,
        help=text if default is None else f"{text} (default: {default})",
        metavar=None if choices else name.rsplit("_", 1)[-1].upper(),
    )


def _number(kind: type[int | float], low: float, high: float = float("inf")) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not low <= value <= high or value == float("inf"):
            bounds = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
            raise argparse.ArgumentTypeError(f"{text} is out of bounds; it must be {bounds}")
        return value

    return parse


def _size_or_share(text: str) -> int | float:
    """Bytes, or a share of "80%" as 0.8. All of it is refused: memory that is freed and taken again leaves holes."""
    percent = re.fullmatch(r"(\d{1,3})%", text)
    if percent is None:
        return _size(text)
    if not 1 <= int(percent[1]) <= _MOST_PERCENT:
        raise argparse.ArgumentTypeError(f"{text} is out of bounds; a share must be from 1% to {_MOST_PERCENT}%")
    return int(percent[1]) / 100


def _size(text: str) -> int:
    """Bytes of "268435456", "256Mi" or "1.5G", as Kubernetes writes quantities."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k|M|G|Ki|Mi|Gi)?", text)
    size = int(float(match[1]) * _UNITS[match[2] or ""]) if match else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 268435456, 256Mi or 1G")
    return size
