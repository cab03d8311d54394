"""The simulated runner: tokens that depend on the whole context, and a cache that catches a scheduler's mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from octavo_runtime.core.batch import FlatBatch, SamplingRow
from octavo_runtime.runner.sim_runner import SimRunner, StepTime, continuation

GREEDY = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)
PROMPTS = [[1, 2, 3, 4, 5], [9], [1, 2, 3, 4, 6], list(range(20))]


def prefill(tokens: list[int], table: list[int]) -> FlatBatch:
    length = len(tokens)
    return FlatBatch(
        token_ids=tokens,
        positions=list(range(length)),
        slot_mapping=[table[p // 4] * 4 + p % 4 for p in range(length)],
        query_start_loc=[0, length],
        seq_lens=[length],
        block_tables=[table],
        sample_rows=[length - 1],
        sampling=[replace(GREEDY, position=length)],
    )


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_tokens_are_the_continuation_however_they_are_scheduled(drive, chunk):
    runner = SimRunner(num_blocks=40, block_size=4, vocab_size=1000)
    expected = [continuation(prompt, [GREEDY] * 8, 1000) for prompt in PROMPTS]
    assert drive(runner, PROMPTS, 8, chunk=chunk) == expected


def test_a_token_depends_on_every_token_before_it():
    first = continuation([1, 2, 3, 4], [GREEDY], 1 << 40)
    for other in ([2, 2, 3, 4], [1, 2, 4, 3], [1, 2, 3], [1, 2, 3, 4, 4]):
        assert continuation(other, [GREEDY], 1 << 40) != first


def test_the_seed_matters_only_above_temperature_zero():
    row = replace(GREEDY, temperature=1.0)
    assert continuation([1], [replace(GREEDY, seed=5)], 1 << 40) == continuation([1], [GREEDY], 1 << 40)
    assert continuation([1], [replace(row, seed=5)], 1 << 40) != continuation([1], [row], 1 << 40)


def test_forbidden_tokens_are_passed_over():
    (token,) = continuation([1, 2], [GREEDY], 10)
    assert continuation([1, 2], [replace(GREEDY, forbidden=frozenset({token}))], 10) == [(token + 1) % 10]


def test_a_stale_block_is_caught():
    """Another sequence's block in the table, and the position check finds it."""
    runner = SimRunner(num_blocks=4, block_size=4, vocab_size=100)
    runner.execute(prefill([1, 2, 3, 4, 5, 6, 7, 8], [0, 1]))
    decode = replace(
        prefill([5], [1, 2]),
        positions=[4],
        slot_mapping=[8],
        seq_lens=[5],
        sample_rows=[0],
        sampling=[replace(GREEDY, position=5)],
    )
    with pytest.raises(AssertionError, match="stale block"):
        runner.execute(decode)


@pytest.mark.parametrize("wrong", [{"positions": [0, 2]}, {"slot_mapping": [0, 2]}, {"block_tables": [[7]]}])
def test_a_batch_that_contradicts_itself_is_caught(wrong):
    runner = SimRunner(num_blocks=4, block_size=4, vocab_size=100)
    with pytest.raises(AssertionError):
        runner.execute(replace(prefill([1, 2], [0]), **wrong))


def test_a_step_takes_its_time_on_the_given_clock():
    slept: list[float] = []
    step_time = StepTime(base=0.5, per_prefill_token=0.25, per_decode=8.0, per_kv_token=100.0)
    runner = SimRunner(4, 4, 100, step_time=step_time, sleep=slept.append)
    runner.execute(prefill([1, 2, 3, 4], [0]))
    runner.execute(prefill([9], [1]))
    assert slept == [0.5 + 4 * 0.25 + 4 * 100.0, 0.5 + 8.0 + 100.0]


class Clock:
    def __init__(self):
        self.now = 100.0

    def sleep(self, seconds):
        self.now += seconds


def test_a_launched_step_is_computed_beside_the_host_and_after_the_one_before():
    clock = Clock()
    runner = SimRunner(4, 4, 100, StepTime(base=2.0), clock.sleep, clock=lambda: clock.now)
    first = runner.launch(prefill([1, 2], [0]))
    clock.now += 0.5
    second = runner.launch(prefill([3, 4], [1]))
    first.wait()
    assert clock.now == 102.0
    clock.now += 1.5
    second.wait()
    assert clock.now == 104.0
    clock.now += 10
    runner.launch(prefill([5], [2])).wait()
    assert clock.now == 116.0, "it was idle meanwhile"


def test_a_step_goes_on_with_the_tokens_of_the_one_launched_before():
    runner = SimRunner(num_blocks=4, block_size=4, vocab_size=1000)
    runner.launch(prefill([1, 2, 3], [0]))
    row = replace(GREEDY, position=4)
    decode = replace(
        prefill([0], [0]),
        positions=[3],
        slot_mapping=[3],
        seq_lens=[4],
        sampling=[row],
        carried_rows=[0],
        carried_from=[0],
    )
    assert runner.launch(decode).wait().tokens == continuation([1, 2, 3], [GREEDY, row], 1000)[1:]


def test_a_profile_is_read_as_it_was_written(tmp_path):
    step_time = StepTime(base=0.02, per_prefill_token=1e-4, per_decode=1e-3, per_kv_token=1e-7)
    (tmp_path / "profile.json").write_text(json.dumps(asdict(step_time)))
    assert StepTime.read(tmp_path / "profile.json") == step_time


@pytest.mark.parametrize(
    ("change", "problem"),
    [({"base": -1}, "base is -1"), ({"base": "1"}, "base is '1'"), ({"other": 1}, "must be an object with base")],
)
def test_a_wrong_profile_is_refused_by_the_name_of_what_is_wrong(tmp_path, change, problem):
    (tmp_path / "profile.json").write_text(json.dumps(asdict(StepTime()) | change))
    with pytest.raises(ValueError, match=problem):
        StepTime.read(tmp_path / "profile.json")


def test_scheduler_and_simulator_need_neither_torch_nor_a_server():
    code = """if True:
        import sys
        import octavo_runtime.core.scheduler, octavo_runtime.engine.step, octavo_runtime.runner.sim_runner
        print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "zmq", "fastapi", "numpy"}))
    """
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert loaded.stdout.strip() == "[]"
