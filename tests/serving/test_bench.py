"""The cores of `octavo bench`: statistics, arrivals, prompts, answers, comparison."""

import itertools
import json

import pytest

from octavo_runtime.bench import stats
from octavo_runtime.bench.answer import Answer
from octavo_runtime.bench.compare import comparison, load_differences
from octavo_runtime.bench.load import Feed, Load, one_server_arrival, poisson_arrivals
from octavo_runtime.bench.prompts import Prompt, Synthetic, digest, make_prompts, parse_prompts, repeat
from octavo_runtime.bench.stamp import machine
from octavo_runtime.bench.stats import Record
from octavo_runtime.errors import InvalidArgument


def test_percentiles_are_those_of_numpy():
    import numpy as np

    values = sorted(np.random.default_rng(3).exponential(size=101).tolist())
    for percent in (0, 50, 90, 95, 99, 100):
        assert stats.percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    assert stats.percentile([7.0], 99) == 7.0


def test_a_record_becomes_the_four_latencies():
    records = [
        Record(arrival=1.0, piece_times=[1.5, 1.6, 1.9], end=2.0, input_tokens=10, output_tokens=5),
        Record(arrival=0.0, piece_times=[0.5], end=0.5, input_tokens=10, output_tokens=1),
    ]
    results = stats.summarize(records, cost_per_hour=None)
    assert results["ttft_s"]["max"] == pytest.approx(0.5)
    assert results["itl_s"]["mean"] == pytest.approx(0.2)
    assert results["tpot_s"]["p50"] == pytest.approx(0.4 / 4)  # five tokens in three pieces; one token has no gap
    assert results["e2e_s"]["max"] == pytest.approx(1.0)
    assert results["output_tokens_per_s"] == pytest.approx(6 / 2)
    assert results["total_tokens_per_s"] == pytest.approx(26 / 2)
    assert results["cost_per_million_output_tokens"] is None


def test_failed_requests_count_as_errors_and_in_nothing_else():
    records = [
        Record(arrival=0.0, piece_times=[1.0, 2.0], end=2.0, output_tokens=2),
        Record(arrival=0.0, piece_times=[0.1], end=0.2, output_tokens=1, error=stats.CUT),
        Record(arrival=0.0, end=4.0, error="http_503"),
    ]
    results = stats.summarize(records, None)
    assert (results["requests"], results["completed"], results["cut_streams"]) == (3, 1, 1)
    assert results["errors"] == {"cut": 1, "http_503": 1}
    assert results["output_tokens"] == 2
    assert results["ttft_s"]["p50"] == 1.0
    assert results["requests_per_s"] == pytest.approx(1 / 4)


def test_a_run_in_which_nothing_succeeded_has_no_latencies():
    results = stats.summarize([Record(arrival=0.0, end=1.0, error="connect")], 2.0)
    assert results["ttft_s"] is None
    assert results["cost_per_million_output_tokens"] is None


def test_the_price_of_a_million_tokens():
    """1,000 tokens a second are 3.6 million an hour."""
    assert stats.cost_per_million(3.6, 1000.0) == pytest.approx(1.0)


def test_poisson_arrivals_have_the_rate_and_the_spread_of_poisson():
    schedule = poisson_arrivals(rate=50.0, count=20_000, seed=1)
    gaps = [b - a for a, b in itertools.pairwise(schedule)]
    mean = sum(gaps) / len(gaps)
    assert schedule[0] == 0.0
    assert mean == pytest.approx(1 / 50, rel=0.03)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.05)


def test_arrivals_and_prompts_depend_on_the_seed_and_on_nothing_else():
    shape = Synthetic(20, 5, shared_prefix_len=4)
    assert poisson_arrivals(2.0, 9, seed=4) == poisson_arrivals(2.0, 9, seed=4) != poisson_arrivals(2.0, 9, seed=5)
    assert make_prompts(shape, 5, seed=4) == make_prompts(shape, 5, seed=4) != make_prompts(shape, 5, seed=5)
    assert make_prompts(shape, 9, seed=4)[:5] == make_prompts(shape, 5, seed=4)


def test_prompts_share_their_prefix_and_no_more():
    prompts = [prompt.text.split() for prompt in make_prompts(Synthetic(20, 5, shared_prefix_len=6), 50, seed=0)]
    assert {len(words) for words in prompts} == {26}
    assert len({tuple(words[:6]) for words in prompts}) == 1
    assert len({tuple(words[6:]) for words in prompts}) == 50


def test_a_tokenizer_makes_the_length_exact():
    class Characters:
        def encode(self, text, add_special_tokens=True):
            return list(text.encode()) + [0] * add_special_tokens

    prompts = make_prompts(Synthetic(33, 5), 20, seed=0, encoder=Characters())
    assert {len(prompt.text) for prompt in prompts} == {32}


def test_prompts_from_a_file():
    lines = [
        '{"prompt": "a", "max_tokens": 3, "other": 1}', "", '{"messages": [{"role": "user", "content": "b"}]}',
        '{"prompt": [1, 2]}',
    ]  # fmt: skip
    prompts = parse_prompts(lines, default_max_tokens=9)
    message = {"role": "user", "content": "b"}
    assert prompts == [Prompt(3, text="a"), Prompt(9, messages=(message,)), Prompt(9, token_ids=(1, 2))]
    assert [prompt.text for prompt in repeat(prompts, 4)] == ["a", None, None, "a"]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", "{}", '{"prompt": ""}', '{"prompt": [true]}', '{"messages": []}', '{"prompt": "a", "max_tokens": 0}'],
)
def test_a_bad_line_is_named(line):
    with pytest.raises(InvalidArgument, match="line 2"):
        parse_prompts(['{"prompt": "a"}', line], 9)


def test_a_file_without_prompts_is_refused():
    with pytest.raises(InvalidArgument, match="none"):
        parse_prompts(["", " "], 9)


def test_the_digest_names_the_prompts():
    one, other = ([Prompt(9, text=text)] for text in "ab")
    assert digest(one) == digest(list(one)) != digest(other)


def test_an_open_loop_hands_out_what_is_due_however_much_is_under_way():
    feed = Feed(Load(rate=10.0), count=4, seed=2)
    schedule = poisson_arrivals(10.0, 4, seed=2)
    assert feed.take(schedule[1], in_flight=0) == [(0, schedule[0]), (1, schedule[1])]
    assert feed.wait(schedule[1]) == pytest.approx(schedule[2] - schedule[1])
    assert feed.take(100.0, in_flight=2) == [(2, schedule[2]), (3, schedule[3])]
    assert feed.exhausted


def test_a_closed_loop_hands_out_the_next_when_one_is_answered():
    feed = Feed(Load(concurrency=2), count=4, seed=0)
    assert feed.take(0.0, in_flight=0) == [(0, 0.0), (1, 0.0)]
    assert feed.take(1.0, in_flight=2) == []
    assert feed.take(3.0, in_flight=1) == [(2, 3.0)]


def test_without_a_loop_all_come_at_once():
    assert Feed(Load(), count=3, seed=0).take(0.0, in_flight=0) == [(0, 0.0), (1, 0.0), (2, 0.0)]


def test_arrivals_at_a_server_that_answers_one_at_a_time():
    assert one_server_arrival(Load(), 5, None, [1.0] * 5) == 0.0
    assert one_server_arrival(Load(concurrency=2), 3, None, [1.0, 2.0, 3.0]) == 2.0
    assert one_server_arrival(Load(rate=1.0), 1, [0.0, 0.7], [9.0]) == 0.7


def fed(*parts, status=200):
    answer = Answer()
    answer.begin(status)
    for moment, part in enumerate(parts):
        answer.feed(part, float(moment))
    return answer


def event(**fields):
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def test_a_complete_answer_with_usage():
    answer = fed(
        event(choices=[{"delta": {"role": "assistant", "content": ""}}]),  # no token yet
        event(choices=[{"delta": {"content": "a"}}]),
        b": keep-alive\n\n",
        event(choices=[{"text": "b"}]),
        event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 5}) + b"data: [DONE]\r\n\r\n",
    )
    assert answer.verdict() is None
    assert answer.piece_times == [1.0, 3.0]
    assert answer.tokens() == (7, 5)


def test_without_usage_a_piece_counts_as_a_token():
    assert fed(event(choices=[{"text": "a"}]), event(choices=[{"text": "b"}])).tokens() == (0, 2)


def test_an_event_may_come_in_any_parts():
    whole = event(choices=[{"text": "a"}]) + b"data: [DONE]\n\n"
    answer = fed(*(whole[i : i + 1] for i in range(len(whole))))
    assert answer.verdict() is None
    assert len(answer.piece_times) == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(), "disconnected"),
        (fed(event(choices=[{"text": "a"}])), "cut"),
        (fed(event(error={"code": "engine_died", "message": "m"})), "stream/engine_died"),
        (fed(b"data: {\n\n"), "stream/not_understood"),
        (fed(b'{"error": {"code": "engine_ov', b'erloaded"}}', status=503), "http_503/engine_overloaded"),
        (fed(b"Bad Gateway", status=502), "http_502"),
    ],
)
def test_errors_have_kinds(answer, kind):
    assert answer.verdict() == kind


def result(tokens_per_s, **settings):
    record = Record(arrival=0.0, piece_times=[0.5, 1.0], end=1.0, input_tokens=1, output_tokens=tokens_per_s)
    common = {"target": "m", "rate": 4.0, "concurrency": None, "num_prompts": 1, "prompts_digest": "d"}
    return {
        "bench": "offline",
        "seed": 0,
        "time": "2026-01-01T00:00:00+00:00",
        "versions": {"octavo": "1", "torch": "2"},
        "machine": {"cpu": "c", "cores": 2, "memory": 2**30, "gpus": []},
        "settings": common | settings,
        "results": stats.summarize([record], cost_per_hour=1.0),
    }


def test_the_ratio_is_b_over_a():
    text = comparison(result(100), result(250), markdown=False)
    rows = {line.split("  ")[0]: line.split() for line in text.splitlines() if line}
    assert rows["output tokens/s"][-2:] == ["2.5", "higher"]
    assert rows["$ per million output tokens"][-2:] == ["0.4", "lower"]
    assert "not the same load" not in text


def test_markdown_has_a_row_for_every_row_of_the_text():
    a, b = result(100), result(250)
    markdown = comparison(a, b, markdown=True).partition("\n\n")[0].splitlines()
    text = comparison(a, b, markdown=False).partition("\n\n")[0].splitlines()
    assert len(markdown) == len(text) + 1
    assert {line.count("|") for line in markdown} == {6}


def test_another_load_is_said_out_loud():
    assert load_differences(result(1), result(1, rate=8.0)) == ["rate is 4.0 in A and 8.0 in B"]
    assert "not the same load: rate" in comparison(result(1), result(1, rate=8.0), markdown=False)


def test_a_run_that_is_not_what_it_seems_is_said_out_loud():
    late, failed = result(1), result(1)
    late["results"]["late_arrivals"] = 1
    failed["results"]["completed"] = 0
    text = comparison(late, failed, markdown=False)
    assert "A: 1 requests were sent late" in text
    assert "B: 1 of 1 requests failed" in text


def test_a_figure_that_one_side_lacks_has_no_ratio():
    a, b = result(100), result(100)
    b["results"]["ttft_s"] = None
    (row,) = [line for line in comparison(a, b, markdown=False).splitlines() if line.startswith("TTFT p95")]
    assert row.split()[-3:] == ["-", "-", "lower"]


def test_the_machine_is_read_from_the_system(tmp_path):
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast CPU\n")
    (tmp_path / "proc/meminfo").write_text("MemTotal:       1024 kB\n")
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information").write_text("Model: \t\t NVIDIA H100\n")
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.1.2  x\n")
    found = machine(tmp_path)
    assert (found["cpu"], found["memory"], found["gpus"]) == ("Fast CPU", 1 << 20, ["NVIDIA H100"])
    assert found["gpu_driver"] == "570.1.2"
