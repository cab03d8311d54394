"""The script for a run on a GPU, from end to end without one: kernels in the interpreter, and a clock that is made up.

What only a GPU has (the graph, the clock, the driver) is played; everything else is what will run there.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from octavo_kernels.bench.shapes import BenchShape, all_shapes

BENCH = Path(__file__).parents[2] / "kernels/bench"
CPU = torch.device("cpu")
SMALL = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64}
DECODE = BenchShape("decode", "decode", ((1, 40), (1, 40)), **SMALL)
RAGGED = replace(DECODE, name="ragged", sequences=((1, 9), (1, 71)))
SHAPES = (
    DECODE,
    replace(DECODE, name="decode int8", cache="int8"),
    RAGGED,
    BenchShape("prefill", "prefill", ((9, 70),), block_size=64, **SMALL),
)
MACHINE = {"card": "NVIDIA None"}


@pytest.fixture
def scripts(monkeypatch):
    """The script's modules, which lie beside it, with small sizes for what is not attention over shapes."""
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu
    import gpu_ceilings
    import gpu_checks
    import gpu_clock
    import gpu_contenders
    import gpu_machine

    monkeypatch.setattr(gpu_ceilings, "COPIED", 4 * 4 * 1024)
    monkeypatch.setattr(gpu_ceilings, "SIDE", 8)
    monkeypatch.setattr(gpu_ceilings, "READINGS", (gpu_ceilings.Reading(1024, 3, 2, 4),))
    monkeypatch.setattr(gpu_checks, "ROWS", 2)
    monkeypatch.setattr(gpu_checks, "VOCABULARY", 500)
    monkeypatch.setattr(gpu_checks, "MOST_ERROR", {torch.float32: 1e-5})
    monkeypatch.setattr(gpu_checks, "HEAD_DIMS", (64,))
    monkeypatch.setattr(gpu_checks, "BATCHES", {"decode": ((1, 1), (1, 70)), "mixed": ((5, 20), (1, 9))})
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)  # minutes, of a C++ compiler on a CPU
    return SimpleNamespace(
        gpu=gpu,
        ceilings=gpu_ceilings,
        checks=gpu_checks,
        clock=gpu_clock,
        contenders=gpu_contenders,
        machine=gpu_machine,
    )


def clock(calls, count):
    """Runs each once. The time is made up."""
    for call in calls:
        call()
    return [1e-3 * count, 2e-3 * count, 3e-3 * count]


@pytest.fixture
def bench(scripts):
    return scripts.gpu.Bench(CPU, clock, 2_000, scripts.contenders.CONTENDERS)


NEVER = float("inf")
quietly = pytest.mark.filterwarnings("ignore::UserWarning")  # of torch's attentions, which a GPU would compute faster


@quietly
def test_a_whole_run(scripts, bench, tmp_path, capsys, monkeypatch):
    """Ceilings, every shape beside what of others there is, the table, the file and the page."""
    monkeypatch.setattr(scripts.gpu, "check_all", lambda _: [])  # below
    file = tmp_path / "new" / "run.json"
    assert scripts.gpu.take(bench, MACHINE, SHAPES, file, until=NEVER) == []
    run = json.loads(file.read_text())
    assert [entry["shape"] for entry in run["results"]] == [shape.name for shape in SHAPES]
    timed = {entry["shape"]: sorted(entry["timings"]) for entry in run["results"]}
    everyone = ["flex_attention", "torch sdpa", "triton"]
    assert timed == {
        "decode": everyone,
        "decode int8": ["triton"],
        "ragged": ["triton"],
        "prefill": sorted([*everyone, "triton, pointers"]),
    }
    assert {entry["left_out"]["fa3"].split(":")[0] for entry in run["results"]} == {"ModuleNotFoundError"}
    assert run["goals"]
    assert file.with_suffix(".html").read_text().startswith("<!doctype html>")
    said = capsys.readouterr().out
    assert "ragged: share over that of one length" in said
    assert str(file) in said


@quietly
def test_a_run_that_ends_early_keeps_what_it_has(scripts, bench, tmp_path, monkeypatch):
    """A shape that fails is told, and the next one still timed; what time ran out for is told too."""
    only_ours = replace(bench, contenders={"triton": bench.contenders["triton"]})
    make, now = scripts.gpu.make_pools, iter(range(10))

    def make_pools(shape, *rest):
        if shape.name == "ragged":
            raise MemoryError("no room")
        return make(shape, *rest)

    monkeypatch.setattr(scripts.gpu, "check_all", lambda _: [])
    monkeypatch.setattr(scripts.gpu, "make_pools", make_pools)
    monkeypatch.setattr(scripts.gpu.time, "monotonic", lambda: next(now))
    file = tmp_path / "run.json"
    shapes = [RAGGED, DECODE, SHAPES[3]]
    wrong = scripts.gpu.take(only_ours, MACHINE, shapes, file, until=1.5)
    assert wrong == ["ragged: MemoryError: no room", "1 of 3 shapes were not begun, from 'prefill' on"]
    assert [entry["shape"] for entry in json.loads(file.read_text())["results"]] == ["decode"]


def test_what_is_wrong_is_not_timed(scripts, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(scripts.gpu, "check_all", lambda _: ["gated: two runs differ"])
    said = scripts.gpu.take(bench, MACHINE, SHAPES, tmp_path / "run.json", until=NEVER)
    assert said == ["not timed, since these are wrong:", "gated: two runs differ"]
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--quick", "--match", "e4m3"], {"shapes": ["decode 32 x 8192 heads 32/8 page 16 e4m3"]}),
        (["--match", "ragged", "--against", "fa3"], {"contenders": ["triton", "fa3"]}),
        (["--quick", "--against"], {"contenders": ["triton"]}),
        (["--seconds", "5", "--out", "here"], {"until": 12.0, "folder": "here"}),
    ],
)
def test_flags(scripts, monkeypatch, arguments, wanted):
    taken = {}

    def take(bench, _machine, shapes, file, *, until):
        taken.update(contenders=[*bench.contenders], shapes=[shape.name for shape in shapes], until=until)
        taken.update(folder=str(file.parent), clock=bench.clock, name=file.name)
        return []

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(scripts.gpu, "describe", lambda: MACHINE)
    monkeypatch.setattr(scripts.gpu, "l2_bytes_of", lambda _device: 50 << 20)
    monkeypatch.setattr(scripts.gpu, "take", take)
    monkeypatch.setattr(scripts.gpu.time, "monotonic", lambda: 7.0)
    with pytest.raises(SystemExit) as ended:
        scripts.gpu.main(arguments)
    assert ended.value.code == 0
    assert {name: taken[name] for name in wanted} == wanted
    assert taken["clock"] is scripts.clock.replay
    assert taken["name"].startswith("nvidia-none-20")


def test_without_a_gpu_the_script_says_so():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    script = [sys.executable, str(BENCH / "gpu.py"), "--quick"]
    ended = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert ended.returncode == 1
    assert ended.stderr.strip().splitlines()[-1] == "kernels/bench/gpu.py needs an NVIDIA GPU, and torch sees none"
    assert ended.stdout == ""


def test_a_machine_without_nvidia_smi_is_described_all_the_same(scripts, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA None")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scripts.machine.describe()["nvidia-smi"].startswith("FileNotFoundError")
    answer = tmp_path / "nvidia-smi"
    answer.write_text("#!/bin/sh\necho '580.1, 1980 MHz, 2619 MHz, 700.00 W'\necho '580.1, 1, 2, 3'\n")
    answer.chmod(0o755)
    told = scripts.machine.describe()
    assert (told["card"], told["driver_version"], told["power.limit"]) == ("NVIDIA None", "580.1", "700.00 W")


# ─── ceilings and checks ───


def test_reading_reads_everything(scripts):
    source = torch.randint(1 << 30, (7 * 1024,), dtype=torch.int32)
    sums = scripts.ceilings.reader(source, scripts.ceilings.Reading(1024, 3, 2, 4))()
    assert int(sums.sum(dtype=torch.int64) - source.sum(dtype=torch.int64)) % (1 << 32) == 0
    assert len(sums) == 4


def test_the_checks_pass_and_can_fail(scripts, monkeypatch):
    assert scripts.checks.check_all(CPU) == []
    noise = iter([1.0, 2.0, 3.0])

    def broken(_backend, _exact):
        raise RuntimeError("out of registers")

    monkeypatch.setattr(scripts.checks, "compare_draws", lambda _: [])
    monkeypatch.setattr(
        scripts.checks,
        "checks",
        lambda *_: [
            scripts.checks.Check("noise", lambda *_: torch.tensor([next(noise)])),
            scripts.checks.Check("broken", broken),
        ],
    )
    assert scripts.checks.check_all(CPU) == [
        "noise in torch.float32: relative error 6.7e-01, at most 1e-05",
        "noise in torch.float32: two runs differ",
        "broken in torch.float32: RuntimeError: out of registers",
    ]


def test_every_way_of_launching_is_checked(scripts):
    """Decodes and prefills, all head sizes, every cache, every mask, and the batch-invariant mode."""
    names = [check.name for check in scripts.checks.checks(CPU, torch.bfloat16)]
    assert len(set(names)) == len(names)
    for words in ("decode", "mixed", "heads of 80", "heads of 96", "heads of 256", "int8", "page 64", "sinks",
                  "alibi", "soft_cap", "batch-invariant"):  # fmt: skip
        assert any(words in name for name in names), words


def test_the_batches_of_the_checks_reach_both_kinds_of_launch(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import gpu_checks

    from octavo_kernels.triton.launches import choose_launch

    group = gpu_checks.HEADS // gpu_checks.KV_HEADS
    kinds = {
        name: choose_launch(
            90, max(queries for queries, _ in sequences), group, 128, 2, cache_size=2, block_size=64
        ).is_decode
        for name, sequences in gpu_checks.BATCHES.items()
    }
    assert kinds == {"decode": True, "verify": True, "mixed": False}


# ─── contenders ───


@quietly
@pytest.mark.parametrize(
    ("name", "sequences"),
    [("torch sdpa", ((1, 40), (1, 40))), ("torch sdpa", ((20, 20),)), ("flex_attention", ((9, 40), (9, 40)))],
)
def test_torch_s_attention_answers_the_same_question(scripts, name, sequences):
    """On the pool's keys in a rectangle, before the next pool's."""
    of = BenchShape("small", "decode", sequences, num_heads=4, num_kv_heads=2, head_dim=16)
    pools = scripts.contenders.make_pools(of, 2, CPU)
    ours, theirs = (scripts.contenders.CONTENDERS[name](of, pools) for name in ("triton", name))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one().float(), other().float(), rtol=0.02, atol=0.02)
    assert not torch.equal(ours[0](), ours[1]())


@pytest.mark.parametrize("name", ["torch sdpa", "flex_attention", "fa3", "vllm triton", "triton, pointers"])
def test_what_is_not_installed_or_not_meant_raises(scripts, name):
    ragged = BenchShape("ragged", "decode", ((1, 4), (1, 9)), num_heads=2, num_kv_heads=1, head_dim=16)
    pools = scripts.contenders.make_pools(ragged, 1, CPU)
    with pytest.raises((NotImplementedError, ImportError)):
        scripts.contenders.CONTENDERS[name](ragged, pools)


@pytest.mark.parametrize("cache", ["bf16", "e4m3", "int8"])
def test_a_cache_is_made_a_part_at_a_time(scripts, monkeypatch, cache):
    """As large as its numbers, whatever they are kept in; none of it is left out."""
    monkeypatch.setattr(scripts.contenders, "PART", 1 << 11)
    made = scripts.contenders.make_cache(replace(DECODE, sequences=((1, 150),), cache=cache), CPU)
    assert made.shape == (10, 2, 16, 66 if cache == "int8" else 64)
    assert all(block.float().isfinite().all() and block.float().std() > 0.5 for block in made)


def test_the_largest_shapes_are_made_in_a_card_s_memory():
    """Queries, caches and one part in fp32 a few times over, on 78 GiB."""
    part = 1 << 28
    most = max(shape.kv_bytes + 4 * shape.num_tokens * shape.num_heads * shape.head_dim for shape in all_shapes())
    assert most + 6 * 4 * part < 78 << 30


# ─── the graph ───


class Graph:
    """In the place of CUDA's: notes what runs when."""

    def __init__(self, told):
        self.told = told

    def replay(self):
        self.told.append("replay")


@pytest.fixture
def cuda(monkeypatch):
    """Torch's names for streams, graphs and events, played."""
    told = []

    @contextmanager
    def capturing(_graph):
        told.append("begin")
        yield
        told.append("end")

    @contextmanager
    def on(_stream):
        yield

    stream = SimpleNamespace(wait_stream=lambda _: None)
    event = SimpleNamespace(record=lambda: None, synchronize=lambda: None, elapsed_time=lambda _end: 6.0)
    for name, played in {
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": on,
        "CUDAGraph": lambda: Graph(told),
        "graph": capturing,
        "Event": lambda enable_timing: event,  # noqa: ARG005
    }.items():
        monkeypatch.setattr(torch.cuda, name, played)
    return told


def test_every_call_has_run_before_the_graph_holds_it(scripts, cuda):
    """What is made at a first call would else be made anew in every replay, and timed."""
    calls = [lambda name=name: cuda.append(name) for name in "abc"]
    seconds = scripts.clock.replay(calls, 4)
    assert "".join(one if len(one) == 1 else f" {one} " for one in cuda) == (
        "abc begin abca end " + " replay " * (1 + scripts.clock.REPLAYS)
    )
    assert seconds == pytest.approx([6e-3 / 4] * scripts.clock.REPLAYS)


def test_a_graph_holds_every_pool_at_least_once(scripts, cuda):
    calls = [lambda name=name: cuda.append(name) for name in "abc"]
    scripts.clock.replay(calls, 1)
    assert cuda[3:8] == ["begin", "a", "b", "c", "end"]


def test_torch_has_what_is_played():
    assert next(iter(inspect.signature(torch.cuda.graph).parameters)) == "cuda_graph"
    assert "enable_timing" in inspect.signature(torch.cuda.Event.__new__).parameters
