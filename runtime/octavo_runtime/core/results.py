"""What a step yielded becomes part of the sequences, and news of them."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

from octavo_runtime.core.layout import scored_tokens
from octavo_runtime.core.outputs import Output, StepOutputs
from octavo_runtime.core.sequence import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo_runtime.core.batch import BatchPlan, ScheduledChunk, StepResult, TokenLogprobs
    from octavo_runtime.core.ledger import Ledger
    from octavo_runtime.core.sequence import Sequence


class Results:
    """Takes steps' results, and counts them."""

    def __init__(self, ledger: Ledger, finish: Callable[[Sequence], None]) -> None:
        """`finish` is called with each sequence that has its last token."""
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.draft_tokens = 0
        self.accepted_tokens = 0
        self._ledger = ledger
        self._finish = finish

    def take(self, plan: BatchPlan, result: StepResult) -> StepOutputs:
        """`result.tokens` are those of the plan's decodes and then of its chunks, in their order.

        A sequence that left since the step was launched gets nothing.
        """
        outputs = self._take_decodes(*_still_there(plan.decodes, result.tokens))
        taken, scored = len(plan.decodes), 0
        for chunk in plan.chunks:
            until, scored_until = taken + chunk.num_samples, scored + len(scored_tokens(chunk))
            logprobs = result.logprobs[taken:until] if result.logprobs else []
            scores = result.scores[scored:scored_until] if result.scores else []
            if chunk.sequence.block_table:  # else gone while the step was under way
                output = self._take_chunk(chunk, result.tokens[taken:until], logprobs, scores)
                if output is not None:
                    outputs.others.append(output)
            taken, scored = until, scored_until
        assert taken == len(result.tokens), f"{len(result.tokens)} tokens, {taken} were asked for"
        return outputs

    def _take_decodes(self, decodes: list[Sequence], tokens: list[int]) -> StepOutputs:
        finished = []
        for sequence, token in zip(decodes, tokens, strict=False):  # after them come the chunks' tokens
            sequence.num_computed += 1
            known = sequence.token_ids
            known.append(token)
            if token in sequence.stop_token_ids or len(known) >= sequence.max_num_tokens:
                finished.append(sequence)
        self.generation_tokens += len(decodes)
        if not finished:
            return StepOutputs([sequence.seq_id for sequence in decodes], tokens[: len(decodes)], [])
        last = [self._finish_decode(sequence) for sequence in finished]
        going_on = [sequence for sequence in decodes if sequence.block_table]
        return StepOutputs(
            [sequence.seq_id for sequence in going_on], [sequence.token_ids[-1] for sequence in going_on], last
        )

    def _finish_decode(self, sequence: Sequence) -> Output:
        token = sequence.token_ids[-1]
        reason = FinishReason.STOP if token in sequence.stop_token_ids else FinishReason.LENGTH
        self._finish(sequence)
        return Output(sequence.seq_id, [token], reason)

    def _take_chunk(
        self,
        chunk: ScheduledChunk,
        tokens: list[int],
        logprobs: list[TokenLogprobs | None],
        scores: list[TokenLogprobs],
    ) -> Output | None:
        sequence = chunk.sequence
        sequence.num_scored += len(scores)
        if not chunk.samples:
            sequence.num_computed = chunk.start + chunk.length
            self._ledger.publish(sequence)
            return Output(sequence.seq_id, [], None, None, scores) if scores else None
        if len(sequence.token_ids) == sequence.num_prompt_tokens:
            self.prompt_tokens += sequence.num_prompt_tokens
        taken, reason = self._accept(chunk, tokens)
        if reason is not None:
            self._finish(sequence)
        else:
            self._ledger.publish(sequence)
            sequence.expect_decode()
        known = [entry for entry in logprobs[: len(taken)] if entry is not None]
        return Output(sequence.seq_id, taken, reason, known or None, scores or None)

    def _accept(self, chunk: ScheduledChunk, tokens: list[int]) -> tuple[list[int], FinishReason | None]:
        """Take sampled tokens up to the first that its draft did not foresee, or that ends the sequence.

        Rejected drafts have left keys and values behind; the slots are written again before anybody reads them.
        """
        sequence = chunk.sequence
        taken: list[int] = []
        reason = None
        for token, draft in zip_longest(tokens, chunk.drafts):
            reason = sequence.append(token)
            taken.append(token)
            if reason is not None or token != draft:
                break
        sequence.num_computed = len(sequence.token_ids) - 1
        sequence.num_launched = max(sequence.num_launched, sequence.num_computed)  # drafts that were right
        self.generation_tokens += len(taken)
        self.draft_tokens += len(chunk.drafts)
        self.accepted_tokens += len(taken) - 1
        return taken, reason


def _still_there(decodes: list[Sequence], tokens: list[int]) -> tuple[list[Sequence], list[int]]:
    """The decodes that have not left since the step was launched, and the tokens for them."""
    if all([sequence.block_table for sequence in decodes]):  # noqa: C419  a list is faster, and this is done for each token
        return decodes, tokens
    there = [index for index, sequence in enumerate(decodes) if sequence.block_table]
    return [decodes[index] for index in there], [tokens[index] for index in there]
