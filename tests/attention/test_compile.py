"""The Triton kernels compile for the GPUs that Octavo serves on and keep to their budget, with no GPU here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from octavo_kernels.aot.budget import Budget, changes, missing, read_budget, violations, write_budget
from octavo_kernels.aot.figures import (
    Figures,
    blocks_per_sm,
    count_loads,
    count_operations,
    read_buffers,
    read_resources,
)

GOOD = Figures(
    registers=96,
    stack=0,
    local=0,
    shared=37 << 10,
    blocks_per_sm=4,
    instructions=1000,
    async_copies={"128": 48},
    products={"HMMA": 32},
    tiles_in_flight=2,
    bytes_in_flight=32 << 10,
    loads={"32": 1, "128": 4},
)


def test_good_figures_break_no_rule():
    assert list(violations("decode", 80, GOOD, programs=4)) == []


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        ("decode", {"local": 3}, "registers spill: 3"),
        ("prefill", {"stack": 8}, "8 bytes of stack"),
        ("copy", {"shared": 200 << 10}, "shared memory 204800"),
        ("copy", {"loads": {"32": 1, "64": 8}}, "no load of 16 bytes: {'32': 1, '64': 8}"),
        ("decode", {"registers": 170, "blocks_per_sm": 2}, "2 blocks run at once, with 170 registers; 3 are launched"),
        ("decode", {"tiles_in_flight": 1}, "1 tiles"),
        ("prefill", {"products": {}}, "no tensor-core instruction"),
        ("exact", {"async_copies": {"128": 8, "64": 8}}, "narrower than 16 bytes"),
    ],
)
def test_a_broken_rule_is_named_with_its_number(kind, wrong, words):
    (said,) = violations(kind, 80, replace(GOOD, **wrong), programs=3)
    assert words in said


BOXES = replace(GOOD, async_copies={"tma": 12}, products={"HGMMA": 24})


def test_boxes_and_pointers_are_held_apart():
    """Each of the two ways of loading must be what was compiled, and not the other one."""
    assert list(violations("prefill", 90, BOXES, boxes=True)) == []
    assert list(violations("prefill", 90, replace(BOXES, products={"UTCHMMA": 64}), boxes=True)) == []
    assert list(violations("prefill", 90, BOXES)) == ["pointers, and no asynchronous copy by threads: {'tma': 12}"]
    assert list(violations("prefill", 80, replace(GOOD, async_copies={}))) == [
        "pointers, and no asynchronous copy by threads: {}"
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"async_copies": {}}, "copies other than the tensor memory accelerator's: {}"),
        ({"async_copies": {"128": 8, "tma": 4}}, "copies other than the tensor memory accelerator's"),
        ({"products": {"HMMA": 64}}, "no product that reads shared memory: {'HMMA': 64}"),
    ],
)
def test_boxes_that_are_none_are_refused(wrong, words):
    """As where descriptors are emulated, or boxes go through registers."""
    (said,) = violations("prefill", 90, replace(BOXES, **wrong), boxes=True)
    assert words in said


def test_products_on_tensor_cores_are_not_asked_of_exact_fp32():
    assert list(violations("exact", 80, replace(GOOD, products={}))) == []


def test_a_change_is_told_with_both_numbers():
    assert list(changes(GOOD, replace(GOOD, registers=97))) == ["registers: 96 before, 97 now"]
    assert list(changes(GOOD, replace(GOOD, async_copies={"64": 96}))) == [
        "async_copies: {'128': 48} before, {'64': 96} now"
    ]
    assert list(changes(None, GOOD)) == ["is not in the budget"]


def test_a_few_instructions_more_or_less_are_no_change():
    assert list(changes(GOOD, replace(GOOD, instructions=1050))) == []
    assert list(changes(GOOD, replace(GOOD, instructions=949))) == ["instructions: 1000 before, 949 now"]


def test_a_budget_is_read_back_as_it_was_written(tmp_path):
    budget = Budget(
        "3.9.0", "why", {("decode", 80): replace(GOOD, loads={}), ("decode", 90): replace(GOOD, registers=80)}
    )
    write_budget(budget, tmp_path / "budget.json")
    assert read_budget(tmp_path / "budget.json") == budget
    assert missing(budget, {("decode", 80): GOOD}) == ["decode on sm_90 is in the budget only"]


def test_the_tools_listings_are_read():
    listing = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R3], desc[UR4][R4.64] ;
        /*0020*/             @UP0 HMMA.16816.F32.BF16 R8, R4, R2, R8 ;
        /*1aa30*/                  STL [R1], R2 ;
    """
    assert count_operations(listing) == {"LDC": 1, "LDGSTS.E.BYPASS.128": 1, "HMMA.16816.F32.BF16": 1, "STL": 1}
    assert read_resources(" Function f:\n  REG:128 STACK:8 SHARED:0 LOCAL:0") == (128, 8)
    loads = ["LDG.E.128", "LDG.E.128.CONSTANT", "LDG.E.64", "LDG.E", "LDG.E.U16", "LDGSTS.E.BYPASS.128", "LDS.128"]
    assert count_loads(Counter(loads)) == {"16": 1, "32": 1, "64": 1, "128": 2}
    ttgir = "%k = ttg.local_alloc : () -> !ttg.memdesc<2x128x64xbf16, #shared1, #smem, mutable>"
    assert read_buffers(ttgir) == [(2, 128 * 64 * 2)]


def test_blocks_are_limited_by_what_runs_out_first():
    assert blocks_per_sm(80, registers=128, num_warps=4, shared=1 << 10) == 4, "registers"
    assert blocks_per_sm(80, registers=32, num_warps=4, shared=70 << 10) == 2, "shared memory"
    assert blocks_per_sm(89, registers=16, num_warps=4, shared=0) == 12, "warps"
