"""What a run says of the goals, and what it estimates: of timings that are made up."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from octavo_kernels.bench import __main__ as estimate_command
from octavo_kernels.bench.estimate import cost_models
from octavo_kernels.bench.goals import goals_of, goals_table
from octavo_kernels.bench.report import document, to_json
from octavo_kernels.bench.result import Ceilings, Result
from octavo_kernels.bench.shapes import BenchShape, all_shapes, quick_shapes
from octavo_kernels.bench.timings import Timing

CEILINGS = Ceilings(copy=2e12, read=3e12, product=6e14)


def result(shape, share=0.9, **ratios):
    """A shape that took its least time over `share`, and the others so many times as long."""
    seconds = shape.least_seconds(CEILINGS.read, CEILINGS.product) / share
    timings = {"triton": seconds} | {name.replace("_", " "): ratio * seconds for name, ratio in ratios.items()}
    return Result(shape, {name: Timing(value, value, value) for name, value in timings.items()}, {})


def decode(batch, context=4096, **changes):
    return BenchShape(f"{batch} x {context} {changes}", "decode", ((1, context),) * batch, **changes)


def found(*results):
    return {goal.name: goal for goal in goals_of(results, CEILINGS)}


def test_each_goal_is_held_against_the_worst_shape_of_its_kind():
    goals = found(
        result(decode(64), 0.97, flashinfer=1.2),
        result(decode(32, 16384), 0.96, flashinfer=0.9, vllm_triton=1.6),
        result(decode(8), 0.80),
        result(decode(64, 8192, cache="e4m3"), 0.93),
    )
    assert {name: (round(goal.found, 9), goal.met) for name, goal in goals.items()} == {
        "decode bf16, 256 MiB and more: share of reading": (0.96, True),
        "decode bf16, 32 to 256 MiB: share of reading": (0.80, False),
        "decode e4m3, 128 MiB and more: share of reading": (0.93, True),
        "decode: time of FlashInfer over ours": (0.9, False),
        "decode up to 32: time of vLLM's Triton over ours": (1.6, True),
    }
    assert goals["decode bf16, 32 to 256 MiB: share of reading"].where == decode(8).name


def test_a_step_is_from_one_batch_to_the_next_and_from_no_other():
    name = "one sequence more: time over that of one less"
    steady = [result(decode(batch)) for batch in (1, 2, 3, 7)]
    assert found(*steady)[name].found == pytest.approx(2.0), "from one to two, by the bytes"
    other = result(decode(8, heads := 8192), 0.01)
    assert found(*steady[1:], other)[name].where == decode(3).name, f"not another context ({heads})"
    assert name not in found(result(decode(1)), result(decode(3)))
    cliff = result(decode(8), 0.1)
    goal = found(*steady, cliff)[name]
    assert (goal.where, goal.met, goal.at_least) == (decode(8).name, False, False)


def test_a_ragged_batch_is_held_against_as_many_bytes_of_one_length():
    ragged = replace(decode(2, 0), name="ragged", sequences=((1, 1000), (1, 3000)))
    name = "ragged: share over that of one length"
    assert found(result(ragged, 0.8), result(decode(2, 2000), 1.0), result(decode(2, 9000), 0.1))[name].found == (
        pytest.approx(0.8)
    )
    assert name not in found(result(ragged), result(decode(3, 2000)), result(decode(2, 2000, cache="int8")))


def test_prefills_are_counted_in_operations():
    long = BenchShape("long", "prefill", ((8192, 8192),))
    after = BenchShape("after", "prefill", ((8192, 9000),))
    goal = found(result(long, 0.75), result(after, 0.1))["prefill of 8k and more, d128: TFLOP/s"]
    assert goal.found == pytest.approx(450)
    assert goal.where == "long"


@pytest.mark.parametrize("shapes", [quick_shapes, all_shapes])
def test_every_goal_is_asked_by_both_runs(shapes):
    goals = found(*(result(shape, flashinfer=1.0, vllm_triton=2.0) for shape in shapes()))
    assert len(goals) == 8
    lines = goals_table(list(goals.values())).splitlines()
    assert len(lines) == 8
    assert lines[1].startswith("met      decode bf16, 32 to 256 MiB: share of reading: 0.9, at least 0.85 (")
    assert lines[0].startswith("NOT MET  ")


# ─── estimates ───


@pytest.fixture
def run(tmp_path):
    """A run's file, in which a decode takes 4 µs and 2 TB/s."""
    results = [
        Result(shape, {"triton": Timing(*[4e-6 + shape.bytes_moved / 2e12] * 3)}, {})
        for shape in (decode(1), decode(8), decode(64))
    ]
    file = tmp_path / "run.json"
    file.write_text(to_json(document({"card": "made up"}, CEILINGS, results)))
    return file


def test_a_decode_is_estimated_by_a_run(run, capsys):
    shape = decode(32, 1000, num_heads=16, num_kv_heads=2, head_dim=64)
    estimate_command.main(
        [str(run), "--batch", "32", "--context", "1000", "--heads", "16/2", "--head-dim", "64", "--layers", "10"]
    )
    told = json.loads(capsys.readouterr().out)
    assert told["bytes"] == shape.bytes_moved
    assert told["layer"] == pytest.approx(4e-6 + shape.bytes_moved / 2e12)
    assert told["step"] == pytest.approx(10 * told["layer"])
    assert told["worst_error"] < 1e-6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cache", "int8"], "no cost model of caches in int8; there are: bf16"),
        (["--heads", "8/3"], "heads is '8/3'; expected query heads / KV heads"),
        (["--context", "0"], "context is 0; expected a number above 0"),
    ],
)
def test_what_cannot_be_estimated_is_named(run, capsys, arguments, words):
    with pytest.raises(SystemExit) as ended:
        estimate_command.main([str(run), "--batch", "1", "--context", "1", *arguments])
    assert words in f"{ended.value.code} {capsys.readouterr().err}"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({}, "no cost_models"),
        ([], "no cost_models"),
        ({"cost_models": {"bf16": {"launch": 0}}}, "cost_models.bf16 is {'launch': 0}; expected launch, bandwidth"),
        (
            {"cost_models": {"bf16": {"launch": 0, "bandwidth": 0, "worst": 0}}},
            "cost_models.bf16.bandwidth is 0; expected a number above 0",
        ),
        (
            {"cost_models": {"bf16": {"launch": "1", "bandwidth": 1, "worst": 0}}},
            "cost_models.bf16.launch is '1'",
        ),
    ],
)
def test_a_file_that_is_no_run_is_named(run, words):
    with pytest.raises(ValueError, match=words.replace("{", r"\{").replace("}", r"\}")):
        cost_models(run)
