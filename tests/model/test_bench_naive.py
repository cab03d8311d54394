"""`octavo bench naive`: transformers' own generate, on a model made here."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from octavo_runtime.bench.load import Load
from octavo_runtime.bench.naive import load_naive, run_naive
from octavo_runtime.bench.prompts import Prompt
from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.info import read_model_info

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = [Prompt(max_tokens=count) for count in (5, 1, 3)]
TOKEN_IDS = [[5, 6, 7], [8], [9, 10]]


def served_in(seconds: float):
    """A generate that takes `seconds` per token."""
    return lambda _, count: ([seconds * (i + 1) for i in range(count)], seconds * count)


def test_transformers_generates_what_was_asked_for(make_model) -> None:
    folder: Path = make_model("Llama")
    generate, settings = load_naive(
        read_model_info(folder), dtype="float32", threads=1, temperature=0.0, ignore_eos=True
    )
    records = run_naive(generate, PROMPTS, TOKEN_IDS, Load(), seed=0, progress=lambda _: None)
    assert [record.output_tokens for record in records] == [5, 1, 3]
    assert [record.input_tokens for record in records] == [3, 1, 2]
    assert all(a <= b for record in records for a, b in pairwise(record.piece_times))
    assert settings == {"device": "cpu", "dtype": "float32", "threads": 1}


def test_a_request_waits_for_the_one_before_it() -> None:
    records = run_naive(served_in(1.0), PROMPTS, TOKEN_IDS, Load(), seed=0, progress=lambda _: None)
    assert [(record.arrival, record.piece_times[0], record.end) for record in records] == [
        (0.0, 1.0, 5.0), (0.0, 6.0, 6.0), (0.0, 7.0, 9.0),
    ]  # fmt: skip


def test_a_client_of_a_closed_loop_sends_when_it_has_its_answer() -> None:
    records = run_naive(served_in(1.0), PROMPTS, TOKEN_IDS, Load(concurrency=1), seed=0, progress=lambda _: None)
    assert [record.arrival for record in records] == [0.0, 5.0, 6.0]
    assert [record.piece_times[0] - record.arrival for record in records] == [1.0, 1.0, 1.0]


def test_a_server_without_requests_waits_for_the_next() -> None:
    records = run_naive(served_in(1e-6), PROMPTS, TOKEN_IDS, Load(rate=1.0), seed=0, progress=lambda _: None)
    assert all(record.piece_times[0] - record.arrival == pytest.approx(1e-6) for record in records)


def test_what_transformers_cannot_load_is_said(make_model) -> None:
    folder: Path = make_model("Llama")
    info = read_model_info(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelUnsupported, match="transformers cannot load"):
        load_naive(info, dtype="float32", threads=1, temperature=0.0, ignore_eos=True)
