"""Which tokens are computed in the next step.

There is no prefill phase and no decode phase: every sequence has `num_computed` tokens and catches up with the tokens
that it has, within one token budget per step. A decode, a chunk of a prompt and the recomputation of a preempted
sequence are the same case (the idea is vLLM V1's; see vllm/v1/core/sched/scheduler.py there).

    waiting ──admit: all its known tokens fit──> running ──stop, length──> gone
       ^                                           │
       └────── preempt: its blocks are freed ──────┘      abort, deadline: gone from either

Order of a step: running sequences first, oldest first, so that a decode never waits for a prompt; then, if nobody had
to be preempted, new ones (`core/waiting.py` says who is next, `core/admission.py` whether it fits). When blocks run
out, the running sequence that has computed least gives up its own and returns to the head of the queue: least is lost
(vllm-project/vllm#54644). The sequence that has computed most is never a victim unless it is alone, and alone it fits,
so there is always progress.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.core import ahead
from octavo_runtime.core.admission import Admission
from octavo_runtime.core.batch import BatchPlan, ScheduledChunk
from octavo_runtime.core.deadlines import Deadlines
from octavo_runtime.core.drafts import NgramIndex
from octavo_runtime.core.ledger import Ledger
from octavo_runtime.core.outputs import SchedulerStats
from octavo_runtime.core.results import Results
from octavo_runtime.core.waiting import WaitingQueue

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo_runtime.core.batch import StepResult
    from octavo_runtime.core.blocks import BlockPool
    from octavo_runtime.core.outputs import StepOutputs
    from octavo_runtime.core.sequence import Sequence


class Scheduler:
    """Owns the waiting and running sequences and their blocks. Ints only; the caller runs the model."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        watermark: float = 0.01,
        project_peak: bool = True,
        prefix_caching: bool = True,
        speculative_ngram: int = 0,
        aging: float = 10.0,
    ) -> None:
        """`watermark` is the share of blocks that admission leaves free for those already running; `project_peak`:
        admission also looks ahead; `speculative_ngram`: tokens that are guessed ahead of a decode, at most; `aging`:
        seconds of waiting that are worth one level of priority.
        """
        assert 0 < max_num_seqs <= max_num_batched_tokens, "each running sequence needs a token of the budget"
        self._max_num_seqs = max_num_seqs
        self._token_budget = max_num_batched_tokens
        self._num_drafts = speculative_ngram
        self._ledger = Ledger(pool, prefix_caching=prefix_caching)
        self._admission = Admission(self._ledger, int(pool.num_blocks * watermark), project_peak=project_peak)
        self._waiting = WaitingQueue(aging)
        self._running: list[Sequence] = []
        self._sequences: dict[int, Sequence] = {}
        self._deadlines = Deadlines(self._ledger, max_num_batched_tokens)
        self._results = Results(self._ledger, self._finish)
        self._waiting_tokens = 0
        self._preemptions = 0
        self._under_way = 0  # steps that were launched and not taken

    @property
    def sequences(self) -> Mapping[int, Sequence]:
        return self._sequences

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence. The border has refused those that could never fit."""
        assert sequence.seq_id not in self._sequences, f"sequence {sequence.seq_id} exists"
        assert sequence.max_num_tokens <= self._ledger.pool.num_tokens, "longer than the whole KV cache"
        assert sequence.num_prompt_tokens > 0, "an empty prompt computes nothing"
        self._sequences[sequence.seq_id] = sequence
        self._ledger.extend_keys(sequence)
        if self._num_drafts and not sequence.shaped:
            sequence.ngrams = NgramIndex()
        self._deadlines.add(sequence)
        self._waiting.add(sequence)
        self._waiting_tokens += sequence.num_tokens

    def abort(self, seq_id: int) -> bool:
        """Drop a sequence and its blocks; False when it is gone already."""
        sequence = self._sequences.get(seq_id)
        if sequence is None:
            return False
        if sequence.block_table:
            self._running.remove(sequence)
        else:
            self._waiting.remove(sequence)
            self._waiting_tokens -= sequence.num_tokens
        self._forget(sequence)
        return True

    def fail(self, seq_id: int) -> None:
        """As `abort`, for a sequence whose computation raised: what it has computed is not for others."""
        if (sequence := self._sequences.get(seq_id)) is not None:
            self._ledger.distrust(sequence)
            self.abort(seq_id)

    def schedule(self, now: float) -> BatchPlan:
        """Plan the next step, and hand out the blocks that it needs. `now` is in seconds, on any clock that only grows.

        An empty plan means that there is no work, that none is left after those whose deadlines have passed went, or
        that what is under way must be taken first.
        """
        late = self._deadlines.late(now)
        for sequence in late:
            self.abort(sequence.seq_id)
        plan = BatchPlan([], [], expired=[sequence.seq_id for sequence in late])
        self._schedule_running(plan)
        if self._waiting and not plan.preempted and not plan.postponed:
            self._admit(plan, self._budget_left(plan))
        self._deadlines.step_planned(now)
        return plan

    def launched(self, plan: BatchPlan) -> None:
        """The step of `plan` is under way: what is planned before its results are taken comes on top of it."""
        ahead.mark_launched(plan)
        self._under_way += 1

    def recall(self) -> None:
        """Nothing is under way any more; what was has failed, and is planned or computed again."""
        ahead.recall(self._running)
        self._under_way = 0

    def update(self, plan: BatchPlan, result: StepResult) -> StepOutputs:
        """Take what the step yielded: tokens for each decode and each chunk of `plan` that samples, in its order.

        Steps that were launched are taken in their order; one that was not is launched and taken in one.
        """
        if self._under_way:
            self._under_way -= 1
        else:
            ahead.mark_launched(plan)
        outputs = self._results.take(plan, result)
        self._deadlines.step_taken(plan.num_tokens)
        if any(output.finish_reason for output in outputs.others):
            self._running = [sequence for sequence in self._running if sequence.block_table]
        return outputs

    def stats(self) -> SchedulerStats:
        pool = self._ledger.pool
        return SchedulerStats(
            running=len(self._running),
            waiting=len(self._waiting),
            waiting_tokens=self._waiting_tokens,
            kv_tokens_used=pool.num_used * pool.block_size,
            kv_tokens_capacity=pool.num_tokens,
            preemptions=self._preemptions,
            prompt_tokens=self._results.prompt_tokens,
            generation_tokens=self._results.generation_tokens,
            prefix_queries=self._admission.queried_tokens,
            prefix_hits=self._admission.hit_tokens,
            spec_draft_tokens=self._results.draft_tokens,
            spec_accepted_tokens=self._results.accepted_tokens,
        )

    def check_integrity(self) -> None:
        """Raise `AssertionError` when the books do not agree with each other."""
        self._ledger.check_integrity(self._sequences.values())
        self._waiting.check_integrity(len(self._sequences))
        self._deadlines.check_integrity(self._sequences)
        queued = [*self._waiting, *self._running]
        assert len(queued) == len(self._sequences), "a sequence is queued twice or not at all"
        assert all(self._sequences.get(sequence.seq_id) is sequence for sequence in queued), "a stranger is queued"
        assert len(self._running) <= self._max_num_seqs, "more running than allowed"
        assert self._waiting_tokens == sum(sequence.num_tokens for sequence in self._waiting), "waiting tokens drifted"
        for sequence in self._waiting:
            assert not sequence.block_table, f"waiting sequence {sequence.seq_id} holds blocks"
            assert sequence.num_launched == 0, f"waiting sequence {sequence.seq_id} has computed tokens"
        for sequence in self._running:
            sequence.check_integrity(self._under_way)

    # --- running sequences ---

    def _schedule_running(self, plan: BatchPlan) -> None:
        """Give each running sequence its tokens, preempting where blocks run out."""
        running = self._going_on()
        full = [sequence for sequence in running if sequence.decodes and sequence.num_launched >= sequence.capacity]
        for sequence in full:
            if sequence.block_table:  # else preempted a moment ago, for the sake of an older one
                self._make_room(sequence, plan)
        if self._num_drafts:
            self._schedule_drafts(plan)
        planned = {chunk.sequence.seq_id for chunk in plan.chunks}.union(plan.postponed)
        plan.decodes.extend([s for s in running if s.decodes and s.seq_id not in planned])
        if len(plan.decodes) + len(planned) < len(running):
            self._schedule_others(plan, planned)

    def _going_on(self) -> list[Sequence]:
        """The running sequences, without those that surely end with what is under way."""
        if not self._under_way:
            return self._running
        return [sequence for sequence in self._running if sequence.num_launched + 1 < sequence.max_num_tokens]

    def _budget_left(self, plan: BatchPlan) -> int:
        """Tokens that nobody has been given. Each running sequence has one for sure: no decode waits for a prompt."""
        return self._token_budget - len(self._running) - sum(chunk.length - 1 for chunk in plan.chunks)

    def _schedule_drafts(self, plan: BatchPlan) -> None:
        """Chunks for the decodes whose next tokens can be guessed, as far as budget and free blocks allow."""
        budget = self._budget_left(plan)
        for sequence in self._running:
            if not sequence.decodes or sequence.ngrams is None:
                continue
            room = min(self._num_drafts, budget, sequence.max_num_tokens - sequence.num_tokens - 1)
            drafts = sequence.ngrams.propose(sequence.token_ids, room) if room > 0 else []
            if drafts and self._ledger.extend(sequence, sequence.num_tokens + len(drafts)):
                length = 1 + len(drafts)
                plan.chunks.append(ScheduledChunk(sequence, sequence.num_launched, length, samples=True, drafts=drafts))
                budget -= len(drafts)

    def _schedule_others(self, plan: BatchPlan, planned: set[int]) -> None:
        """Chunks for those that are no plain decodes."""
        budget = self._budget_left(plan)
        for sequence in tuple(self._going_on()):
            if sequence.decodes or sequence.seq_id in planned or not sequence.block_table:
                continue
            wanted = sequence.num_tokens - sequence.num_launched
            length = min(wanted, budget + 1)
            if sequence.num_launched + length > sequence.capacity and not self._make_room(sequence, plan):
                continue
            plan.chunks.append(ScheduledChunk(sequence, sequence.num_launched, length, length == wanted))
            budget -= length - 1

    def _make_room(self, sequence: Sequence, plan: BatchPlan) -> bool:
        """Extend `sequence`'s blocks to all its tokens; False when it had to be preempted itself, or must wait until
        nothing is under way.
        """
        while not self._ledger.extend(sequence, sequence.num_tokens):
            if self._under_way:
                plan.postponed.append(sequence.seq_id)
                return False
            victim = min(reversed(self._running), key=_num_computed)  # among equals, the newest
            self._preempt(victim, plan)
            if victim is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence, plan: BatchPlan) -> None:
        self._running.remove(sequence)
        plan.decodes[:] = [other for other in plan.decodes if other is not sequence]
        plan.chunks[:] = [chunk for chunk in plan.chunks if chunk.sequence is not sequence]
        plan.preempted.append(sequence.seq_id)
        self._ledger.release(sequence)
        self._preemptions += 1
        self._waiting.put_back(sequence)
        self._waiting_tokens += sequence.num_tokens

    # --- waiting sequences ---

    def _admit(self, plan: BatchPlan, budget: int) -> None:
        """Move sequences from waiting to running while they fit.

        A sequence gets the blocks of all its known tokens at once, although its chunks take several steps: otherwise
        two long prompts could each take half of the pool and neither would end.
        """
        self._settle_accounts()
        self._admission.begin(self._running)
        passed_over = []
        while budget > 0 and len(self._running) < self._max_num_seqs:
            sequence = self._waiting.take()
            if sequence is None:
                break
            if self._admission.awaits_another(sequence):
                passed_over.append(sequence)
                continue
            if not self._admission.admit(sequence):
                passed_over.append(sequence)
                break  # those behind it wait too, or it would never find enough room
            budget -= self._start(sequence, plan, budget)
        for sequence in reversed(passed_over):
            self._waiting.put_back(sequence)

    def _start(self, sequence: Sequence, plan: BatchPlan, budget: int) -> int:
        """Plan the first chunk of an admitted sequence; return its tokens."""
        self._waiting_tokens -= sequence.num_tokens
        self._running.append(sequence)
        if not sequence.admitted:
            sequence.admitted = True
            plan.admitted.append(sequence)
            self._waiting.charge(sequence, sequence.num_prompt_tokens - sequence.num_computed)
            sequence.num_charged = sequence.num_prompt_tokens
        wanted = sequence.num_tokens - sequence.num_launched
        length = min(wanted, budget)
        plan.chunks.append(ScheduledChunk(sequence, sequence.num_launched, length, length == wanted))
        return length

    def _settle_accounts(self) -> None:
        """Charge tenants for tokens generated since the last time, when it makes a difference."""
        if self._waiting.contended:
            for sequence in self._running:
                self._charge(sequence)

    def _charge(self, sequence: Sequence) -> None:
        known = len(sequence.token_ids)
        self._waiting.charge(sequence, known - sequence.num_charged)
        sequence.num_charged = known

    # --- the end of a sequence ---

    def _finish(self, sequence: Sequence) -> None:
        self._admission.lengths.observe(len(sequence.token_ids) - sequence.num_prompt_tokens)
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        """A sequence is gone: its blocks, its deadline, its tenant's claim."""
        if sequence.admitted:
            self._charge(sequence)
        self._waiting.leave(sequence)
        self._ledger.release(sequence)
        self._deadlines.remove(sequence)
        del self._sequences[sequence.seq_id]
        if not self._sequences:
            self._deadlines.paused()


def _num_computed(sequence: Sequence) -> int:
    return sequence.num_computed
