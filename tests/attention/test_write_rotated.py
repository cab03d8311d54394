"""Norm, rotation and KV write in one launch against the same in three steps, in caches and around tensors of NaN."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.tiny import save_tiny, tiny_config
from octavo_kernels import int8
from octavo_kernels.cache_dtype import FP8, INT8, cache_shape
from octavo_kernels.interface import PagedBatch
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton.backend import TritonBackend
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.runner.torch_runner import allocate_caches

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BLOCK_SIZE = 4
ERROR = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}  # ||o - r|| / ||r||
SHAPE = {"heads": (4, 2), "head_dim": 16, "half": 8, "norm": True}


class Case:
    """A step's heads as slices of one row, as the model has them, with NaN in the columns around them."""

    def __init__(self, tokens=5, *, heads, head_dim, half, norm, dtype=torch.float32, cache=None):
        generator = torch.Generator().manual_seed(tokens)
        random = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
        queries, self.kv_heads = heads
        row = torch.full((tokens, queries + 2 * self.kv_heads + 2, head_dim), torch.nan, dtype=dtype, device=DEVICE)
        row[:, 1:-1] = random(tokens, queries + 2 * self.kv_heads, head_dim).to(row)
        self.query, self.key, self.value = row[:, 1:-1].split([queries, self.kv_heads, self.kv_heads], dim=1)
        self.norms = tuple(random(head_dim).to(DEVICE) + 1 for _ in range(2)) if norm else None
        angles = random(tokens, 1, half)
        self.rotation = (angles.cos().to(DEVICE, dtype), angles.sin().to(DEVICE, dtype)) if half else None
        self.cache_shape, self.cache_dtype = (tokens + 2, self.kv_heads, BLOCK_SIZE, head_dim), cache or dtype
        self.slots = torch.randperm(tokens * BLOCK_SIZE, generator=generator)[:tokens].to(DEVICE) + BLOCK_SIZE
        self.slots[::3] = -1

    def run(self, backend, *, exact=False):
        """The queries and the caches, which begin as NaN; in fp64 when `exact`."""
        change = (lambda x: x.double()) if exact else (lambda x: x.clone() if x.is_contiguous() else x)
        dtype = torch.float64 if exact else self.cache_dtype
        empty = 0 if dtype == INT8 else torch.nan
        key_cache, value_cache = (torch.full(self.cache_shape, empty, device=DEVICE, dtype=dtype) for _ in range(2))
        query = backend.write_rotated(
            change(self.query), change(self.key), change(self.value), key_cache, value_cache,
            slot_mapping=self.slots,            norms=self.norms and tuple(map(change, self.norms)), eps=1e-6,
            rotation=self.rotation and tuple(map(change, self.rotation)),
        )  # fmt: skip
        return query, key_cache, value_cache


class Exact(ReferenceBackend):
    """The three steps in fp64, whose norm is fp32 in the specification."""

    def rms_norm(self, x, weight, eps):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def assert_same(found, wanted, error):
    """Close where there is a number, and NaN where there is none."""
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one.double().isnan(), other.isnan())
        difference = (one.double() - other).nan_to_num().norm() / other.nan_to_num().norm().clamp(min=1e-9)
        assert difference < error, f"relative error {difference:.2e}"


@settings(max_examples=8, deadline=None)
@given(
    tokens=st.integers(1, 5),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1), (9, 3), (4, 4), (7, 1)]),
    dims=st.sampled_from([(16, 8), (16, 0), (64, 32), (80, 10), (24, 12), (32, 4), (128, 64)]),
    norm=st.booleans(),
)
def test_any_shape(tokens, heads, dims, norm):
    """Grouped heads or not, all dimensions turned, some or none, with norms and without; slot -1 stores nothing."""
    case = Case(tokens, heads=heads, head_dim=dims[0], half=dims[1], norm=norm)
    assert_same(case.run(TritonBackend()), case.run(Exact(), exact=True), ERROR[torch.float32])


@pytest.mark.parametrize("dtype", ERROR, ids=str)
def test_every_precision(dtype):
    case = Case(**SHAPE, dtype=dtype)
    assert_same(case.run(TritonBackend()), case.run(Exact(), exact=True), ERROR[dtype])


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, on which the interpreter stands
def test_a_value_is_stored_as_it_is():
    """Infinity too, which times the zeros of other rows would be NaN."""
    case = Case(**SHAPE)
    case.value[1, 0, 3] = torch.inf
    *_, cache = case.run(TritonBackend())
    block, offset = divmod(int(case.slots[1]), BLOCK_SIZE)
    assert torch.equal(cache[block, :, offset], case.value[1])


def test_a_cache_of_eight_bits():
    """Numbers that e4m3 holds, after a quarter turn that moves them to their partners, and some that lie beyond.

    Triton's interpreter loses a carry when it rounds, so that only a GPU can show the rest.
    """
    case = Case(**SHAPE | {"norm": False}, cache=FP8)
    for rows in (case.key, case.value):
        rows.copy_(rows.to(FP8))
    case.value[1, 0, :2] = torch.tensor([1e6, -1e6])
    case.rotation = tuple(torch.full_like(case.rotation[0], angle) for angle in (0, 1))
    query, *caches = case.run(TritonBackend())
    exact_query, *exact = case.run(Exact(), exact=True)
    assert_same([query], [exact_query], ERROR[torch.float32])
    assert_same(caches, [wanted.clamp(-448, 448) for wanted in exact], 1e-9)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, as above
@pytest.mark.parametrize("dims", [(16, 8), (16, 4), (16, 0)], ids=["all turned", "half turned", "none turned"])
def test_a_cache_in_int8(dims):
    """Numbers and scales of the rows that fp64 gives, but for those that lie as close to a half as its rounding."""
    case = Case(heads=(4, 2), head_dim=dims[0], half=dims[1], norm=True)
    query, *exact = case.run(Exact(), exact=True)
    case.cache_shape, case.cache_dtype = cache_shape(*case.cache_shape, INT8), INT8
    case.value[2, 1] = torch.inf
    found, *caches = case.run(TritonBackend())
    assert_same([found], [query], ERROR[torch.float32])
    exact[1][case.slots[2] // BLOCK_SIZE, 1, case.slots[2] % BLOCK_SIZE] = torch.nan
    for cache, wanted in zip(caches, exact, strict=True):
        written = torch.zeros(cache.shape[:3], dtype=torch.bool, device=DEVICE)
        slots = case.slots[case.slots >= 0]
        written[slots // BLOCK_SIZE, :, slots % BLOCK_SIZE] = True
        numbers, scales = int8.quantised(wanted)
        assert (int8.scales_of(cache)[~written] == 0).all(), "where nothing was written"
        torch.testing.assert_close(int8.scales_of(cache)[written], scales[written], rtol=0.01, atol=0, equal_nan=True)
        off = (int8.numbers_of(cache)[written].int() - numbers[written].int()).abs()
        assert off.max() <= 1
        assert off.float().mean() < 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"query": lambda c: c.query[..., :8]}, r"query is \(5, 4, 8\); expected \[T, a multiple of 2, 16\]"),
        ({"query": lambda c: c.query[:, :3]}, r"query is \(5, 3, 16\)"),
        ({"norms": lambda c: (c.norms[0][:5], c.norms[1])}, r"the query norm's weight is \(5,\); expected \(16,\)"),
        ({"rotation": lambda c: (c.rotation[0], c.rotation[1][:2])}, r"sin is \(2, 1, 8\); expected \[5, 1, at most 8"),
        ({"key": lambda c: c.key[:, :1]}, r"key is \(5, 1, 16\)"),
    ],
)
def test_what_does_not_fit_is_named(change, words):
    case = Case(**SHAPE)
    for name, of in change.items():
        setattr(case, name, of(case))
    with pytest.raises(ValueError, match=words):
        case.run(TritonBackend())


@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_a_tiny_model_s_logits_are_the_reference_s(tmp_path, name):
    """All verbs in their places: a prefill and two decodes through our own decoder."""
    import transformers

    model_class = getattr(transformers, f"{name}ForCausalLM")
    save_tiny(model_class, tiny_config(model_class.config_class, layers=2), tmp_path)
    ours, reference = (logits(tmp_path, backend) for backend in (TritonBackend(), ReferenceBackend()))
    torch.testing.assert_close(ours, reference, rtol=2e-5, atol=2e-5 * reference.abs().max().item())


def logits(folder, backend):
    decoder = load_decoder(read_model_info(folder), backend, device=DEVICE, dtype=torch.float32)
    caches = allocate_caches(decoder.cache_shapes, 6, BLOCK_SIZE, device=DEVICE, dtype=torch.float32)
    tokens, table = torch.tensor([3, 14, 15, 9, 26, 5, 35, 8], device=DEVICE), torch.tensor([4, 1, 3], device=DEVICE)
    found = []
    for start, end in pairwise([0, 6, 7, 8]):
        positions = torch.arange(start, end, device=DEVICE)
        batch = PagedBatch(
            query_start_loc=torch.tensor([0, end - start], dtype=torch.int32, device=DEVICE),
            seq_lens=torch.tensor([end], dtype=torch.int32, device=DEVICE),
            block_table=table[None].int(),
            slot_mapping=table[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE,
            max_query_len=end - start,
            max_seq_len=end,
        )
        rows = torch.arange(end - start, device=DEVICE)
        found.append(decoder.forward(tokens[start:end], positions, batch, caches, rows))
    return torch.cat(found)
