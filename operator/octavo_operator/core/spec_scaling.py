"""The part of a spec that lets the load decide the number of replicas."""

from typing import Annotated, ClassVar, Final, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ConfigDict, Field, model_validator

from octavo_operator.core.budget import affordable
from octavo_operator.core.schedules import DAYS, Cron, Daily, Schedule, cron_problem
from octavo_operator.core.schema import (
    Milliseconds,
    Price,
    Seconds,
    SpecModel,
    duration,
    is_amount,
    latency,
    rule,
    rules,
)
from octavo_operator.core.spec_metrics import MetricsSource

_CLOCK: Final = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
_FIVE_FIELDS: Final = r"^[0-9A-Za-z*/,#-]+( [0-9A-Za-z*/,#-]+){4}$"


_REACHABLE: Final = "must be at most 90: use ends at 100 and 10 % above the target are tolerated"


class Targets(SpecModel):
    """Load that one replica should carry; the target that needs most replicas counts."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.kvUtilizationPercent) || has(self.waitingPerReplica)",
                "set kvUtilizationPercent, waitingPerReplica or both",
            )
        )
    )

    checks: ClassVar = ((lambda self: (self.kv_utilization_percent or 0) <= 90, _REACHABLE),)

    kv_utilization_percent: int | None = Field(
        default=None,
        ge=1,
        description="KV cache in use, in percent of a replica's capacity, averaged over the replicas. Example: 70.",
        json_schema_extra=rules(rule("self <= 90", _REACHABLE)),
    )
    waiting_per_replica: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Requests that wait in a replica's queue, averaged over the replicas. Example: 4.",
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.kv_utilization_percent is None and self.waiting_per_replica is None:
            raise ValueError("set kvUtilizationPercent, waitingPerReplica or both")
        return self


class ScaleUpBehavior(SpecModel):
    """How fast replicas are added: to at most twice as many, or 4 more, within 15 s."""

    stabilization_window: Annotated[Seconds, duration("0s", "1h")] = Field(
        default="0s",
        validate_default=True,
        description="Replicas are added only up to what was needed throughout this time. Loads are means of 10 s "
        "already. Default: 0s.",
    )


class ScaleDownBehavior(SpecModel):
    """How fast replicas are removed: one at a time, at least 15 s apart."""

    stabilization_window: Annotated[Seconds, duration("0s", "1h")] = Field(
        default="5m",
        validate_default=True,
        description="Replicas are removed only down to the most that was needed at any moment of this time, one at "
        "a time. It is at least twice the time that a replica takes to start, as measured. Default: 5m.",
    )


class Behavior(SpecModel):
    """How fast the number of replicas follows the load."""

    scale_up: ScaleUpBehavior = Field(
        default=ScaleUpBehavior(),
        description="How fast replicas are added: to at most twice as many, or 4 more, within 15 s.",
    )
    scale_down: ScaleDownBehavior = Field(
        default=ScaleDownBehavior(),
        description="How fast replicas are removed: one at a time, at least 15 s apart.",
    )


_SOME_LATENCY: Final = "set ttftP95, itlP95, queueWait or several of them"


class Slo(SpecModel):
    """Latencies that 95 of 100 requests or tokens of the last minute should keep to; beyond one, replicas are added."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("has(self.ttftP95) || has(self.itlP95) || has(self.queueWait)", _SOME_LATENCY))
    )

    checks: ClassVar = ((lambda self: {self.ttft_p95, self.itl_p95, self.queue_wait} != {None}, _SOME_LATENCY),)

    ttft_p95: Annotated[Milliseconds, latency("10ms", "600s")] | None = Field(
        default=None, description="From a request's arrival to its first token. Example: 2s."
    )
    itl_p95: Annotated[Milliseconds, latency("1ms", "60s")] | None = Field(
        default=None, description="Between two tokens of an answer. Example: 80ms."
    )
    queue_wait: Annotated[Milliseconds, latency("10ms", "600s")] | None = Field(
        default=None,
        description="From a request's arrival to its first step, whatever the length of its prompt. Example: 500ms.",
    )


_SOME_BUDGET: Final = "set maxCostPerHour, maxGPUs or both"


class Budget(SpecModel):
    """What the replicas may cost, and the GPUs that they may take. It wins over every other bound."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("has(self.maxCostPerHour) || has(self.maxGPUs)", _SOME_BUDGET))
    )

    checks: ClassVar = ((lambda self: self.max_cost_per_hour is not None or self.max_gpus is not None, _SOME_BUDGET),)

    max_cost_per_hour: Price | None = Field(
        default=None, description="Most that all replicas together may cost in an hour. Example: '25'."
    )
    max_gpus: int | None = Field(
        default=None,
        alias="maxGPUs",
        ge=1,
        le=100_000,
        description="Most GPUs that all replicas together may take, also while they are replaced. Example: 8.",
    )
    replica_cost_per_hour: Price | None = Field(
        default=None,
        description="Price of one replica for an hour, in the currency of maxCostPerHour. Default: "
        "accelerator.costPerHour, or else that of accelerator.profile, for each of its GPUs. Example: '2.5'.",
    )

    def replicas(self, gpus: int) -> int:
        """Replicas of so many GPUs that it allows for, once their price is known (profiles.py)."""
        bounds = [self.max_gpus // gpus] if self.max_gpus is not None else []
        if self.max_cost_per_hour is not None:
            assert self.replica_cost_per_hour is not None, "settle fills it in"
            bounds.append(affordable(self.max_cost_per_hour, self.replica_cost_per_hour))
        return min(bounds)


class CronWindow(SpecModel):
    """From each moment of one cron expression to the next one of another."""

    start: str = Field(
        pattern=_FIVE_FIELDS,
        max_length=128,
        description="Local times at which it begins: minute, hour, day of month, month, day of week. Example: "
        "45 7 * * 1-5.",
    )
    end: str = Field(
        pattern=_FIVE_FIELDS, max_length=128, description="Local times at which it ends. Example: 0 20 * * 1-5."
    )

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        for name, expression in (("start", self.start), ("end", self.end)):
            if problem := cron_problem(expression):
                raise ValueError(f"{name} {expression!r} is no cron expression: {problem}")
        return self


_ONE_TIME: Final = "set from and to, or cron; days only with from and to"


class ScheduledMinimum(SpecModel):
    """More replicas at known times. Without days it is in force every day; to before from ends on the next day."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.cron) ? !has(self.from) && !has(self.to) && !has(self.days) : has(self.from) && has(self.to)",
                _ONE_TIME,
            )
        )
    )

    checks: ClassVar = (
        (
            lambda self: (
                (self.cron is None) == (self.from_ is not None) == (self.to is not None)
                and not (self.cron and self.days)
            ),
            _ONE_TIME,
        ),
    )

    name: str = Field(
        max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="Its name. Example: office-hours."
    )
    days: tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...] = Field(
        default=(),
        max_length=7,
        description="Days on which it begins. Default: every day.",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    from_: str | None = Field(
        default=None, alias="from", pattern=_CLOCK, max_length=5, description="Local time of its start. Example: 07:45."
    )
    to: str | None = Field(
        default=None,
        pattern=_CLOCK,
        max_length=5,
        description="Local time of its end. The same as from: after 24 hours.",
    )
    cron: CronWindow | None = Field(
        default=None, description="When it is in force, as cron expressions instead of days, from and to."
    )
    time_zone: str = Field(
        default="Etc/UTC",
        min_length=1,
        max_length=64,
        description="Name of a time zone. Default: Etc/UTC. Example: Europe/Berlin.",
    )
    min_replicas: int = Field(ge=1, le=1000, description="Fewest replicas while it is in force.")

    @model_validator(mode="after")
    def _known_zone(self) -> Self:
        try:
            ZoneInfo(self.time_zone)
        except (ZoneInfoNotFoundError, OSError, ValueError) as error:
            raise ValueError(f"timeZone {self.time_zone} is not known") from error
        return self

    def resolved(self) -> Schedule:
        """The same for the clock."""
        if self.cron is not None:
            return Cron(self.name, self.cron.start, self.cron.end, self.time_zone, self.min_replicas)
        assert self.from_ is not None, "it has no cron"
        assert self.to is not None, "it has no cron"
        days = frozenset(DAYS.index(day) for day in self.days) or frozenset(range(7))
        return Daily(self.name, days, _minutes(self.from_), _minutes(self.to), self.time_zone, self.min_replicas)


class ScaleToZero(SpecModel):
    """No replica while nothing is asked. A small Deployment, the activator, then takes the requests, holds them until a
    replica serves, and passes them on.
    """

    idle_after: Annotated[Seconds, duration("10s", "24h")] = Field(
        default="10m",
        validate_default=True,
        description="Time without any request after which the last replicas go. Default: 10m.",
    )
    max_held_requests: int = Field(
        default=100,
        ge=1,
        le=10_000,
        description="Requests held at the same time; more get a 503 with Retry-After. Default: 100.",
    )
    hold_timeout: Annotated[Seconds, duration("1s", "1h")] = Field(
        default="5m",
        validate_default=True,
        description="Time that a request is held; then it gets a 503 with Retry-After. Choose more than a replica "
        "takes to start. Default: 5m.",
    )


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return 60 * int(hours) + int(minutes)


_AFFORDABLE = f"""!has(self.budget) || !has(self.budget.replicaCostPerHour) || !has(self.budget.maxCostPerHour)
    || !{is_amount("self.budget.maxCostPerHour")}
    || !{is_amount("self.budget.replicaCostPerHour")}
    || quantity(string(self.budget.maxCostPerHour)).asApproximateFloat()
    >= quantity(string(self.budget.replicaCostPerHour)).asApproximateFloat() * double(self.minReplicas)"""


_WAKES: Final = "scaleToZero needs mode Active: in any other nobody would wake the replicas"


class Autoscaling(SpecModel):
    """Scaling on the load of the replicas."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.minReplicas <= self.maxReplicas",
                "minReplicas must not be greater than maxReplicas",
                fieldPath=".minReplicas",
            ),
            rule(
                _AFFORDABLE,
                "budget.maxCostPerHour does not pay for minReplicas at budget.replicaCostPerHour each",
                fieldPath=".budget",
            ),
            rule(
                "!has(self.schedules) || self.schedules.all(schedule, schedule.minReplicas <= self.maxReplicas)",
                "minReplicas of a schedule must not be greater than maxReplicas",
                fieldPath=".schedules",
            ),
            rule(
                "!has(self.scaleToZero) || self.mode == 'Active'",
                _WAKES,
                fieldPath=".scaleToZero",
            ),
        )
    )

    mode: Literal["Off", "Advisory", "Active"] = Field(
        default="Active",
        description="Active: the load decides. Advisory: what it would decide is shown in status.scaling and nothing "
        "is scaled; the number is spec.replicas, or else stays as it is. Off: nothing is decided. Default: Active.",
    )
    min_replicas: int = Field(
        default=1,
        ge=1,
        le=1000,
        description="Fewest replicas, whatever the load; with scaleToZero, while there are any. Default: 1.",
    )
    max_replicas: int = Field(ge=1, le=1000, description="Most replicas, whatever the load.")
    targets: Targets = Field(description="Load that one replica should carry. At least one target must be set.")
    metrics: MetricsSource = Field(default=MetricsSource(), description="Where the samples of the load come from.")
    behavior: Behavior = Field(default=Behavior(), description="How fast the number of replicas follows the load.")
    slo: Slo | None = Field(default=None, description="Latencies to keep to. Default: none.")
    budget: Budget | None = Field(default=None, description="What the replicas may cost, and take. Default: no limit.")

    schedules: tuple[ScheduledMinimum, ...] = Field(
        default=(),
        max_length=16,
        description="Fewest replicas at known times, instead of a lower minReplicas, or of none at all. The highest "
        "one in force counts.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )

    scale_to_zero: ScaleToZero | None = Field(
        default=None, description="Let the last replicas go while nothing is asked. Default: never."
    )

    checks: ClassVar = (
        (lambda self: self.scale_to_zero is None or self.mode == "Active", _WAKES),
        (
            lambda self: all(schedule.min_replicas <= self.max_replicas for schedule in self.schedules),
            "minReplicas of a schedule must not be greater than maxReplicas",
        ),
    )

    @model_validator(mode="after")
    def _affordable(self) -> Self:
        most = self.budget.max_cost_per_hour if self.budget else None
        price = self.budget.replica_cost_per_hour if self.budget else None
        if most is not None and price is not None and affordable(most, price) < self.min_replicas:
            raise ValueError(f"budget.maxCostPerHour {most} does not pay for minReplicas")
        return self

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas {self.min_replicas} is greater than maxReplicas {self.max_replicas}")
        return self
