"""Decode steps that are captured once and computed again: by a capturer that records what was to be computed, and reads
the same memory when it does so again, as a GPU would.
"""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from octavo_kernels.select import select_backend
from octavo_runtime.config import ServeConfig
from octavo_runtime.core.batch import FlatBatch, SamplingParams, SamplingRow, ScoreRow
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.errors import InvalidArgument
from octavo_runtime.model.info import read_model_info
from octavo_runtime.runner.buffers import table_width
from octavo_runtime.runner.graphs import DecodeGraphs, GraphLimits, choose_limits, graph_rows, why_eager

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GREEDY = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)
PROMPTS = [[5, 6, 7, 8] * 9, [9], [11, 150, 3], [198, 0, 42], [77] * 20]
LIMITS = GraphLimits(rows=8, blocks=100, vocab_size=199)


class DeviceMemory:
    """A device apart from the host: what is not copied there, is not there."""

    def host(self, size):
        return torch.zeros(size, dtype=torch.uint8)

    def device(self, size):
        return torch.zeros(size, dtype=torch.uint8)

    def start_copy(self, host, device):
        device.copy_(host)
        return lambda: None


class FakeCapturer:
    """Computes what it has recorded again, which reads the memory that it read when it was recorded."""

    def __init__(self, fails_at=None, error="no memory"):
        self.captures = self.replays = 0
        self._fails_at = fails_at
        self._error = error

    def capture(self, compute):
        self.captures += 1
        if self.captures == self._fails_at:
            raise torch.OutOfMemoryError(self._error)
        compute()

        def replay():
            self.replays += 1
            compute()

        return replay


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("Llama")


def with_graphs(runner, capturer=None, limits=LIMITS):
    capturer = capturer or FakeCapturer()
    runner.capture_decodes(limits, capturer, DeviceMemory())
    return runner, capturer


def decode_batch(count, context=9, **changes):
    """`count` sequences with one token each, of 4 positions to a block."""
    blocks = -(-context // 4)
    tables = [list(range(row * blocks, (row + 1) * blocks)) for row in range(count)]
    fields = {
        "token_ids": list(range(1, count + 1)),
        "positions": [context - 1] * count,
        "slot_mapping": [table[-1] * 4 + (context - 1) % 4 for table in tables],
        "query_start_loc": list(range(count + 1)),
        "seq_lens": [context] * count,
        "block_tables": tables,
        "sample_rows": list(range(count)),
        "sampling": [GREEDY] * count,
    }
    return FlatBatch(**fields | changes)


@pytest.mark.parametrize(
    ("count", "rows"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (16, 16), (17, 24), (250, 256)]
)
def test_sizes_of_graphs(count, rows):
    assert graph_rows(count) == rows


@given(count=st.integers(1, 1000))
def test_a_step_fits_its_graph_and_wastes_less_than_half_or_seven_rows(count):
    rows = graph_rows(count)
    assert graph_rows(rows) == rows, "a size of its own"
    assert count <= rows < max(2 * count, count + 8)
    assert all(a <= b for a, b in pairwise(map(graph_rows, range(1, count + 1))))


def test_the_same_tokens_with_and_without_graphs(model, runner_of, drive):
    """Prompts of different lengths end at different steps, so sizes change under way; decodes are replayed."""
    eager = drive(runner_of(model), PROMPTS, 12, chunk=7)
    runner, capturer = with_graphs(runner_of(model))
    assert drive(runner, PROMPTS, 12, chunk=7) == eager
    assert capturer.captures < 6
    assert capturer.replays > 8


@pytest.mark.parametrize("plan_ahead", [False, True], ids=["step by step", "planned ahead"])
def test_the_same_tokens_through_the_engine(model, runner_of, plan_ahead):
    """With draws, penalties, log probabilities, arrivals under way and preemptions; planned ahead, the tokens that a
    graph reads are put there by the device.
    """

    def run(runner, *, plan_ahead=False):
        engine = Engine(runner, max_num_seqs=6, max_num_batched_tokens=16, project_peak=False, plan_ahead=plan_ahead)
        texts = {}
        for number in range(14):
            params = SamplingParams(
                max_tokens=9 + number % 4,
                temperature=0.9 * (number % 2),
                seed=number,
                logprobs=2 if number % 5 == 0 else None,
                frequency_penalty=0.5 * (number % 3),
            )
            engine.add(Add(number, list(PROMPTS[number % 5]), params))
            texts[number] = []
            for output in engine.step(now=float(number)).each_output():
                texts[output.seq_id] += output.tokens
        while engine.has_work:
            done = engine.step(now=20.0)
            assert not done.failed
            for output in done.each_output():
                texts[output.seq_id] += output.tokens
        return texts, engine.stats().preemptions

    runner, capturer = with_graphs(runner_of(model, num_blocks=26))
    texts, preemptions = run(runner, plan_ahead=plan_ahead)
    assert texts == run(runner_of(model, num_blocks=26))[0]
    assert preemptions > 0
    assert capturer.replays > 10


@pytest.fixture
def poisoned_memory():
    """Memory that nobody has written holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_padding_rows_have_no_influence(model, runner_of, monkeypatch, backend):
    """Attention leaves a padding row's output alone: here it is NaN, all that follows from it is, and nothing else."""
    batch = decode_batch(5, context=1)
    expected = runner_of(model, backend).execute(batch).tokens
    runner, _ = with_graphs(runner_of(model, backend))
    states = []
    compute = runner._decoder._hidden
    monkeypatch.setattr(runner._decoder, "_hidden", lambda *inputs: states.append(compute(*inputs)) or states[-1])
    assert runner.execute(batch).tokens == expected
    for hidden in states:
        assert hidden[:5].isfinite().all()
        assert hidden[5:].isnan().all()
        assert len(hidden) == 8
    for cache in runner._caches:
        written = (~cache.key.isnan()).flatten(1).any(1).nonzero().flatten().tolist()
        assert written == list(range(5)), "only the five sequences' own blocks"


class Decoder:
    """Logits that tell what was read: each row's token id, position, slot, length and first block."""

    def __init__(self):
        self.addresses = set()

    def __call__(self, inputs):
        batch = inputs.batch
        self.addresses.add(inputs.token_ids.data_ptr())
        columns = (inputs.token_ids, inputs.positions, batch.slot_mapping, batch.seq_lens, batch.block_table[:, 0])
        return torch.stack([column.float() for column in columns], dim=1)[inputs.sample_rows]


def make_graphs(capturer=None, rows=8, blocks=100):
    limits, decoder = GraphLimits(rows, blocks, vocab_size=5), Decoder()
    return DecodeGraphs(limits, decoder, capturer or FakeCapturer(), memory=DeviceMemory(), device=CPU), decoder


def test_a_replay_reads_what_was_filled_in_last():
    """In both pieces of the host's memory, and always at one address of the device's."""
    graphs, decoder = make_graphs()
    for context in (9, 10, 30, 5, 6):
        batch = decode_batch(3, context)
        logits = graphs.compute(graphs.fill(batch))
        rows = zip(
            batch.token_ids, batch.positions, batch.slot_mapping, batch.seq_lens, batch.block_tables, strict=True
        )
        assert logits[:3].tolist() == [[token, at, slot, length, table[0]] for token, at, slot, length, table in rows]
    assert len(decoder.addresses) == 1


def test_a_graph_serves_its_size_and_width_and_no_other():
    capturer = FakeCapturer()
    graphs, _ = make_graphs(capturer)
    for count, context in [(3, 9), (4, 9), (5, 9), (4, 4 * 64), (4, 4 * 65), (3, 4 * 65)]:
        graphs.compute(graphs.fill(decode_batch(count, context)))
    assert capturer.captures == 3, "(4, 64), (8, 64) and (4, 256)"


@pytest.mark.parametrize(
    "batch",
    [
        decode_batch(9),
        decode_batch(2, context=4 * 257),
        decode_batch(2, scoring=[ScoreRow(0, 5, 0)]),
        decode_batch(1, token_ids=[1, 2], positions=[7, 8], slot_mapping=[7, 8], query_start_loc=[0, 2]),
    ],
    ids=["more rows", "longer tables", "scored rows", "two tokens of a sequence"],
)
def test_other_steps_are_not_for_graphs(batch):
    graphs, _ = make_graphs()
    assert graphs.fill(batch) is None


def test_a_step_that_chooses_for_some_of_its_sequences():
    """The last piece but one of a prompt may be one token long, and samples nothing."""
    graphs, _ = make_graphs()
    logits = graphs.compute(graphs.fill(decode_batch(3, sample_rows=[2], sampling=[GREEDY])))
    assert logits[0, 0] == 3


@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_capture_that_fails_costs_no_request_anything(model, runner_of, drive, caplog, fails_at):
    """The step at hand and all later ones are eager, and the log says so once."""
    eager = drive(runner_of(model), PROMPTS, 12, chunk=7)
    runner, capturer = with_graphs(runner_of(model), FakeCapturer(fails_at, error="out of what it needs"))
    with caplog.at_level(logging.WARNING):
        assert drive(runner, PROMPTS, 12, chunk=7) == eager
    assert capturer.captures == fails_at
    assert [record.message.partition(":")[2].rpartition(":")[2] for record in caplog.records] == [
        " out of what it needs"
    ]
    assert runner._graphs.fill(decode_batch(2)) is None


def test_what_is_no_failure_to_capture_is_raised():
    class Broken:
        def capture(self, _compute):
            raise ValueError("a bug")

    graphs, _ = make_graphs(Broken())
    with pytest.raises(ValueError, match="a bug"):
        graphs.compute(graphs.fill(decode_batch(1)))


def test_the_kv_cache_leaves_room_for_what_graphs_keep():
    limits = GraphLimits(rows=64, blocks=512, vocab_size=128_000)
    assert limits.width == table_width(512) == 1024
    assert limits.memory > 3 * 4 * 64 * 128_000 + 4 * 64 * 1024


class Triton:
    name = "triton"


@pytest.fixture(scope="module")
def info(model):
    return read_model_info(model)


def limits_of(info, **settings):
    return choose_limits(ServeConfig(Path("m"), **settings), info, GPU, Triton())


def test_limits_follow_from_the_settings(info):
    """As many rows as sequences may run, or fewer if asked for; tables for the longest sequence (256 positions)."""
    assert limits_of(info) == GraphLimits(rows=64, blocks=16, vocab_size=199)
    assert limits_of(info, max_num_seqs=3).rows == 4
    assert limits_of(info, max_num_seqs=1000).rows == 256
    assert limits_of(info, max_num_seqs=1000, max_cudagraph_capture_size=512).rows == 512
    assert limits_of(info, max_cudagraph_capture_size=12).rows == 12
    assert limits_of(info, max_model_len=100, block_size=32).blocks == 4


def reason(info, device=GPU, backend=None, **settings):
    return why_eager(ServeConfig(Path("m"), **settings), info, device, backend or Triton())


def test_what_is_not_captured_has_a_reason(info, make_model):
    assert reason(info) is None
    assert "the device is cpu" in reason(info, CPU)
    assert "--enforce-eager" in reason(info, enforce_eager=True)
    assert "ranks" in reason(info, tensor_parallel_size=2)
    assert "'reference'" in reason(info, backend=select_backend("reference", CPU))
    assert "transformers" in reason(read_model_info(make_model("GPTNeoX")))
    assert "experts" in reason(read_model_info(make_model("Mixtral")))


def test_a_size_that_cannot_be_had_is_refused_and_none_is_only_logged(info, caplog):
    config = ServeConfig(Path("m"), max_cudagraph_capture_size=16)
    with pytest.raises(InvalidArgument, match=r"--max-cudagraph-capture-size 16: .* since the device is cpu"):
        choose_limits(config, info, CPU, select_backend("cpu", CPU))
    with caplog.at_level(logging.INFO):
        assert choose_limits(ServeConfig(Path("m")), info, CPU, select_backend("cpu", CPU)) is None
    assert "no CUDA graphs: the device is cpu" in caplog.text
