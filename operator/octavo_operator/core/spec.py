"""The spec of a ModelServer: the single source of the CRD, and what the operator works with after admission.

`parse_spec` turns the raw object into frozen values once; nothing deeper reads a raw spec. Defaults and bounds live
here only. Rules across fields stand twice: as CEL for the API server, as validators for objects older than the CRD.
"""

from reprlib import Repr
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from octavo_operator.core.errors import SpecError
from octavo_operator.core.names import API_VERSION, DRAIN_DELAY_SECONDS
from octavo_operator.core.pod_template import check_patch
from octavo_operator.core.schema import Seconds, SpecModel, duration, rule, rules
from octavo_operator.core.spec_model import Accelerator, Model
from octavo_operator.core.spec_network import Disruption, Monitoring, Networking
from octavo_operator.core.spec_runtime import Runtime
from octavo_operator.core.spec_scaling import Autoscaling
from octavo_operator.core.units import parse_quantity


class Drain(SpecModel):
    """How a replica ends."""

    timeout: Annotated[Seconds, duration("1s", "1h")] = Field(
        default="120s",
        validate_default=True,
        description="Time that running answers get to finish when a replica is removed or replaced; what is left "
        "then is ended with an error. Default: 120s.",
    )
    pre_stop_delay: Annotated[Seconds, duration("0s", "5m")] = Field(
        default=f"{DRAIN_DELAY_SECONDS}s",
        validate_default=True,
        description="Time before that in which new requests are still served, while those who send them learn that "
        "the replica goes. More where a load balancer outside of the cluster is slow to learn. Default: 5s.",
    )


class Rollout(SpecModel):
    """How old replicas make way for new ones, one at a time."""

    strategy: Literal["Auto", "Surge", "InPlace"] = Field(
        default="Auto",
        description="Surge: a new replica serves before an old one goes, which needs a free accelerator. InPlace: an "
        "old one goes first, which takes its capacity away for the time of a start. Auto: Surge, and InPlace for the "
        "rest of a rollout when no accelerator is free. Where a budget allows for no further replica it is always "
        "InPlace. Default: Auto.",
    )


_CACHE_FITS: Final = "kvCache.size must be less than resources.limits.memory, which also holds the weights"
_TENSOR_PARALLEL: Final = "--tensor-parallel-size"
_COUNTED: Final = f"accelerator.count sets {_TENSOR_PARALLEL}: leave it away"


def _has_gpus(spec: "ModelServerSpec") -> bool:
    return spec.gpus > 0


def _cache_fits(spec: "ModelServerSpec") -> bool:
    """On a CPU the cache and the weights are in the same memory."""
    cache, limits = spec.runtime.kv_cache, spec.runtime.resources.limits if spec.runtime.resources else None
    if cache is None or cache.size is None or limits is None or limits.memory is None or _has_gpus(spec):
        return True
    return parse_quantity(cache.size) < parse_quantity(limits.memory)


def _is_divided_once(spec: "ModelServerSpec") -> bool:
    given = any(argument.split("=", 1)[0] == _TENSOR_PARALLEL for argument in spec.runtime.args)
    return not (given and _has_gpus(spec))


_NOBODY_WAKES: Final = (
    "a pool without a replica answers nobody and wakes nobody: "
    "remove networking.inferencePool or autoscaling.scaleToZero"
)


def _somebody_wakes(spec: "ModelServerSpec") -> bool:
    """The activator takes what comes to the Service; a gateway picks a pool's pods past it."""
    zero = spec.autoscaling.scale_to_zero if spec.autoscaling else None
    return zero is None or spec.networking.inference_pool is None


_ON_CPU: Final = "!has(self.accelerator) || (has(self.accelerator.count) && self.accelerator.count == 0)"
_COUNTS_GPUS: Final = "has(self.autoscaling) && has(self.autoscaling.budget) && has(self.autoscaling.budget.maxGPUs)"
_PRICE_NEEDED: Final = (
    "a budget needs a price: set budget.replicaCostPerHour, accelerator.costPerHour or accelerator.profile"
)


def _has_a_price(spec: "ModelServerSpec") -> bool:
    budget = spec.autoscaling.budget if spec.autoscaling else None
    hardware = spec.accelerator
    priced = hardware is not None and (hardware.profile is not None or hardware.cost_per_hour is not None)
    return budget is None or budget.max_cost_per_hour is None or budget.replica_cost_per_hour is not None or priced


_GPUS_NEEDED: Final = "maxGPUs counts GPUs, and a replica has none: set accelerator.count or profile, or remove maxGPUs"
_GPUS_OF_THE_FEWEST: Final = "maxGPUs is less than minReplicas take: raise it, or lower minReplicas"


def _has_gpus_to_count(spec: "ModelServerSpec") -> bool:
    budget = spec.autoscaling.budget if spec.autoscaling else None
    return budget is None or budget.max_gpus is None or _has_gpus(spec)


def _gpus_suffice(spec: "ModelServerSpec") -> bool:
    budget = spec.autoscaling.budget if spec.autoscaling else None
    if spec.autoscaling is None or budget is None or budget.max_gpus is None:
        return True
    return spec.autoscaling.min_replicas * spec.gpus <= budget.max_gpus


class ModelServerSpec(SpecModel):
    """What should be served, on what, and with how many replicas."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!(has(self.replicas) && has(self.autoscaling) && self.autoscaling.mode == 'Active')",
                "replicas and autoscaling exclude each other: remove spec.replicas to let the load decide, "
                "or remove spec.autoscaling (or set its mode to Advisory) to fix the number",
                fieldPath=".replicas",
            ),
            rule(
                """!has(self.autoscaling) || !has(self.autoscaling.budget)
                    || !has(self.autoscaling.budget.maxCostPerHour)
                    || has(self.autoscaling.budget.replicaCostPerHour)
                    || (has(self.accelerator)
                    && (has(self.accelerator.profile) || has(self.accelerator.costPerHour)))""",
                _PRICE_NEEDED,
                fieldPath=".autoscaling.budget",
            ),
            rule(f"!({_COUNTS_GPUS}) || !({_ON_CPU})", _GPUS_NEEDED, fieldPath=".autoscaling.budget.maxGPUs"),
            rule(
                f"""!({_COUNTS_GPUS}) || ({_ON_CPU}) || self.autoscaling.budget.maxGPUs >= self.autoscaling.minReplicas
                    * (has(self.accelerator.count) ? self.accelerator.count : 1) * self.accelerator.nodes""",
                _GPUS_OF_THE_FEWEST,
                fieldPath=".autoscaling.budget.maxGPUs",
            ),
            rule(
                f"""!({_ON_CPU}) || !has(self.runtime.kvCache) || !has(self.runtime.kvCache.size)
                    || !has(self.runtime.resources)
                    || !has(self.runtime.resources.limits) || !has(self.runtime.resources.limits.memory)
                    || !isQuantity(string(self.runtime.kvCache.size))
                    || !isQuantity(string(self.runtime.resources.limits.memory))
                    || quantity(string(self.runtime.kvCache.size))
                    .isLessThan(quantity(string(self.runtime.resources.limits.memory)))""",
                _CACHE_FITS,
                fieldPath=".runtime.kvCache.size",
            ),
            rule(
                """!has(self.networking) || !has(self.networking.inferencePool) || !has(self.autoscaling)
                    || !has(self.autoscaling.scaleToZero)""",
                _NOBODY_WAKES,
                fieldPath=".networking.inferencePool",
            ),
            rule(
                f"""({_ON_CPU}) || !has(self.runtime.args) || !self.runtime.args.exists(arg,
                    arg == '{_TENSOR_PARALLEL}' || arg.startsWith('{_TENSOR_PARALLEL}='))""",
                _COUNTED,
                fieldPath=".runtime.args",
            ),
        )
    )

    checks: ClassVar = (
        (_has_a_price, _PRICE_NEEDED),
        (_has_gpus_to_count, _GPUS_NEEDED),
        (_gpus_suffice, _GPUS_OF_THE_FEWEST),
        (_cache_fits, _CACHE_FITS),
        (_is_divided_once, _COUNTED),
        (_somebody_wakes, _NOBODY_WAKES),
    )

    model: Model = Field(description="Which model is served, and under what name.")
    runtime: Runtime = Field(default=Runtime(), description="The container that serves the model.")
    accelerator: Accelerator | None = Field(
        default=None, description="What a replica computes on, and on which nodes. Default: the CPU of any node."
    )
    replicas: int | None = Field(
        default=None,
        ge=0,
        le=1000,
        description="Fixed number of replicas, also set by kubectl scale. Excludes active autoscaling. Default: 1.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None,
        description="Let the load decide the number of replicas. In mode Active it excludes replicas. Default: off.",
    )
    rollout: Rollout = Field(default=Rollout(), description="How old replicas make way for new ones.")
    drain: Drain = Field(default=Drain(), description="How a replica ends.")
    networking: Networking = Field(default=Networking(), description="Who reaches the replicas.")
    monitoring: Monitoring = Field(default=Monitoring(), description="Who scrapes the replicas.")
    disruption: Disruption = Field(default=Disruption(), description="What a node drain may do to the replicas.")
    pod_template: Annotated[dict[str, Any], AfterValidator(check_patch)] | None = Field(
        default=None,
        description="What the pods should have beyond the fields of this API: a patch of their template "
        "(metadata.labels, metadata.annotations, spec), merged as Kubernetes merges a pod's; the replica's container "
        'is named runtime. What the operator owns is refused. Example: {"spec": {"priorityClassName": "online"}}.',
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
    )
    paused: bool = Field(
        default=False,
        description="true: the operator leaves the children as they are and scales nothing; it only reports. "
        "Default: false.",
    )

    @property
    def nodes(self) -> int:
        """Nodes of one replica; with several it is a group of pods."""
        return self.accelerator.nodes if self.accelerator else 1

    @property
    def gpus(self) -> int:
        """GPUs of one replica, on all of its nodes; 0 on a CPU."""
        return self.accelerator.gpus if self.accelerator else 0

    @property
    def affordable(self) -> int | None:
        """Replicas that the budget allows for, once their price is known (profiles.py); None without a budget."""
        budget = self.autoscaling.budget if self.autoscaling else None
        return budget.replicas(self.gpus) if budget else None

    @model_validator(mode="after")
    def _one_scaler(self) -> Self:
        if self.replicas is not None and self.autoscaling is not None and self.autoscaling.mode == "Active":
            raise ValueError("replicas and autoscaling exclude each other")
        return self


def parse_spec(raw: object) -> ModelServerSpec:
    """The spec of a raw ModelServer. SpecError names the first field that does not fit."""
    try:
        return ModelServerSpec.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A name that is wrong explains one that is missing.
        first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
        path = ".".join(["spec", *(str(part) for part in first["loc"])])
        raise SpecError(path, _said(first)) from error


def _said(error: ErrorDetails) -> str:
    """In the words of this API, where pydantic speaks of its own."""
    kind, message = error["type"], error["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return "must be set"
    if kind == "extra_forbidden":
        message = f"is no field of {API_VERSION} as this version of the operator knows it: remove it"
    elif kind in ("model_type", "dict_type"):
        message = "must be an object"
    return f"{message} (got {_short(error['input'])})"


def _short(value: object) -> str:
    """Its beginning: one may be thousands of levels deep."""
    brief = Repr()
    brief.maxlevel, brief.maxstring, brief.maxother = 3, 80, 80
    text = brief.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
