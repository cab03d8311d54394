"""Prefill that loads keys and values through tensor descriptors, beside the same through pointers.

Caches hold 16 bits, where boxes are used; queries are fp32, so that all else is exact in the interpreter.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from octavo_kernels.cache_dtype import FP8
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton import backend as triton_backend
from octavo_kernels.triton.backend import TritonBackend
from octavo_kernels.triton.boxes import boxes_of
from octavo_kernels.triton.launches import choose_launch

MIXED = [(1, 140), (20, 90)]
HEADS = {"num_heads": 4, "num_kv_heads": 1}
BF16 = {"element_size": 2, "cache_size": 2}
OPTIONS = {"soft_cap": 5.0, "sinks": torch.linspace(-1, 1, 4), "alibi_slopes": torch.linspace(0, 0.1, 4)}


def attend(case, *, boxes=True, split_tokens=None, **options):
    """The output, and whether it came through boxes."""
    backend = TritonBackend(split_tokens, boxes=boxes)
    batch = backend.prepare(case.batch, case.key_cache, case.shape.num_heads)
    query = case.query.float()
    out = torch.full_like(query, torch.nan, memory_format=torch.contiguous_format)
    options = {name: x.to(query.device) if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    backend.attend(query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out, **options)
    assert batch.plan.launch.boxes == boxes
    return out


@pytest.mark.parametrize(
    ("head_dim", "block_size", "dtype"),
    [
        (80, 64, torch.bfloat16),  # a box is wider than a head
        (128, 128, torch.float16),  # and half as long as a block
    ],
)
def test_boxes_hold_what_pointers_read(make_case, head_dim, block_size, dtype):
    """As close to fp64 as fp32 allows, among blocks of NaN; and the same numbers to the last bit."""
    case = make_case(MIXED, head_dim=head_dim, block_size=block_size, dtype=dtype, **HEADS)
    out = attend(case)
    assert (out.double() - case.expected).norm() / case.expected.norm() < 1e-6
    assert torch.equal(out, attend(case, boxes=False))


@pytest.mark.parametrize(
    ("split_tokens", "options"), [(128, {}), (None, {"window": 70, **OPTIONS})], ids=["splits", "options"]
)
def test_every_option_is_the_same_over_boxes(make_case, split_tokens, options):
    case = make_case(MIXED, head_dim=64, block_size=64, dtype=torch.float16, **HEADS)
    out = attend(case, split_tokens=split_tokens, **options)
    exact = replace(case, key_cache=case.key_cache.float(), value_cache=case.value_cache.float())
    expected = torch.full_like(out, torch.nan)
    ReferenceBackend().attend(
        case.query.float(),
        exact.key_cache,
        exact.value_cache,
        ReferenceBackend().prepare(case.batch, exact.key_cache, 4),
        scale=case.scale,
        out=expected,
        **options,
    )
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_boxes_of_eight_bits(make_case):
    """Converted after they are loaded; NaN where nothing was written."""
    case = make_case(MIXED, head_dim=64, block_size=64, **HEADS)
    case = replace(case, key_cache=case.key_cache.to(FP8), value_cache=case.value_cache.to(FP8))
    assert torch.equal(attend(case), attend(case, boxes=False))


@pytest.mark.parametrize(
    ("boxes", "architecture", "changed"),
    [
        (True, 90, {}),
        (True, 100, {}),
        (True, 103, {}),
        (False, 80, {}),
        (False, 89, {}),
        (False, 120, {}),  # not in the table
        (True, 90, {"cache_size": 1}),
        (True, 90, {"head_dim": 256, "block_size": 32}),
        (False, 90, {"block_size": 32}),  # a tile of positions lies in two blocks
        (False, 90, {"head_dim": 20}),  # rows of 40 bytes
        (False, 90, {"max_query_len": 1}),
        (False, 90, {"element_size": 4, "cache_size": 4}),
        (False, 90, {"boxes": False}),
    ],
)
def test_the_table_and_the_shape_of_the_cache_say_where_there_are_boxes(boxes, architecture, changed):
    shape = {"max_query_len": 512, "group": 4, "head_dim": 128, "block_size": 64, **BF16, **changed}
    assert choose_launch(architecture, **shape).boxes == boxes


class Kernel:
    """In the place of one: notes the grid, and the two arguments behind the first."""

    def __init__(self, launched):
        self.launched = launched

    def __getitem__(self, grid):
        return lambda _query, *arguments, **_constants: self.launched.append((grid, arguments[:2]))


def test_launches_on_the_same_caches_get_the_same_descriptors(make_case, monkeypatch):
    """What a CUDA graph keeps: an address and a shape, whatever the lengths."""
    case = make_case(MIXED, head_dim=64, block_size=64, dtype=torch.float16, **HEADS)
    launched = []
    monkeypatch.setattr(triton_backend, "paged_attention_kernel", Kernel(launched))
    monkeypatch.setattr(triton_backend, "merge_kernel", Kernel([]))
    attend(case)
    case.batch.seq_lens.fill_(40)
    attend(case)
    (grid, (keys, values)), again = launched
    assert again[0] == grid
    for box, cache, same in zip((keys, values), (case.key_cache, case.value_cache), again[1], strict=True):
        assert isinstance(box, TensorDescriptor)
        assert box.base.data_ptr() == same.base.data_ptr() == cache.data_ptr()
        assert box.shape == same.shape == (cache.numel() // 64, 64)
        assert box.block_shape == [64, 64]


def test_a_cache_at_an_odd_address_is_refused():
    cache = torch.zeros(2 * 64 * 64 + 1, dtype=torch.float16)[1:].view(2, 1, 64, 64)
    with pytest.raises(ValueError, match=r"key_cache begins at address \d+; expected a multiple of 16"):
        boxes_of("key_cache", cache, 64)
