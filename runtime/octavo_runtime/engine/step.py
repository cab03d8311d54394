"""One step of the engine: schedule, flatten, compute, update. No sockets, no processes, no clock."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from octavo_runtime.core.batch import FlatBatch, SamplingRow
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.keys import root_key
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.outputs import Output, StepOutputs
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import FinishReason, Sequence
from octavo_runtime.engine.messages import Add, StepDone

if TYPE_CHECKING:
    from octavo_runtime.core.batch import BatchPlan, StepResult
    from octavo_runtime.core.outputs import SchedulerStats
    from octavo_runtime.runner.base import Runner

logger = logging.getLogger(__name__)


class Engine:
    """The scheduler and the runner, and what keeps one bad request from stopping the others."""

    def __init__(
        self,
        runner: Runner,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        prefix_caching: bool = True,
        speculative_ngram: int = 0,
        project_peak: bool = True,
    ) -> None:
        self._runner = runner
        self._pool = BlockPool(runner.num_blocks, runner.block_size)
        self._scheduler = Scheduler(
            self._pool,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            prefix_caching=prefix_caching,
            speculative_ngram=speculative_ngram,
            project_peak=project_peak,
        )

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def stats(self) -> SchedulerStats:
        return self._scheduler.stats()

    def add(self, request: Add) -> None:
        self._scheduler.add(
            Sequence(
                request.request_id,
                request.prompt,
                request.params,
                tenant=request.tenant,
                priority=request.priority,
                arrived_at=request.arrived_at,
                deadline=request.deadline,
                root_key=root_key(request.tenant, request.salt),
            )
        )

    def abort(self, request_id: int) -> None:
        self._scheduler.abort(request_id)

    def step(self, now: float) -> StepDone:
        """Compute one step. Raises only when the runner cannot compute anything any more.

        `now` is on the clock of the requests' arrivals and deadlines.
        """
        plan = self._scheduler.schedule(now)
        admitted = [sequence.seq_id for sequence in plan.admitted]
        cached = [sequence.num_computed for sequence in plan.admitted]
        outputs, failed = self._run(plan) if plan.num_sequences else (StepOutputs([], [], []), [])
        for request_id in failed:
            self._scheduler.fail(request_id)
        if failed and len(failed) == plan.num_sequences:
            self._prove_runner_works()
        late = [Output(request_id, [], FinishReason.DEADLINE) for request_id in plan.expired]
        return StepDone(now, admitted, late + outputs.others, failed, outputs.decoded, outputs.tokens, cached)

    def _run(self, plan: BatchPlan) -> tuple[StepOutputs, list[int]]:
        """Compute `plan`; when that raises, each half of it.

        So only the culprit fails, and the others get the tokens that they would have got: computing a chunk twice
        writes the same into the same slots.
        """
        try:
            result = self._execute(plan)
        except Exception:
            logger.exception("a step with %d sequences raised", plan.num_sequences)
        else:
            return self._scheduler.update(plan, result), []
        if plan.num_sequences == 1:
            (culprit,) = plan.decodes or [chunk.sequence for chunk in plan.chunks]
            return StepOutputs([], [], []), [culprit.seq_id]
        first, second = plan.split()
        outputs, failed = self._run(first)
        more_outputs, more_failed = self._run(second)
        return outputs + more_outputs, failed + more_failed

    def _execute(self, plan: BatchPlan) -> StepResult:
        batch = flatten(plan, self._pool.block_size)
        result = self._runner.execute(batch)
        if len(result.tokens) != len(batch.sampling):
            raise RuntimeError(f"the runner gave {len(result.tokens)} tokens; {len(batch.sampling)} were asked for")
        return result

    def _prove_runner_works(self) -> None:
        """Compute one token in a block that nobody holds; when the device is lost for good, this ends the engine."""
        block = self._pool.allocate(1)
        if block is None:
            return  # others hold blocks, and their next step is the proof
        try:
            self._runner.execute(
                FlatBatch(
                    token_ids=[0],
                    positions=[0],
                    slot_mapping=[block[0] * self._pool.block_size],
                    query_start_loc=[0, 1],
                    seq_lens=[1],
                    block_tables=[block],
                    sample_rows=[0],
                    sampling=[SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=1)],
                )
            )
        finally:
            self._pool.free(block)
