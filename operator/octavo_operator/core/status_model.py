"""The status of a ModelServer: the single source of its part of the CRD, and what the operator reads back after a
restart.
"""

from typing import Any, Final, Literal

from pydantic import Field

from octavo_operator.core.schema import StatusModel

NEVER: Final = -1
"""The observed generation of a ModelServer that no operator has looked at, as the API server fills it in.

Without it kstatus, and Flux with it, takes an object that has no status yet for done.
"""


class ConditionStatus(StatusModel):
    """One observation of the ModelServer."""

    type: str = Field(max_length=64, description="What is observed. Example: Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    reason: str = Field(max_length=64, description="Why, in one word. Example: CrashLoopBackOff.")
    message: str = Field(max_length=1024, description="Why, in words and numbers.")
    observed_generation: int = Field(ge=0, description="metadata.generation that this was computed from.")
    last_transition_time: str = Field(
        description="When the status changed last.", json_schema_extra={"format": "date-time"}
    )


class ModelStatus(StatusModel):
    """The model as clients see it."""

    served_name: str = Field(max_length=253, description='Name that clients put into "model" of a request.')


class Load(StatusModel):
    """Load of all ready replicas together, rounded so that noise does not change it."""

    kv_utilization_percent: int = Field(ge=0, le=100, description="KV cache in use, in percent, to the nearest 5.")
    waiting: int = Field(ge=0, description="Requests that wait in the queues of the replicas.")
    running: int = Field(ge=0, description="Requests that are being answered.")
    kv_tokens_in_use: int = Field(ge=0, description="Tokens in the KV caches, to two digits.")
    kv_tokens_capacity: int = Field(ge=0, description="Tokens that fit into the KV caches.")


class Startup(StatusModel):
    """How far the start of a replica is, and how long starts take here. Absent while nothing is known."""

    phase: str | None = Field(
        default=None, max_length=32, description="What the furthest starting replica does. Example: fetch."
    )
    progress_percent: int | None = Field(default=None, ge=0, le=100, description="How much of that phase is done.")
    eta_seconds: int | None = Field(
        default=None, ge=0, description="Seconds that are left of that phase, if it says so."
    )
    p50_seconds: int | None = Field(
        default=None, ge=0, description="From a replica's creation to its readiness, median of those that serve."
    )
    p90_seconds: int | None = Field(default=None, ge=0, description="The same, 90th percentile.")
    scheduling_seconds: int | None = Field(default=None, ge=0, description="Until it has a node, median.")
    pulling_seconds: int | None = Field(
        default=None, ge=0, description="From there until its container runs (image, volumes), median."
    )
    loading_seconds: int | None = Field(
        default=None, ge=0, description="From there until it is ready (fetch, weights, warm-up), median."
    )
    fetch_seconds: int | None = Field(
        default=None, ge=0, description="Of those, fetching the model: median of the last starts that were watched."
    )
    weights_seconds: int | None = Field(default=None, ge=0, description="Loading the weights, likewise.")
    warmup_seconds: int | None = Field(default=None, ge=0, description="Warming up, likewise.")


class Capacity(StatusModel):
    """What one replica carries, as it was measured; the autoscaler divides the load by it."""

    kv_cache_tokens: int = Field(ge=0, description="KV tokens that fit into its cache.")
    kv_tokens: int | None = Field(
        default=None,
        ge=0,
        description="KV tokens that one was seen to hold while requests waited, to two digits: it carries no more. "
        "Absent while none was seen at its limit.",
    )
    prompt_tokens_per_second: int | None = Field(
        default=None,
        ge=0,
        description="Prompt tokens that one was seen to compute per second while requests waited, to two digits. "
        "Absent likewise.",
    )


class Cost(StatusModel):
    """What the replicas cost, in the currency of the prices. Absent where no price is known."""

    per_hour: str = Field(
        max_length=32, description="All replicas that are there, for an hour, those that start or drain too."
    )
    per_million_tokens: str | None = Field(
        default=None,
        max_length=32,
        description="A million tokens at the present load, those of prompts and of answers together. Absent while "
        "none are computed. Example: '0.42'.",
    )


class DecisionInputs(StatusModel):
    """What a decision was made from."""

    ready_replicas: int = Field(ge=0, description="Replicas that were ready.")
    unknown_replicas: int = Field(ge=0, description="Ready replicas without a fresh sample.")
    kv_utilization_percent: int = Field(
        ge=0, le=100, description="KV cache in use, in percent of the sampled capacity."
    )
    waiting: int = Field(ge=0, description="Requests that waited.")
    running: int = Field(ge=0, description="Requests that were being answered.")
    held: int | None = Field(default=None, ge=0, description="Requests that the activator held, if any.")
    kv_tokens_in_use: int = Field(ge=0, description="Tokens in the KV caches.")
    kv_tokens_capacity: int = Field(ge=0, description="Tokens that fit into the sampled KV caches.")
    waiting_tokens: int = Field(default=0, ge=0, description="Tokens to compute for the requests that waited.")
    prompt_tokens_per_second: int = Field(default=0, ge=0, description="Prompt tokens computed per second.")
    ttft_p95_milliseconds: int | None = Field(
        default=None, ge=0, description="95th percentile of the last minute's times to the first token."
    )
    itl_p95_milliseconds: int | None = Field(
        default=None, ge=0, description="95th percentile of the last minute's times between two tokens."
    )
    queue_wait_p95_milliseconds: int | None = Field(
        default=None,
        ge=0,
        description="95th percentile of the last minute's times from arrival to the first step. With slo.queueWait.",
    )


class Candidate(StatusModel):
    """What one signal alone asked for."""

    signal: str = Field(max_length=64, description="The signal. Example: kvUtilizationPercent.")
    replicas: int = Field(ge=0, description="Replicas that it asked for.")


class PastDecision(StatusModel):
    """A change of the number of replicas, or advice to change it."""

    time: str = Field(description="When it was decided.", json_schema_extra={"format": "date-time"})
    mode: Literal["Active", "Advisory"] = Field(
        default="Active", description="Active: it was carried out. Advisory: it was only reported."
    )
    from_: int = Field(ge=0, alias="from", description="Replicas before.")
    to: int = Field(ge=0, description="Replicas after.")
    reason: str = Field(max_length=64, description="Why, in one word. Example: KVUtilizationAboveTarget.")
    limited_by: str | None = Field(
        default=None, max_length=64, description="What kept it from going further, if anything."
    )
    message: str = Field(max_length=1024, description="Why, in words and numbers.")
    record: str | None = Field(
        default=None,
        max_length=8192,
        description="Everything that it was made from, as JSON and exact, so that it can be made again.",
    )


class LastDecision(PastDecision):
    """The last change of the number of replicas. The operator resumes from it after a restart."""

    inputs: DecisionInputs | None = Field(default=None, description="What it was made from.")
    candidates: tuple[Candidate, ...] = Field(
        default=(),
        max_length=8,
        description="What each signal alone asked for.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["signal"]},
    )


class Scaling(StatusModel):
    """How the number of replicas came about."""

    last_decision: LastDecision | None = Field(
        default=None, description="The last change of the number of replicas, or in mode Advisory the last advice."
    )
    history: tuple[PastDecision, ...] = Field(
        default=(),
        max_length=10,
        description="The decisions before it, oldest first.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


class ModelServerStatus(StatusModel):
    """What the operator observed."""

    observed_generation: int = Field(
        default=NEVER,
        ge=NEVER,
        description="metadata.generation that this was computed from; -1 before the operator has looked.",
    )
    conditions: tuple[ConditionStatus, ...] = Field(
        default=(),
        max_length=16,
        description="Observations: Ready (the summary), Available, Progressing, ScalingActive, ScalingLimited, "
        "MetricsFresh, CapacityAvailable; SLOMet with autoscaling.slo, BudgetOK with autoscaling.budget, ModelCached "
        "with a claim in model.cache; Reconciling, Stalled or Contended only while true.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    replicas: int = Field(default=0, ge=0, description="Replicas that exist, of any revision.")
    ready_replicas: int = Field(
        default=0, ge=0, description="Replicas that serve: ready for 2 seconds, so that the Service leads to them."
    )
    updated_replicas: int = Field(default=0, ge=0, description="Replicas of the newest revision.")
    desired_replicas: int = Field(default=0, ge=0, description="Replicas wanted now.")
    selector: str = Field(
        default="", max_length=512, description="Label selector of the replicas, for the scale subresource."
    )
    url: str | None = Field(
        default=None, max_length=512, description="Endpoint inside the cluster. Example: http://chat.default.svc."
    )
    model: ModelStatus | None = Field(default=None, description="The model as clients see it.")
    load: Load | None = Field(default=None, description="Load of all ready replicas together. Absent while unknown.")
    startup: Startup | None = Field(default=None, description="How far a start is, and how long starts take.")
    capacity: Capacity | None = Field(default=None, description="What one replica carries, as it was measured.")
    cost: Cost | None = Field(
        default=None,
        description="What the replicas cost: by autoscaling.budget.replicaCostPerHour, accelerator.costPerHour or "
        "accelerator.profile.",
    )
    scaling: Scaling | None = Field(default=None, description="How the number of replicas came about.")

    def condition(self, kind: str) -> ConditionStatus | None:
        """The condition of that type, or None."""
        return next((item for item in self.conditions if item.type == kind), None)

    def wire(self) -> dict[str, Any]:
        """The status as it is sent to the API server."""
        return self.model_dump(by_alias=True, exclude_none=True, mode="json")
