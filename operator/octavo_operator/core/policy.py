"""What the spec asks of the autoscaler, resolved into numbers for one moment."""

from dataclasses import dataclass
from typing import Final

from octavo_operator.core.schedules import floor_at
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.spec_scaling import Autoscaling

DEFAULT_KV_TARGET: Final = 0.8
"""For supply and the N-1 check where only waitingPerReplica is a target."""


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """`max_num_seqs` is what one replica runs at once, where the spec says so; latencies and windows are seconds.

    `affordable` is the number of replicas that the budget allows for, None without a budget; `scheduled_by` names the
    schedule that raised the minimum, which is 0 for an idle ModelServer with `idle_after`.
    """

    min_replicas: int
    max_replicas: int
    kv_target: float | None
    waiting_target: int | None
    up_window: float
    down_window: float
    max_num_seqs: int | None = None
    ttft_p95: float | None = None
    itl_p95: float | None = None
    queue_wait_p95: float | None = None
    affordable: int | None = None
    scheduled_by: str | None = None
    idle_after: float | None = None

    @classmethod
    def of(cls, spec: ModelServerSpec, autoscaling: Autoscaling, now: float) -> "ScalingPolicy":
        """The policy of a spec at `now`; a schedule in force may raise the minimum."""
        floor = floor_at([item.resolved() for item in autoscaling.schedules], now)
        zero, least = autoscaling.scale_to_zero, autoscaling.min_replicas
        raised = floor if floor and (zero or floor.replicas > least) else None
        percent, slo = autoscaling.targets.kv_utilization_percent, autoscaling.slo
        return cls(
            min_replicas=max(raised.replicas, least) if raised else least,
            max_replicas=autoscaling.max_replicas,
            kv_target=percent / 100 if percent else None,
            waiting_target=autoscaling.targets.waiting_per_replica,
            up_window=autoscaling.behavior.scale_up.stabilization_window,
            down_window=autoscaling.behavior.scale_down.stabilization_window,
            max_num_seqs=spec.runtime.max_num_seqs,
            ttft_p95=slo.ttft_p95 / 1000 if slo and slo.ttft_p95 else None,
            itl_p95=slo.itl_p95 / 1000 if slo and slo.itl_p95 else None,
            queue_wait_p95=slo.queue_wait / 1000 if slo and slo.queue_wait else None,
            affordable=spec.affordable,
            scheduled_by=raised.name if raised else None,
            idle_after=zero.idle_after if zero else None,
        )

    @property
    def may_sleep(self) -> bool:
        """Whether there may be no replica at all; not while a schedule asks for some."""
        return self.idle_after is not None and self.scheduled_by is None

    @property
    def supply_share(self) -> float:
        """Share of a replica's KV tokens that should be in use."""
        return self.kv_target or DEFAULT_KV_TARGET
