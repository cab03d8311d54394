"""Every backend against the dense fp64 oracle, in caches that are poisoned wherever nothing was written."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from octavo_kernels import check
from octavo_kernels.cpu import CPUBackend
from octavo_kernels.native import NativeBackend
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton.backend import TritonBackend

CPU = torch.device("cpu")
ERROR = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float64: 1e-12}  # ||o - r|| / ||r||
MIXED = [(1, 6), (4, 6), (1, 1), (5, 5), (1, 80), (3, 67), (2, 16), (1, 17), (7, 32)]


def attend(backend, case, *, prepared: bool = True):
    """The backend's output, in a tensor poisoned beforehand."""
    batch = backend.prepare(case.batch, case.key_cache, case.shape.num_heads) if prepared else case.batch
    out = torch.full_like(case.query, torch.nan, memory_format=torch.contiguous_format)
    backend.attend(case.query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out)
    return out


def attended_by_torch(case):
    """Each sequence by itself, its context gathered and its heads repeated."""
    rows, start = [], 0
    group = case.shape.num_heads // case.shape.num_kv_heads
    for (num_queries, length), table in zip(case.shape.sequences, case.batch.block_table, strict=True):
        blocks = table[: -(-length // case.shape.block_size)].long()
        context = (
            cache[blocks].transpose(0, 1).flatten(1, 2)[:, :length].repeat_interleave(group, 0)
            for cache in (case.key_cache, case.value_cache)
        )
        query = case.query[start : start + num_queries].transpose(0, 1)
        seen = torch.ones(num_queries, length, dtype=torch.bool, device=query.device).tril(length - num_queries)
        rows.append(functional.scaled_dot_product_attention(query, *context, attn_mask=seen).transpose(0, 1))
        start += num_queries
    return torch.cat(rows)


def relative_error(out, case):
    return (out.double() - case.expected).norm() / case.expected.norm()


def assert_close(out, case):
    error = relative_error(out, case)
    assert error < ERROR[case.shape.dtype], f"relative error {error:.2e}"  # NaN fails too


def shapes(max_queries: int, max_context: int, max_sequences: int):
    """Batches around the borders of blocks: 1, a block less one, a block, one more, and others."""
    contexts = st.sampled_from([1, 2, 15, 16, 17, 31, 33, 63, 64, 65]) | st.integers(1, max_context)
    sequence = contexts.flatmap(lambda n: st.tuples(st.integers(1, min(n, max_queries)) | st.just(1), st.just(n)))
    return st.lists(sequence, min_size=1, max_size=max_sequences)


heads = st.sampled_from([(1, 1), (2, 1), (3, 1), (4, 2), (9, 3), (8, 8), (16, 2), (20, 1)])
blocks = st.sampled_from([4, 16, 32, 64])
plain_backends = pytest.mark.parametrize(
    "backend", [ReferenceBackend(), CPUBackend(), NativeBackend()], ids=lambda b: b.name
)
all_backends = pytest.mark.parametrize(
    "backend", [ReferenceBackend(), CPUBackend(), NativeBackend(), TritonBackend()], ids=lambda b: b.name
)


@plain_backends
@settings(max_examples=60, deadline=None)
@given(sequences=shapes(70, 150, 6), heads=heads, block_size=blocks, head_dim=st.sampled_from([16, 64, 80]))
def test_any_batch(backend, make_case, *, sequences, heads, block_size, head_dim):
    """Decodes, prefills, chunks and mixes of them, in any grouping of heads and any block size."""
    num_heads, num_kv_heads = heads
    case = make_case(
        sequences, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, block_size=block_size, device=CPU
    )
    assert_close(attend(backend, case), case)


@settings(max_examples=12, deadline=None)
@given(sequences=shapes(20, 100, 3), heads=heads, block_size=blocks, head_dim=st.sampled_from([16, 64, 80]))
def test_any_small_batch_in_triton(make_case, sequences, heads, block_size, head_dim):
    """The same for the Triton kernel; few, as its interpreter takes 10 ms for an iteration of the loop."""
    num_heads, num_kv_heads = heads
    case = make_case(
        sequences, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, block_size=block_size
    )
    assert_close(attend(TritonBackend(), case), case)


@all_backends
def test_a_mixed_batch(backend, make_case):
    """Decodes beside prefills beside chunks that continue a context."""
    case = make_case(MIXED, device=CPU)
    assert_close(attend(backend, case), case)


@all_backends
def test_decodes_alone(backend, make_case):
    """The batch of a steady state: one query each, contexts of very different lengths."""
    case = make_case([(1, 1), (1, 300), (1, 16), (1, 129), (1, 140)], num_heads=9, num_kv_heads=3, head_dim=64)
    assert_close(attend(backend, case), case)


@all_backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision(backend, make_case, dtype):
    """Half the bits in, half out, and in between no more error than the format's own."""
    case = make_case(MIXED, dtype=dtype)
    assert_close(attend(backend, case), case)


@all_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_the_error_is_at_most_twice_that_of_torch(backend, make_case, dtype):
    """Torch's own attention in the same precision is what users have without us."""
    case = make_case([(1, 300), (5, 129), (40, 40)], dtype=dtype, num_heads=8, head_dim=64)
    ours, torchs = (relative_error(out, case) for out in (attend(backend, case), attended_by_torch(case)))
    assert ours <= 2 * torchs
    assert dtype is not torch.float32 or ours < 1e-5


def test_the_reference_is_exact_in_fp64(make_case):
    case = make_case(MIXED, dtype=torch.float64, device=CPU)
    assert_close(attend(ReferenceBackend(), case), case)


@all_backends
def test_a_batch_without_a_plan_gives_the_same(backend, make_case):
    case = make_case(MIXED)
    assert torch.equal(attend(backend, case, prepared=False), attend(backend, case))


@all_backends
def test_a_sequence_does_not_depend_on_its_neighbours(backend, make_case):
    """Alone or in a batch, a sequence gets the same result to rounding."""
    case = make_case([(3, 40), (1, 90), (9, 9)])
    alone = replace(
        case.batch,
        query_start_loc=case.batch.query_start_loc[:2],
        seq_lens=case.batch.seq_lens[:1],
        block_table=case.batch.block_table[:1],
        slot_mapping=case.batch.slot_mapping[:3],
        max_query_len=3,
        max_seq_len=40,
    )
    together = attend(backend, case)[:3]
    out = torch.full_like(together, torch.nan)
    backend.attend(case.query[:3], case.key_cache, case.value_cache, alone, scale=case.scale, out=out)
    torch.testing.assert_close(out, together, rtol=1e-5, atol=1e-6)


@all_backends
@settings(max_examples=10, deadline=None)
@given(sequences=shapes(20, 60, 4), heads=st.sampled_from([(1, 1), (9, 3), (8, 5)]), block_size=blocks)
def test_write_kv_stores_each_token_in_its_slot_and_nothing_else(backend, make_case, sequences, heads, block_size):
    """Written into caches of NaN, the stored tokens are found again, -1 stores nothing, and all else is still NaN."""
    _, num_kv_heads = heads
    case = make_case(sequences, num_heads=num_kv_heads, num_kv_heads=num_kv_heads, block_size=block_size)
    slots = case.batch.slot_mapping.clone()
    slots[::3] = -1
    key_cache, value_cache = torch.full_like(case.key_cache, torch.nan), torch.full_like(case.value_cache, torch.nan)
    backend.write_kv(case.key, case.value, key_cache, value_cache, slots)
    stored = (slots >= 0).nonzero().flatten().tolist()
    for cache, rows in ((key_cache, case.key), (value_cache, case.value)):
        for row in stored:
            block, offset = divmod(int(slots[row]), block_size)
            assert torch.equal(cache[block, :, offset], rows[row])
        assert int((~cache.isnan()).sum()) == len(stored) * rows[0].numel()


@all_backends
def test_attention_reads_what_write_kv_wrote(backend, make_case):
    """Prefill from an empty cache: both verbs together equal the oracle."""
    case = make_case([(33, 33), (1, 1), (17, 17)])
    key_cache, value_cache = torch.full_like(case.key_cache, torch.nan), torch.full_like(case.value_cache, torch.nan)
    backend.write_kv(case.key, case.value, key_cache, value_cache, case.batch.slot_mapping)
    assert_close(attend(backend, replace(case, key_cache=key_cache, value_cache=value_cache)), case)


BROKEN = {
    "head_dim": lambda case: {"query": case.query[..., :8]},
    "query heads": lambda case: {"query": case.query[:, :3]},
    "value_cache": lambda case: {"value_cache": case.value_cache[:2]},
    "query_start_loc": lambda case: {"batch": replace(case.batch, query_start_loc=case.batch.query_start_loc[1:])},
    "block_table": lambda case: {"batch": replace(case.batch, block_table=case.batch.block_table[1:])},
    "seq_lens": lambda case: {"batch": replace(case.batch, seq_lens=case.batch.seq_lens.long())},
}


@all_backends
@pytest.mark.parametrize("named", BROKEN)
def test_shapes_that_do_not_fit_are_named(backend, make_case, named):
    """A wrong shape or dtype is refused by its name before anything is computed."""
    case = make_case(MIXED)
    case = replace(case, **BROKEN[named](case))
    with pytest.raises(ValueError, match=named):
        attend(backend, case, prepared=False)


def _changed(tensor, index, value):
    tensor = tensor.clone()
    tensor[index] = value
    return tensor


OUTSIDE = {
    "block number": (("block_table", (1, 0), 1 << 20), r"block_table\[1, 0\] is 1048576; there are 22 blocks"),
    "negative block": (("block_table", (0, 0), -1), r"block_table\[0, 0\] is -1"),
    "length": (("seq_lens", (2,), 10_000), r"seq_lens\[2\] is 10000; there are \d+ positions in the block table"),
    "queries": (("seq_lens", (3,), 2), r"query length\[3\] is 5; there are not as many in seq_lens"),
}


@all_backends
@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_points_outside_the_cache_is_refused_when_asked(backend, make_case, monkeypatch, kind):
    """OCTAVO_CHECK_PAGES=1 looks at values before anything is read, and names the first that is wrong."""
    monkeypatch.setattr(check, "CHECK_PAGES", True)
    case = make_case(MIXED)
    (name, index, value), words = OUTSIDE[kind]
    batch = replace(case.batch, **{name: _changed(getattr(case.batch, name), index, value)})
    with pytest.raises(ValueError, match=words):
        attend(backend, replace(case, batch=batch), prepared=False)


@all_backends
def test_slots_outside_the_cache_are_refused_when_asked(backend, make_case, monkeypatch):
    monkeypatch.setattr(check, "CHECK_PAGES", True)
    case = make_case(MIXED)
    slots = _changed(case.batch.slot_mapping, (1,), 1 << 40)
    with pytest.raises(ValueError, match=r"slot_mapping\[1\] is 1099511627776; there are \d+ slots"):
        backend.write_kv(case.key, case.value, case.key_cache, case.value_cache, slots)


@plain_backends
def test_what_lies_within_the_cache_passes_when_values_are_checked(backend, make_case, monkeypatch):
    """Entries of the block table past a sequence's end may be anything."""
    monkeypatch.setattr(check, "CHECK_PAGES", True)
    case = make_case(MIXED, device=CPU)
    backend.write_kv(case.key, case.value, case.key_cache, case.value_cache, case.batch.slot_mapping)
    assert_close(attend(backend, case), case)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"query": torch.float64}, "query is torch.float64; the Triton kernels take float32, float16, bfloat16$"),
        ({"key_cache": torch.float8_e5m2}, "key_cache is torch.float8_e5m2; the Triton kernels take .*, int8$"),
    ],
)
def test_numbers_that_the_triton_kernels_do_not_have_are_refused(make_case, changed, words):
    case = make_case([(1, 6)])
    case = replace(case, **{name: getattr(case, name).to(dtype) for name, dtype in changed.items()})
    with pytest.raises(ValueError, match=words):
        attend(TritonBackend(), case)


@pytest.mark.parametrize(
    ("heads", "head_dim", "words"),
    [
        (2, 512, "head_dim is 512; the Triton kernels take up to 256"),
        (258, 16, "query has 129 heads for each KV head; the Triton kernels take up to 128"),
    ],
)
def test_shapes_that_the_triton_kernels_do_not_have_are_refused(make_case, heads, head_dim, words):
    case = make_case([(1, 6)], num_heads=heads, head_dim=head_dim)
    with pytest.raises(ValueError, match=words):
        attend(TritonBackend(), case, prepared=False)
