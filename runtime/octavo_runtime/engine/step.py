"""One step of the engine: schedule, compute, say what came of it. No sockets, no processes, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.keys import root_key
from octavo_runtime.core.outputs import Output
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import FinishReason, Sequence
from octavo_runtime.engine.execution import Execution, OverlappedExecution
from octavo_runtime.engine.messages import Add, StepDone

if TYPE_CHECKING:
    from octavo_runtime.core.outputs import SchedulerStats
    from octavo_runtime.runner.base import Runner


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
        plan_ahead: bool = False,
    ) -> None:
        """`plan_ahead`: plan the next step while the runner computes one."""
        pool = BlockPool(runner.num_blocks, runner.block_size)
        self._scheduler = Scheduler(
            pool,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            prefix_caching=prefix_caching,
            speculative_ngram=speculative_ngram,
            project_peak=project_peak,
        )
        self._execution = (OverlappedExecution if plan_ahead else Execution)(runner, self._scheduler, pool)

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or self._execution.busy

    @property
    def steps(self) -> int:
        """Steps that ended, since the start."""
        return self._execution.steps

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
        """Compute one step, or launch one and take the results of the step before. Raises only when the runner cannot
        compute anything any more.

        `now` is on the clock of the requests' arrivals and deadlines.
        """
        plan = self._scheduler.schedule(now)
        admitted = [sequence.seq_id for sequence in plan.admitted]
        cached = [sequence.num_computed for sequence in plan.admitted]
        outputs, failed = self._execution.run(plan)
        late = [Output(request_id, [], FinishReason.DEADLINE) for request_id in plan.expired]
        return StepDone(now, admitted, late + outputs.others, failed, outputs.decoded, outputs.tokens, cached)
