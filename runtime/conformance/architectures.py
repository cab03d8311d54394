"""Every causal language model of transformers: served, on which path, or refused and why. Writes MODELS.md.

    python runtime/conformance/architectures.py [--only NAME …] [--write runtime/MODELS.md]

Each architecture is made tiny and random from its own configuration class, saved, loaded as any model is, and asked for
64 tokens for ten prompts in one batch, with chunked prefill and a pool so small that sequences preempt each other.
A token that transformers would not have chosen makes the run fail.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, this folder is not a package of anything

from conformance.tiny import compare, save_tiny, tiny_config
from octavo_runtime.errors import ModelUnsupported

if TYPE_CHECKING:
    from types import FrameType

_SECONDS: Final = 90  # for one architecture


@dataclass(frozen=True, slots=True)
class Row:
    architecture: str
    model_type: str
    result: str  # "own" | "transformers" | "refused" | "not tried" | "wrong"
    detail: str = ""


def main() -> int:
    arguments = _parser().parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rows = []
    for model_type, architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if arguments.only and architecture not in arguments.only and model_type not in arguments.only:
            continue
        rows.append(_try(model_type, architecture))
        sys.stdout.write(f"{rows[-1].result:13} {model_type:24} {architecture:32} {rows[-1].detail}\n")
        sys.stdout.flush()
    if any(row.result == "wrong" for row in rows):
        return 1
    if arguments.write:
        arguments.write.write_text(render(rows), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="architectures or model types")
    parser.add_argument("--write", type=Path, help="where the table goes")
    return parser


def _try(model_type: str, architecture: str) -> Row:
    """Every outcome has a name; what cannot be made tiny is not tried, which says nothing about the real model."""
    try:
        with _Limit(_SECONDS), tempfile.TemporaryDirectory() as folder:
            _make(model_type, architecture, Path(folder))
            return _measure(model_type, architecture, Path(folder))
    except _NotTried as error:
        return Row(architecture, model_type, "not tried", str(error))
    except Exception as error:  # noqa: BLE001  one architecture's trouble is a row, not the end
        return Row(architecture, model_type, "wrong", _first_line(error))


def _make(model_type: str, architecture: str, folder: Path) -> None:
    try:
        config_class = transformers.CONFIG_MAPPING[model_type]
        save_tiny(getattr(transformers, architecture), tiny_config(config_class), folder)
    except Exception as error:  # too slow among them: a part of the configuration kept its full size
        raise _NotTried(_first_line(error)) from error


def _measure(model_type: str, architecture: str, folder: Path) -> Row:
    try:
        outcome = compare(folder, getattr(transformers, architecture))
    except ModelUnsupported as error:
        return Row(
            architecture,
            model_type,
            "refused",
            _first_line(error).replace(f"{folder}: ", "").replace(str(folder), "it"),
        )
    if outcome.wrong:
        return Row(architecture, model_type, "wrong", "; ".join(outcome.wrong[:2]))
    detail = f"{outcome.distinct} distinct tokens, {outcome.preemptions} preemptions"
    return Row(architecture, model_type, outcome.path, detail)


class _NotTried(Exception):  # noqa: N818  an outcome
    pass


class _TooSlow(Exception):  # noqa: N818
    pass


class _Limit:
    """Raises `_TooSlow` in the main thread after so many seconds."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds

    def __enter__(self) -> None:
        signal.signal(signal.SIGALRM, self._end)
        signal.alarm(self._seconds)

    def __exit__(self, *_: object) -> None:
        signal.alarm(0)

    def _end(self, _signal: int, _frame: FrameType | None) -> None:
        raise _TooSlow(f"longer than {self._seconds} s")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{lines[0][:200]}" if isinstance(error, ModelUnsupported) else f"{type(error).__name__}: {lines[0][:200]}"


def render(rows: list[Row]) -> str:
    """The table as Markdown, one line per class and result."""
    counts = {result: sum(row.result == result for row in rows) for result in _HEADINGS}
    lines = [_INTRODUCTION.format(version=transformers.__version__, **counts)]
    for result, heading in _HEADINGS.items():
        lines += ["", f"## {heading}", "", *_table([row for row in rows if row.result == result], result)]
    return "\n".join(lines) + "\n"


def _table(rows: list[Row], result: str) -> list[str]:
    if result in ("own", "transformers"):
        return [
            "| architecture | model type |",
            "|---|---|",
            *(f"| {row.architecture} | {row.model_type} |" for row in rows),
        ]
    escaped = [(row.architecture, row.model_type, row.detail.replace("|", "\\|")) for row in rows]
    return [
        "| architecture | model type | reason |",
        "|---|---|---|",
        *(f"| {architecture} | {model_type} | {detail} |" for architecture, model_type, detail in escaped),
    ]


_HEADINGS: Final = {
    "own": "Served by our own decoder",
    "transformers": "Served by transformers' modelling code on our paged attention",
    "refused": "Refused at load",
    "not tried": "Not tried",
}
_INTRODUCTION: Final = """# Which models are served

Written by `python runtime/conformance/architectures.py --write runtime/MODELS.md` with transformers {version}.

Every causal language model that transformers has was made tiny and random from its own configuration class, saved as
safetensors, loaded as any model is, and asked for 64 tokens for ten prompts in one batch, with chunked prefill and
prompts of 1 to 40 tokens, in fp32 on a CPU. Each token was held against the logits that transformers computes for that
sequence alone. Own decoder: {own}. transformers' code on our pages: {transformers}. Refused at load, with the reason
below: {refused}. Not tried, since no tiny configuration could be made without knowing the architecture: {not tried};
such a model is loaded, checked and served or refused as any other. Wrong: none, or this file would not have been
written.

Architectures that are not in this list are tried at load in the same way: what transformers knows and its attention
interface serves is traced, checked against itself on two short prompts, and refused if it differs."""


if __name__ == "__main__":
    sys.exit(main())
