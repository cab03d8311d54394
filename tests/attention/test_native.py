"""The compiled library: its small verbs and its products against torch, and rows that do not depend on each other."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from octavo_kernels import library, native, select
from octavo_kernels.cpu import CPUBackend
from octavo_kernels.native import NativeBackend, PackedLinear
from octavo_kernels.plain import PlainVerbs

CPU = torch.device("cpu")
backend = NativeBackend()


def random(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def outside_of_a_panel(*sizes):
    """Sizes beside, at and past the widths that the loops work in."""
    return pytest.mark.parametrize("size", sizes)


@outside_of_a_panel(1, 7, 8, 40, 576)
@pytest.mark.parametrize("tokens", [1, 5, 120])
def test_rms_norm(tokens, size):
    x, weight = random(tokens, size), random(size, seed=1)
    torch.testing.assert_close(backend.rms_norm(x, weight, 1e-5), PlainVerbs().rms_norm(x, weight, 1e-5))


def test_rms_norm_of_the_heads_of_a_wider_row():
    """Queries and keys are parts of one product's row; what lies beside them is neither read nor written."""
    row = random(6, 10, 24)
    row[:, 4:] = torch.nan
    weight = random(24, seed=1)
    normed = backend.rms_norm(row[:, :4], weight, 1e-6)
    torch.testing.assert_close(normed, PlainVerbs().rms_norm(row[:, :4], weight, 1e-6))
    assert normed.is_contiguous()


@pytest.mark.parametrize(("head_dim", "half"), [(64, 32), (80, 40), (16, 3), (64, 12)])
@pytest.mark.parametrize("tokens", [1, 90])
def test_rotate_turns_only_the_first_dimensions(tokens, head_dim, half):
    """In place on the heads given, and nothing else of their rows."""
    row, angles = random(tokens, 9, head_dim), random(tokens, 1, half, seed=1)
    wanted = PlainVerbs().rotate(row[:, 2:7], angles.cos(), angles.sin())
    rotated = row.clone()
    torch.testing.assert_close(backend.rotate(rotated[:, 2:7], angles.cos(), angles.sin()), wanted)
    assert torch.equal(rotated[:, :2], row[:, :2])
    assert torch.equal(rotated[:, 7:], row[:, 7:])


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "gelu"])
@outside_of_a_panel(1, 9, 64, 1536)
def test_gated(activation, size):
    """From far below to far above where the exponential over- and underflows."""
    gate_up = random(30, 2 * size) * 40
    wanted = PlainVerbs().gated(gate_up.double(), activation)
    tolerance = 1e-4 if activation == "gelu" else 1e-6  # torch's own, whose 1 + erf cancels in fp32
    torch.testing.assert_close(backend.gated(gate_up, activation).double(), wanted, rtol=1e-5, atol=tolerance)


@pytest.mark.parametrize("verb", ["rms_norm", "gated"])
def test_what_is_no_number_stays_none(verb):
    """A sequence whose numbers broke must be found by its logits; its neighbours' are whole."""
    x = random(3, 64)
    x[1, 5] = torch.nan
    out = backend.rms_norm(x, torch.ones(64), 1e-6) if verb == "rms_norm" else backend.gated(x, "silu")
    assert out[1].isnan().any()
    assert not out[::2].isnan().any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_by_torch(dtype):
    x, weight = random(3, 16).to(dtype), random(16)
    assert torch.equal(backend.rms_norm(x, weight, 1e-6), PlainVerbs().rms_norm(x, weight, 1e-6))
    assert torch.equal(backend.gated(x, "silu"), PlainVerbs().gated(x, "silu"))


@pytest.mark.parametrize("exact", [True, False], ids=["bfloat16 by nature", "fp32"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize(("out_features", "in_features"), [(1, 1), (15, 3), (16, 64), (50, 65), (33, 3100)])
def test_the_product(out_features, in_features, bias, exact):
    weight = random(out_features, in_features)
    if exact:
        weight = weight.bfloat16().float()
    offset = random(out_features, seed=1) if bias else None
    linear = PackedLinear(weight, offset)
    assert linear.is_bfloat16 == exact
    for rows in (1, 2, 5, 6, 7, 13, 48, 49, 130):
        x = random(rows, in_features, seed=2)
        wanted = F.linear(x.double(), weight.double(), None if offset is None else offset.double())
        torch.testing.assert_close(linear(x).double(), wanted, rtol=1e-5, atol=1e-6 * in_features)


def test_no_rows_give_no_rows():
    assert PackedLinear(random(8, 4))(torch.empty(0, 4)).shape == (0, 8)


def test_one_number_that_is_no_bfloat16_keeps_the_weight_in_fp32():
    weight = random(20, 30).bfloat16().float()
    weight[19, 29] = 1 + 2**-20
    assert not PackedLinear(weight).is_bfloat16


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_row_of_a_product_does_not_depend_on_the_others(threads):
    """To the last bit, for any number of rows and threads: a text must not depend on what it was batched with."""
    linear, x = PackedLinear(random(70, 576)), random(100, 576, seed=1)
    whole = linear(x)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for start, end in [(0, 1), (3, 5), (40, 53), (7, 100)]:
            assert torch.equal(linear(x[start:end]), whole[start:end])
    finally:
        torch.set_num_threads(before)


def test_a_sequence_does_not_depend_on_its_neighbours_or_its_chunks_to_the_last_bit(make_case):
    """Whole, token by token, and beside others: the same numbers, for the queries of one prompt of 150 tokens."""
    case = make_case([(150, 150), (1, 90), (33, 70)], num_heads=6, num_kv_heads=2, head_dim=64, device=CPU)
    whole = torch.empty(case.query.shape)
    backend.attend(case.query, case.key_cache, case.value_cache, case.batch, scale=case.scale, out=whole)
    for start, end in [(0, 1), (1, 63), (63, 64), (64, 65), (65, 149), (149, 150)]:
        chunk = replace(
            case.batch,
            query_start_loc=torch.tensor([0, end - start], dtype=torch.int32),
            seq_lens=torch.tensor([end], dtype=torch.int32),
            block_table=case.batch.block_table[:1],
            slot_mapping=case.batch.slot_mapping[start:end],
        )
        out = torch.empty(end - start, 6, 64)
        backend.attend(
            case.query[start:end], case.key_cache, case.value_cache, chunk, scale=case.scale, out=out, window=None
        )
        assert torch.equal(out, whole[start:end])


def test_large_heads_are_gathered(make_case):
    """Heads of more than 256 dimensions are not compiled, and computed all the same."""
    case = make_case([(3, 20), (1, 5)], head_dim=320, device=CPU)
    out = torch.empty(case.query.shape)
    batch = backend.prepare(case.batch, case.key_cache, 4)
    backend.attend(case.query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out)
    torch.testing.assert_close(out.double(), case.expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def fresh():
    """Decisions that are made once per process are made anew, before and after."""

    def forget():
        library.load_library.cache_clear()
        native.why_not_native.cache_clear()

    forget()
    yield
    forget()


def test_cpus_get_the_compiled_library():
    assert isinstance(select.select_backend("auto", CPU), NativeBackend)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("reason", ["was not built", "ABI", "norm came out wrong"])
def test_without_a_working_library_blocks_are_gathered_and_the_log_says_why(monkeypatch, tmp_path, caplog, reason):
    match reason:
        case "was not built":
            monkeypatch.setattr(library, "_FOLDER", tmp_path)
        case "ABI":
            monkeypatch.setattr(library, "ABI", -1)
        case _:
            monkeypatch.setattr(NativeBackend, "rms_norm", lambda _self, x, _weight, _eps: x)
    with caplog.at_level(logging.WARNING):
        assert isinstance(select.select_backend("cpu", CPU), CPUBackend)
    assert reason in caplog.text
