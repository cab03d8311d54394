"""The part of a spec that lets the load decide the number of replicas."""

from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from octavo_operator.core.schema import Seconds, SpecModel, duration, rule, rules


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

    kv_utilization_percent: int | None = Field(
        default=None,
        ge=1,
        description="KV cache in use, in percent of a replica's capacity, averaged over the replicas. Example: 70.",
        json_schema_extra=rules(
            rule("self <= 90", "must be at most 90: use ends at 100 and 10 % above the target are tolerated")
        ),
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
    """How fast replicas are added."""

    stabilization_window: Annotated[Seconds, duration("0s", "1h")] = Field(
        default="15s",
        validate_default=True,
        description="Replicas are added only up to what was needed throughout this time. Default: 15s.",
    )


class ScaleDownBehavior(SpecModel):
    """How fast replicas are removed."""

    stabilization_window: Annotated[Seconds, duration("0s", "1h")] = Field(
        default="5m",
        validate_default=True,
        description="Replicas are removed only down to the most that was needed at any moment of this time, one at "
        "a time. Default: 5m.",
    )


class Behavior(SpecModel):
    """How fast the number of replicas follows the load."""

    scale_up: ScaleUpBehavior = Field(default=ScaleUpBehavior(), description="How fast replicas are added.")
    scale_down: ScaleDownBehavior = Field(default=ScaleDownBehavior(), description="How fast replicas are removed.")


class Autoscaling(SpecModel):
    """Scaling on the load that the operator scrapes from the replicas."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.minReplicas <= self.maxReplicas",
                "minReplicas must not be greater than maxReplicas",
                fieldPath=".minReplicas",
            )
        )
    )

    min_replicas: int = Field(default=1, ge=1, le=1000, description="Fewest replicas, whatever the load. Default: 1.")
    max_replicas: int = Field(ge=1, le=1000, description="Most replicas, whatever the load.")
    targets: Targets = Field(description="Load that one replica should carry. At least one target must be set.")
    behavior: Behavior = Field(default=Behavior(), description="How fast the number of replicas follows the load.")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"minReplicas {self.min_replicas} is greater than maxReplicas {self.max_replicas}")
        return self
