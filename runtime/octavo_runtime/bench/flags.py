"""The flags of `octavo bench`. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_MODEL = "as for `octavo serve`"


class Number(Protocol):
    """Makes a parser of numbers in bounds, as cli.py has it."""

    def __call__(self, kind: type[int | float], low: float, high: float = float("inf")) -> Callable[[str], float]: ...


def add_bench(
    parser: argparse.ArgumentParser, number: Number, add_engine_flags: Callable[[argparse.ArgumentParser], None]
) -> None:
    """Add the modes of `octavo bench` to its parser."""
    modes = parser.add_subparsers(required=True, metavar="MODE", dest="mode")
    _add_online(modes.add_parser("online", help="load on any OpenAI-compatible server", allow_abbrev=False), number)
    offline = modes.add_parser("offline", help="the engine in this process, without HTTP", allow_abbrev=False)
    naive = modes.add_parser("naive", help="transformers' generate, one request at a time", allow_abbrev=False)
    for mode in (offline, naive):
        mode.add_argument("model", metavar="MODEL", help=_MODEL)
        _add_load(mode, number)
        _add_prompts(mode, number)
        _add_result(mode, number)
    add_engine_flags(offline)
    naive.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"))
    naive.add_argument("--threads", type=number(int, 1), metavar="N", help="CPU threads; default: the cgroup's quota")
    _add_compare(modes.add_parser("compare", help="two results side by side", allow_abbrev=False))


def _add_online(parser: argparse.ArgumentParser, number: Number) -> None:
    parser.add_argument("url", metavar="URL", help="http://host:port; $OPENAI_API_KEY is sent as bearer token if set")
    parser.add_argument("--model", help="name in the API; default: the first of /v1/models")
    parser.add_argument(
        "--endpoint", default="auto", choices=("auto", "completions", "chat"),
        help="auto: chat for messages, completions for prompts",
    )  # fmt: skip
    parser.add_argument(
        "--tokenizer", metavar="MODEL", help="model whose tokenizer makes the length of made-up prompts exact"
    )
    parser.add_argument("--timeout", type=number(float, 0.001), default=600.0, metavar="S", help="seconds per request")
    parser.add_argument("--warmup", type=number(int, 0), default=1, metavar="N", help="requests before the clock runs")
    _add_load(parser, number)
    _add_prompts(parser, number)
    _add_result(parser, number)


def _add_load(parser: argparse.ArgumentParser, number: Number) -> None:
    group = parser.add_argument_group("load", "without --rate and --concurrency all requests come at once")
    either: Any = group.add_mutually_exclusive_group()
    either.add_argument("--rate", type=number(float, 1e-6), metavar="R", help="open loop: Poisson, R requests/s")
    either.add_argument("--concurrency", type=number(int, 1), metavar="N", help="closed loop: N clients")
    group.add_argument(
        "--num-prompts", type=number(int, 1), metavar="N", help="requests; default: the file's lines, or 100"
    )
    group.add_argument("--seed", type=number(int, 0), default=0, help="of prompts, arrivals and sampling (default: 0)")


def _add_prompts(parser: argparse.ArgumentParser, number: Number) -> None:
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help='JSONL with "prompt" (text or token ids) or "messages", and "max_tokens" if it has its own; else made up',
    )  # fmt: skip
    group.add_argument("--input-len", type=number(int, 1), default=128, metavar="N", help="tokens of a made-up prompt")
    group.add_argument("--output-len", type=number(int, 1), default=64, metavar="N", help="tokens of an answer")
    group.add_argument(
        "--shared-prefix-len", type=number(int, 0), default=0, metavar="N",
        help="tokens before a made-up prompt that are the same for all",
    )  # fmt: skip
    group.add_argument(
        "--ignore-eos", action=argparse.BooleanOptionalAction,
        help="go on to the full length; default: for made-up prompts",
    )  # fmt: skip
    group.add_argument("--temperature", type=number(float, 0, 2), default=0.0, metavar="T", help="default: 0, greedy")


def _add_result(parser: argparse.ArgumentParser, number: Number) -> None:
    group = parser.add_argument_group("result", "one line of JSON on stdout, a table on stderr")
    group.add_argument(
        "--cost-per-hour", type=number(float, 0), metavar="$", help="dollars per hour of all that serves the load"
    )


def _add_compare(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(name, type=Path, metavar=name.upper(), help="file of a result; its last line counts")
    parser.add_argument("--markdown", action="store_true", help="the table in Markdown")
