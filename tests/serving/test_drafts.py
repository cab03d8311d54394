"""Tokens guessed ahead: never a wrong one, and fewer steps where a text repeats itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_runtime.core.batch import SamplingParams, StepResult
from octavo_runtime.core.drafts import NgramIndex
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.sim_runner import SimRunner


class Parrot(SimRunner):
    """Says the numbers from 0 to 6 over and over, so that its text can be guessed; a temperature makes it stumble."""

    def execute(self, batch):
        super().execute(batch)
        tokens = []
        for row, sampling in zip(batch.sample_rows, batch.sampling, strict=True):
            stumbles = sampling.temperature > 0 and (sampling.seed + sampling.position) % 5 == 0
            token = (batch.token_ids[row] + 1 + stumbles) % 7
            while token in sampling.forbidden:
                token = (token + 1) % 7
            tokens.append(token)
        return StepResult(tokens)


def run(speculative_ngram, requests, num_blocks=256, budget=64):
    engine = Engine(
        Parrot(num_blocks, 4, 7), max_num_seqs=16, max_num_batched_tokens=budget, speculative_ngram=speculative_ngram
    )
    for request_id, (prompt, params) in enumerate(requests):
        engine.add(Add(request_id, list(prompt), params))
    tokens, reasons, steps = {}, {}, 0
    while engine.has_work:
        steps += 1
        for output in engine.step(float(steps)).each_output():
            tokens.setdefault(output.seq_id, []).extend(output.tokens)
            reasons[output.seq_id] = output.finish_reason
    engine._scheduler.check_integrity()
    return (tokens, reasons), steps, engine.stats()


def test_the_latest_occurrence_of_the_longest_match_is_continued():
    index = NgramIndex()
    assert index.propose([1, 2, 3, 9, 2, 3, 5, 1, 2, 3], 2) == [9, 2], "three tokens match, not just 2 3"
    assert NgramIndex().propose([2, 3, 9, 2, 3, 5, 8, 2, 3], 2) == [5, 8]
    assert NgramIndex().propose([1, 2, 3, 4], 2) == []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 39))
def test_an_index_that_follows_a_sequence_says_what_a_new_one_says(tokens, known):
    following = NgramIndex()
    following.propose(tokens[: min(known, len(tokens))], 3)
    assert following.propose(tokens, 3) == NgramIndex().propose(tokens, 3)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 5))
def test_what_is_proposed_did_follow_the_last_two_tokens_once(tokens, count):
    proposed = NgramIndex().propose(tokens, count)
    assert len(proposed) <= count
    text = "".join(map(str, tokens))
    assert not proposed or "".join(map(str, tokens[-2:] + proposed)) in text + "".join(map(str, proposed))


@pytest.mark.parametrize("ngram", [1, 4, 16])
@pytest.mark.parametrize("num_blocks", [256, 24])
def test_the_tokens_are_those_without_drafts_whatever_the_sampling(ngram, num_blocks):
    requests = [
        ([0, 1, 2], SamplingParams(40, temperature=0.0)),
        ([3], SamplingParams(33, temperature=1.0, seed=1)),
        ([5, 6], SamplingParams(50, temperature=0.0, stop_token_ids=frozenset({4}), min_tokens=12)),
        ([5, 6, 0, 1], SamplingParams(21, temperature=1.0, seed=2, stop_token_ids=frozenset({6}), min_tokens=9)),
        ([1], SamplingParams(1, temperature=0.0)),
        ([1], SamplingParams(2, temperature=0.0)),
    ]
    plain, plain_steps, _ = run(0, requests, num_blocks)
    drafted, steps, stats = run(ngram, requests, num_blocks)
    assert drafted == plain
    assert steps < plain_steps
    assert 0 < stats.spec_accepted_tokens <= stats.spec_draft_tokens


def test_a_text_that_repeats_itself_takes_a_fraction_of_the_steps():
    requests = [([0, 1, 2], SamplingParams(80, temperature=0.0))]
    (_, plain_steps, _), (_, steps, stats) = run(0, requests), run(8, requests)
    assert plain_steps == 80
    assert steps < 20
    assert stats.spec_accepted_tokens == 80 - steps


def test_without_the_flag_nothing_is_guessed():
    assert run(0, [([0, 1, 2], SamplingParams(80))])[2].spec_draft_tokens == 0


def test_requests_that_shape_their_logits_are_not_guessed():
    requests = [([0, 1, 2], SamplingParams(40, temperature=0.0, presence_penalty=0.5))]
    assert run(8, requests)[2].spec_draft_tokens == 0


def test_drafts_stay_within_the_budget_and_leave_a_token_to_everybody():
    requests = [([i, i + 1], SamplingParams(40, temperature=0.0)) for i in range(5)]
    tight, _, stats = run(8, requests, budget=16)
    assert tight == run(0, requests, budget=16)[0]
    assert stats.spec_draft_tokens > 0
