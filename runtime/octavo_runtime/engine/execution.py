"""How plans are computed: each at once, or ahead of the device (core/ahead.py); and what happens when that raises."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from octavo_runtime.core.ahead import is_foreseeable, remaining
from octavo_runtime.core.batch import BatchPlan, FlatBatch, SamplingRow
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.outputs import StepOutputs
from octavo_runtime.runner.base import Undecided

if TYPE_CHECKING:
    from octavo_runtime.core.batch import StepResult
    from octavo_runtime.core.blocks import BlockPool
    from octavo_runtime.core.scheduler import Scheduler
    from octavo_runtime.runner.base import Launched, Runner

logger = logging.getLogger(__name__)


class Computed(NamedTuple):
    """What there is to say after a plan was run: of the steps that ended with it."""

    outputs: StepOutputs
    failed: list[int]  # sequence ids whose computation raised; they have left the scheduler

    def __add__(self, other: Computed) -> Computed:  # type: ignore[override]
        """Of both halves of a step."""
        return Computed(self.outputs + other.outputs, self.failed + other.failed)

    def then(self, later: Computed) -> Computed:
        """Of this step and a later one."""
        return Computed(self.outputs.then(later.outputs), self.failed + later.failed)


class Execution:
    """Computes each plan at once."""

    busy = False  # whether a step is under way

    def __init__(self, runner: Runner, scheduler: Scheduler, pool: BlockPool) -> None:
        self.steps = 0  # that ended, since the start
        self._runner = runner
        self._scheduler = scheduler
        self._pool = pool

    def run(self, plan: BatchPlan) -> Computed:
        """Compute `plan`. Raises only when the runner cannot compute anything any more."""
        if not plan.num_sequences:
            return _nothing()
        computed = self._run(plan)
        self.steps += 1
        for seq_id in computed.failed:
            self._scheduler.fail(seq_id)
        if computed.failed and len(computed.failed) == plan.num_sequences:
            self._prove_runner_works()
        return computed

    def _run(self, plan: BatchPlan) -> Computed:
        """Compute `plan`; when that raises, each half of it.

        So only the culprit fails, and the others get the tokens that they would have got: computing a chunk twice
        writes the same into the same slots.
        """
        try:
            result = self._execute(plan)
        except Exception:
            logger.exception("a step with %d sequences raised", plan.num_sequences)
        else:
            return Computed(self._scheduler.update(plan, result), [])
        if plan.num_sequences == 1:
            (culprit,) = plan.decodes or [chunk.sequence for chunk in plan.chunks]
            return Computed(StepOutputs([], [], []), [culprit.seq_id])
        first, second = plan.split()
        return self._run(first) + self._run(second)

    def _execute(self, plan: BatchPlan) -> StepResult:
        batch = flatten(plan, self._pool.block_size)
        return _checked(self._runner.execute(batch), len(batch.sampling))

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


class _Step(NamedTuple):
    """A step that was launched."""

    plan: BatchPlan
    num_samples: int
    launched: Launched | None  # None: that raised

    @property
    def is_foreseeable(self) -> bool:
        return self.launched is not None and is_foreseeable(self.plan)

    def wait(self) -> StepResult:
        if self.launched is None:
            raise RuntimeError("the step could not be launched")
        return _checked(self.launched.wait(), self.num_samples)


class OverlappedExecution(Execution):
    """Launches each plan and takes the results of the one before, which the device has computed meanwhile.

    | run(N)    launch N                                                    |
    | run(N+1)  launch N+1, wait for N and take its results                 |
    | run(N+2)  launch N+2, take N+1; N+2 too, if it is not foreseeable     |
    """

    def __init__(self, runner: Runner, scheduler: Scheduler, pool: BlockPool) -> None:
        super().__init__(runner, scheduler, pool)
        self._under_way: _Step | None = None

    @property
    def busy(self) -> bool:  # type: ignore[override]
        return self._under_way is not None

    def run(self, plan: BatchPlan) -> Computed:
        """Launch `plan`, which may be empty, and say what came of the plan before."""
        before, self._under_way = self._under_way, None
        step = self._launch(plan, before) if plan.num_sequences else None
        computed = _nothing()
        if before is not None:
            result = self._result(before)
            if result is None:
                return self._begin_again(before.plan, step)
            computed = self._take(before, result)
        if step is None or step.is_foreseeable:
            self._under_way = step
            return computed
        result = self._result(step)
        return computed.then(self._begin_again(step.plan) if result is None else self._take(step, result))

    def _launch(self, plan: BatchPlan, before: _Step | None) -> _Step:
        batch = flatten(plan, self._pool.block_size, before and before.plan)
        try:
            launched = self._runner.launch(batch)
        except Exception:
            logger.exception("a step with %d sequences could not be launched", plan.num_sequences)
            launched = None
        self._scheduler.launched(plan)
        return _Step(plan, len(batch.sampling), launched)

    def _result(self, step: _Step) -> StepResult | None:
        """What `step` yielded; None when it raised, or is not certain."""
        try:
            return step.wait()
        except Undecided as reason:
            logger.info("a step with %d sequences is executed again: %s", step.plan.num_sequences, reason)
            return None
        except Exception:
            if step.launched is not None:  # else that has been said
                logger.exception("a step with %d sequences raised", step.plan.num_sequences)
            return None

    def _take(self, step: _Step, result: StepResult) -> Computed:
        self.steps += 1
        return Computed(self._scheduler.update(step.plan, result), [])

    def _begin_again(self, plan: BatchPlan, later: _Step | None = None) -> Computed:
        """Compute the `plan` of a step that failed at once, and in halves if need be.

        The step launched on top of it has computed with tokens that do not exist. It is thrown away: its sequences are
        where `plan` leaves them, and are planned anew.
        """
        if later is not None and later.launched is not None:
            with suppress(Exception):
                later.launched.wait()
        self._scheduler.recall()
        return super().run(remaining(plan))


def _nothing() -> Computed:
    return Computed(StepOutputs([], [], []), [])


def _checked(result: StepResult, num_samples: int) -> StepResult:
    if len(result.tokens) != num_samples:
        raise RuntimeError(f"the runner gave {len(result.tokens)} tokens; {num_samples} were asked for")
    return result
