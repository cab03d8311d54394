"""The batch-invariant mode: a row's numbers are the same to the last bit alone, in any batch, in any chunk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from octavo_kernels.interface import PagedBatch
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton import backend as triton_backend
from octavo_kernels.triton.backend import TritonBackend

SPLIT = 128  # two tiles of positions
HEADS = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 64}
OPTIONS = {
    "plain": {},
    "all": {"window": 170, "sinks": torch.linspace(-1, 1, 4), "alibi_slopes": torch.linspace(0.01, 0.1, 4)},
}
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture
def rows_alike(monkeypatch):
    """A product as tensor cores compute it: a row's result does not depend on where in the matrix the row is. That of
    numpy, which the interpreter takes, does.
    """

    def product(a, b, dtype=None):
        return np.einsum("ik,kj->ij", a, b, optimize=False, dtype=dtype)

    monkeypatch.setattr(np, "matmul", product)


def attend(case, batch, query, kernels=None, **options):
    kernels = kernels or TritonBackend(split_tokens=SPLIT)
    batch = kernels.prepare(batch, case.key_cache, case.shape.num_heads)
    out = torch.full(query.shape, torch.nan, dtype=query.dtype, device=query.device)
    kernels.attend(query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out, **options)
    return out


def alone(case, sequence, first, count, length):
    """`count` queries of one of the case's sequences, from its `first` on, of a context of `length`; and their rows."""
    start = int(case.batch.query_start_loc[sequence]) + first
    rows = slice(start, start + count)
    batch = PagedBatch(
        query_start_loc=torch.tensor([0, count], dtype=torch.int32, device=case.query.device),
        seq_lens=torch.tensor([length], dtype=torch.int32, device=case.query.device),
        block_table=case.batch.block_table[sequence : sequence + 1, : -(-length // case.shape.block_size)].contiguous(),
        slot_mapping=case.batch.slot_mapping[rows],
        max_query_len=count,
        max_seq_len=length,
    )
    return batch, rows


def on_device(options, device):
    return {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in options.items()}


@options
def test_it_is_what_the_specification_says(make_case, options):
    """Contexts in one split, at its edges and in several."""
    case = make_case([(1, 300), (40, 160), (1, 128), (1, 129)], **HEADS)
    options = on_device(options, case.query.device)
    expected = attend(case, case.batch, case.query, ReferenceBackend(), **options)
    torch.testing.assert_close(attend(case, case.batch, case.query, **options), expected, rtol=1e-5, atol=1e-5)


@options
def test_a_sequence_alone_gives_what_it_gives_in_a_batch(make_case, monkeypatch, options):
    """Beside a prefill, whose tiles would be others, on a device with other programs, and without their splits."""
    case = make_case([(1, 300), (20, 150)], **HEADS)
    options = on_device(options, case.query.device)
    together = attend(case, case.batch, case.query, **options)
    monkeypatch.setattr(triton_backend, "multiprocessors_of", lambda _: 5)
    for sequence, (count, length) in enumerate(case.shape.sequences):
        batch, rows = alone(case, sequence, 0, count, length)
        assert torch.equal(attend(case, batch, case.query[rows], **options), together[rows])


@pytest.mark.usefixtures("rows_alike")
@options
def test_chunks_of_a_prefill_give_what_the_whole_gives(make_case, options):
    """As a decode at the end, and cut where no tile ends: what is computed anew after a preemption is the same."""
    case = make_case([(70, 190)], **HEADS)
    options = on_device(options, case.query.device)
    whole = attend(case, case.batch, case.query, **options)
    for first, count in ((0, 33), (33, 37), (69, 1)):
        batch, rows = alone(case, 0, first, count, 120 + first + count)
        assert torch.equal(attend(case, batch, case.query[rows], **options), whole[rows])


def test_without_the_mode_numbers_do_depend_on_the_batch(make_case):
    """So the tests above can fail."""
    case = make_case([(1, 300), (20, 150)], **HEADS)
    together = attend(case, case.batch, case.query, TritonBackend())
    batch, rows = alone(case, 0, 0, 1, 300)
    assert not torch.equal(attend(case, batch, case.query[rows], TritonBackend()), together[rows])


def test_padding_is_passed_over(make_case):
    """Sequences without queries and rows of no sequence, as in a step padded for a CUDA graph."""
    case = make_case([(1, 300), (1, 20)], **HEADS)
    expected = attend(case, case.batch, case.query)
    padded = replace(
        case.batch,
        query_start_loc=torch.tensor([0, 1, 1, 2, 2], dtype=torch.int32, device=case.query.device),
        seq_lens=torch.tensor([300, 0, 20, 0], dtype=torch.int32, device=case.query.device),
        block_table=case.batch.block_table[[0, 0, 1, 0]].contiguous(),
        slot_mapping=torch.cat([case.batch.slot_mapping, case.batch.slot_mapping[:1]]),
    )
    out = attend(case, padded, torch.cat([case.query, case.query[:1]]))
    assert torch.equal(out[:2], expected)
    assert out[2].isnan().all()


@pytest.mark.parametrize("split_tokens", [0, -64, 100])
def test_a_split_that_no_tile_divides_is_refused(split_tokens):
    with pytest.raises(ValueError, match=f"split_tokens is {split_tokens}; expected a multiple of 64"):
        TritonBackend(split_tokens=split_tokens)
