"""Which tokens are computed in the next step.

There is no prefill phase and no decode phase: every sequence has `num_computed` tokens and catches up with the tokens
that it has, within one token budget per step. A decode, a chunk of a prompt and the recomputation of a preempted
sequence are the same case (the idea is vLLM V1's; see vllm/v1/core/sched/scheduler.py there).

    waiting ──admit: all its known tokens fit──> running ──stop, length──> gone
       ^                                           │
       └────── preempt: its blocks are freed ──────┘          abort: gone from either

Order of a step: running sequences first, oldest first, so that a decode never waits for a prompt; then, if nobody had
to be preempted, new ones in order of arrival. When blocks run out, the running sequence that has computed least gives
up its own and returns to the head of the queue: least is lost (vllm-project/vllm#54644). The sequence that has computed
most is never a victim unless it is alone, and alone it fits, so there is always progress.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from octavo_runtime.core.batch import BatchPlan, ScheduledChunk, StepResult, TokenLogprobs
from octavo_runtime.core.sequence import FinishReason, Sequence  # noqa: TC001  msgspec reads `Output` at run time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo_runtime.core.blocks import BlockPool


class Output(NamedTuple):
    """News of a sequence, which is gone from the scheduler when `finish_reason` is set."""

    seq_id: int
    tokens: list[int]
    finish_reason: FinishReason | None
    logprobs: list[TokenLogprobs] | None = None  # one per token, where asked for
    prompt_logprobs: list[TokenLogprobs] | None = None  # of the next tokens of the prompt, where asked for


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot, with totals since the start."""

    running: int
    waiting: int
    waiting_tokens: int  # tokens that the waiting sequences have yet to compute
    kv_tokens_used: int  # in blocks that live sequences hold
    kv_tokens_capacity: int
    preemptions: int
    prompt_tokens: int  # of prompts computed; a recomputation does not count again
    generation_tokens: int


class Scheduler:
    """Owns the waiting and running sequences and their blocks. Ints only; the caller runs the model."""

    def __init__(
        self, pool: BlockPool, *, max_num_seqs: int, max_num_batched_tokens: int, watermark: float = 0.01
    ) -> None:
        """`watermark` is the share of blocks that admission leaves free for those already running."""
        assert 0 < max_num_seqs <= max_num_batched_tokens, "each running sequence needs a token of the budget"
        self._pool = pool
        self._max_num_seqs = max_num_seqs
        self._token_budget = max_num_batched_tokens
        self._watermark_blocks = int(pool.num_blocks * watermark)
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._sequences: dict[int, Sequence] = {}
        self._waiting_tokens = 0
        self._preemptions = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0

    @property
    def sequences(self) -> Mapping[int, Sequence]:
        return self._sequences

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence. The border has refused those that could never fit."""
        assert sequence.seq_id not in self._sequences, f"sequence {sequence.seq_id} exists"
        assert sequence.max_num_tokens <= self._pool.num_tokens, "longer than the whole KV cache"
        assert sequence.num_prompt_tokens > 0, "an empty prompt computes nothing"
        self._sequences[sequence.seq_id] = sequence
        self._waiting.append(sequence)
        self._waiting_tokens += sequence.num_tokens

    def abort(self, seq_id: int) -> bool:
        """Drop a sequence and its blocks; False when it is gone already."""
        sequence = self._sequences.pop(seq_id, None)
        if sequence is None:
            return False
        if sequence.block_table:
            self._running.remove(sequence)
            self._release(sequence)
        else:
            self._waiting.remove(sequence)
            self._waiting_tokens -= sequence.num_tokens
        return True

    def schedule(self) -> BatchPlan:
        """Plan the next step, and hand out the blocks that it needs. An empty plan means that there is no work."""
        chunks: dict[int, ScheduledChunk] = {}
        preempted: list[Sequence] = []
        budget = self._schedule_running(chunks, preempted)
        admitted = [] if preempted else self._admit(chunks, budget)
        return BatchPlan(
            chunks=tuple(chunks.values()),
            preempted=tuple(sequence.seq_id for sequence in preempted),
            admitted=tuple(admitted),
            num_tokens=sum(chunk.length for chunk in chunks.values()),
        )

    def update(self, plan: BatchPlan, result: StepResult) -> list[Output]:
        """Take the tokens that the step yielded, one for each chunk of `plan` that samples, in its order."""
        tokens = iter(result.tokens)
        outputs = []
        for chunk in plan.chunks:
            sequence = self._sequences[chunk.seq_id]
            sequence.num_computed = chunk.start + chunk.length
            if chunk.samples:
                outputs.append(self._take(sequence, next(tokens)))
        assert next(tokens, None) is None, "more tokens than chunks that sample"
        if any(output.finish_reason for output in outputs):
            self._running = [sequence for sequence in self._running if sequence.block_table]
        return outputs

    def stats(self) -> SchedulerStats:
        return SchedulerStats(
            running=len(self._running),
            waiting=len(self._waiting),
            waiting_tokens=self._waiting_tokens,
            kv_tokens_used=self._pool.num_used * self._pool.block_size,
            kv_tokens_capacity=self._pool.num_tokens,
            preemptions=self._preemptions,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
        )

    def check_integrity(self) -> None:
        """Raise `AssertionError` when the books do not agree with each other."""
        self._pool.check_integrity(sequence.block_table for sequence in self._sequences.values())
        queued = [*self._waiting, *self._running]
        assert len(queued) == len(self._sequences), "a sequence is queued twice or not at all"
        assert all(self._sequences.get(sequence.seq_id) is sequence for sequence in queued), "a stranger is queued"
        assert len(self._running) <= self._max_num_seqs, "more running than allowed"
        assert self._waiting_tokens == sum(sequence.num_tokens for sequence in self._waiting), "waiting tokens drifted"
        for sequence in self._waiting:
            assert not sequence.block_table, f"waiting sequence {sequence.seq_id} holds blocks"
            assert sequence.num_computed == 0, f"waiting sequence {sequence.seq_id} has computed tokens"
        for sequence in self._running:
            covered = len(sequence.block_table) * self._pool.block_size
            assert sequence.num_computed <= covered, f"sequence {sequence.seq_id} outgrew its blocks"
            assert sequence.num_computed < sequence.num_tokens, f"sequence {sequence.seq_id} has nothing to compute"

    def _schedule_running(self, chunks: dict[int, ScheduledChunk], preempted: list[Sequence]) -> int:
        """Give each running sequence its chunk, preempting where blocks run out; return the budget that is left."""
        budget = self._token_budget
        block_size = self._pool.block_size
        for sequence in tuple(self._running):
            if budget == 0:
                break
            table = sequence.block_table
            if not table:
                continue  # preempted a moment ago, for the sake of an older one
            start = sequence.num_computed
            wanted = len(sequence.token_ids) - start
            length = min(wanted, budget)
            if start + length > len(table) * block_size:
                budget += self._make_room(sequence, start + length, chunks, preempted)
                if not sequence.block_table:
                    continue
            chunks[sequence.seq_id] = ScheduledChunk(sequence.seq_id, start, length, length == wanted)
            budget -= length
        return budget

    def _make_room(
        self, sequence: Sequence, num_tokens: int, chunks: dict[int, ScheduledChunk], preempted: list[Sequence]
    ) -> int:
        """Extend `sequence`'s blocks to `num_tokens`, or preempt it; return the budget that other victims gave back."""
        returned = 0
        missing = self._pool.blocks_for(num_tokens) - len(sequence.block_table)
        while (blocks := self._pool.allocate(missing)) is None:
            victim = min(reversed(self._running), key=_num_computed)  # among equals, the newest
            self._preempt(victim)
            preempted.append(victim)
            chunk = chunks.pop(victim.seq_id, None)
            returned += chunk.length if chunk else 0
            if victim is sequence:
                return returned
        sequence.block_table.extend(blocks)
        return returned

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        self._release(sequence)
        sequence.num_computed = 0
        self._preemptions += 1
        self._waiting.appendleft(sequence)
        self._waiting_tokens += sequence.num_tokens

    def _release(self, sequence: Sequence) -> None:
        self._pool.free(reversed(sequence.block_table))
        sequence.block_table.clear()

    def _admit(self, chunks: dict[int, ScheduledChunk], budget: int) -> list[int]:
        """Move sequences from waiting to running while they fit; return the ids that are admitted for the first time.

        A sequence gets the blocks of all its known tokens at once, although its chunks take several steps: otherwise
        two long prompts could each take half of the pool and neither would end.
        """
        first_time = []
        while self._waiting and budget > 0 and len(self._running) < self._max_num_seqs:
            sequence = self._waiting[0]
            needed = self._pool.blocks_for(sequence.num_tokens)
            spare = self._watermark_blocks if self._running else 0
            if needed + spare > self._pool.num_free:
                break  # those behind it wait too: first come, first served
            self._start(self._waiting.popleft(), needed)
            if not sequence.admitted:
                sequence.admitted = True
                first_time.append(sequence.seq_id)
            length = min(sequence.num_tokens, budget)
            chunks[sequence.seq_id] = ScheduledChunk(sequence.seq_id, 0, length, length == sequence.num_tokens)
            budget -= length
        return first_time

    def _start(self, sequence: Sequence, num_blocks: int) -> None:
        blocks = self._pool.allocate(num_blocks)
        assert blocks is not None, "checked before"
        sequence.block_table.extend(blocks)
        self._waiting_tokens -= sequence.num_tokens
        self._running.append(sequence)

    def _take(self, sequence: Sequence, token: int) -> Output:
        if sequence.num_tokens == sequence.num_prompt_tokens:
            self._prompt_tokens += sequence.num_prompt_tokens
        self._generation_tokens += 1
        reason = sequence.append(token)
        if reason is not None:
            del self._sequences[sequence.seq_id]
            self._release(sequence)
        return Output(sequence.seq_id, [token], reason)


def _num_computed(sequence: Sequence) -> int:
    return sequence.num_computed
