"""What a run on a GPU decides and computes without one, with timings that are made up."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_kernels.bench.plot import page
from octavo_kernels.bench.report import cost_model, document, file_name, table, to_json
from octavo_kernels.bench.result import Ceilings, Result
from octavo_kernels.bench.shapes import KV_LIMIT, BenchShape, all_shapes, calls_for, pools_for, quick_shapes
from octavo_kernels.bench.timings import Timing, fit, summarise

CEILINGS = Ceilings(copy=2e12, read=3e12, product=6e14)
MIB = 1 << 20


def shape(batch=4, context=1024, **changes):
    return BenchShape(f"{batch} x {context}", "decode", ((1, context),) * batch, **changes)


def result(of, seconds, **others):
    timings = {name: Timing(value, value, value) for name, value in {"triton": seconds, **others}.items()}
    return Result(of, timings, {"fa3": "ImportError"})


def test_a_summary_is_the_median_and_the_spread():
    assert summarise([5.0, 1.0, 3.0, 2.0, 4.0]) == Timing(3.0, 1.4, 4.6)
    assert summarise([2.0]) == Timing(2.0, 2.0, 2.0)


@pytest.mark.parametrize("seconds", [[], [1.0, 0.0]])
def test_timings_that_cannot_be_are_refused(seconds):
    with pytest.raises(ValueError, match="expected at least one, all above 0"):
        summarise(seconds)


@given(st.floats(0, 1e-4), st.floats(1e11, 5e12), st.lists(st.floats(1e5, 1e11), min_size=3, max_size=20, unique=True))
def test_a_cost_model_finds_what_the_timings_were_made_of(launch, bandwidth, sizes):
    found = fit([(size, launch + size / bandwidth) for size in (*sizes, 1e5, 1e11)])
    assert found.launch == pytest.approx(launch, rel=1e-5, abs=1e-10)
    assert found.bandwidth == pytest.approx(bandwidth, rel=1e-5)
    assert found.worst < 1e-5


def test_short_calls_count_as_much_as_long_ones():
    """A tenth more on the longest call moves the launch by little."""
    samples = [(n * MIB, 5e-6 + n * MIB / 3e12) for n in (1, 4, 16, 64)] + [(4096 * MIB, 1.1 * (4096 * MIB / 3e12))]
    found = fit(samples)
    assert found.launch == pytest.approx(5e-6, rel=0.1)
    assert 0.02 < found.worst < 0.1
    assert found.seconds(0) == found.launch


def test_a_launch_is_never_below_zero():
    found = fit([(1e6, 1e-6), (2e6, 3e-6), (4e6, 7e-6)])
    assert found.launch == 0
    assert found.bandwidth > 0


@pytest.mark.parametrize("samples", [[], [(1e6, 1e-6)], [(1e6, 1e-6), (1e6, 2e-6)], [(1e6, 1.0), (1e12, 1e-3)]])
def test_what_determines_no_bandwidth_is_refused(samples):
    with pytest.raises(ValueError, match="bandwidth"):
        fit(samples)


def test_bytes_and_operations_of_a_decode():
    of = shape(4, 1000)
    assert of.kv_bytes == 2 * 4 * 1000 * 8 * 128 * 2
    assert of.bytes_moved == of.kv_bytes + 2 * 4 * 32 * 128 * 2
    assert of.operations == 4 * 4 * 1000 * 32 * 128
    assert of.num_blocks == 4 * 63
    assert shape(4, 1000, cache="e4m3").kv_bytes == of.kv_bytes // 2
    assert shape(4, 1000, cache="int8").kv_bytes == of.kv_bytes // 2 + 2 * 4 * 1000 * 8 * 2, "a scale in 2 bytes"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 20)), min_size=1, max_size=4))
def test_operations_are_those_of_every_query_and_what_it_sees(sequences):
    of = BenchShape("any", "mixed", tuple((q, q + before) for q, before in sequences), num_heads=2, head_dim=4)
    assert of.operations == sum(4 * 2 * 4 * (before + i + 1) for q, before in sequences for i in range(q))


def test_shapes_have_names_of_their_own_and_fit():
    for shapes in (list(quick_shapes()), list(all_shapes())):
        assert len({of.name for of in shapes}) == len(shapes)
        assert all(of.kv_bytes <= KV_LIMIT for of in shapes)
        assert {of.kind for of in shapes} == {"decode", "prefill", "mixed"}
        assert {of.cache for of in shapes} == {"bf16", "e4m3", "int8"}
    assert len(list(quick_shapes())) == 16


def test_pools_outgrow_the_cache():
    assert pools_for(shape(1, 1024), 50 * MIB) == 63
    assert pools_for(shape(1, 16), 50 * MIB) == 64, "no more than that"
    assert pools_for(shape(64, 8192), 50 * MIB) == 1


def test_a_graph_holds_enough_calls_and_no_more():
    assert calls_for(1e-6) == 20, "no more than that, of short ones"
    assert calls_for(8e-3) == 3
    assert calls_for(1.0) == 1


def test_the_share_is_of_the_ceiling_that_is_nearer():
    decode = shape(64, 8192)
    assert result(decode, 2 * decode.bytes_moved / 3e12).share_of(CEILINGS) == pytest.approx(0.5)
    prefill = BenchShape("prefill", "prefill", ((8192, 8192),))
    assert result(prefill, 4 * prefill.operations / 6e14).share_of(CEILINGS) == pytest.approx(0.25)


def test_a_run_is_told_as_a_table_and_as_json():
    results = [result(of, 4e-6 + of.bytes_moved / 2e12, flashinfer=1.0) for of in (shape(1), shape(64))]
    lines = table(results, CEILINGS).splitlines()
    assert len(lines) == 3
    assert "fa3: ImportError" in lines[1]
    assert "flashinfer " in lines[1]
    run = json.loads(to_json(document({"card": "NVIDIA H100"}, CEILINGS, results)))
    assert run["machine"] == {"card": "NVIDIA H100"}
    assert run["ceilings"]["read"] == 3e12
    assert run["cost_models"]["bf16"]["launch"] == pytest.approx(4e-6)
    assert "e4m3" not in run["cost_models"], "there were none"
    assert [entry["shape"] for entry in run["results"]] == ["1 x 1024", "64 x 1024"]
    assert run["results"][0]["timings"]["flashinfer"]["median"] == 1.0


def test_a_run_is_drawn_with_every_shape_where_it_belongs():
    """The lower the share the lower the point; as many bytes as the smallest shape on the left, the largest right."""
    shapes = [shape(1), shape(8), shape(64), BenchShape("prefill <1>", "prefill", ((512, 512),))]
    results = [
        result(of, of.bytes_moved / 3e12 / share) for of, share in zip(shapes, (0.2, 0.9, 1.01, 0.5), strict=True)
    ]
    drawn = page(document({"card": "NVIDIA H100"}, CEILINGS, results))
    places = [(float(x), float(y)) for x, y in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert [x for x, _ in places[:3]] == sorted(x for x, _ in places[:3])
    assert min(x for x, _ in places) >= 56
    assert max(x for x, _ in places) <= 956
    assert [y for _, y in places] == pytest.approx(
        [24 + 360 * (1 - min(one.share_of(CEILINGS), 1)) for one in results], abs=0.1
    )
    assert "<title>1 x 1024: 20.0%, " in drawn
    assert "prefill &lt;1&gt;" in drawn
    assert "3 shapes, 20.0% to 101.0%" in drawn
    ET.fromstring(drawn[drawn.index("<svg") : drawn.index("</svg>") + 6])


def test_a_run_without_results_is_not_drawn():
    with pytest.raises(ValueError, match="results is empty"):
        page(document({"card": "none"}, CEILINGS, []))


def test_a_cost_model_is_of_decodes_over_one_kind_of_cache():
    results = [result(of, of.bytes_moved / 1e12) for of in (shape(1), shape(8), shape(64))]
    results += [result(of, of.bytes_moved / 4e12) for of in (shape(1, cache="e4m3"), shape(8, cache="e4m3"))]
    results.append(result(BenchShape("prefill", "prefill", ((64, 64),)), 1.0))
    assert cost_model(results, "bf16").bandwidth == pytest.approx(1e12)
    assert cost_model(results, "e4m3").bandwidth == pytest.approx(4e12)
    assert cost_model(results[:1], "bf16") is None


def test_a_file_s_name_is_the_card_and_the_day():
    assert file_name("NVIDIA H100 80GB HBM3", "2026-01-31") == "nvidia-h100-80gb-hbm3-2026-01-31.json"
