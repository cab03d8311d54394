"""The spec of a ModelServer: the single source of the CRD, and what the operator works with after admission.

`parse_spec` turns the raw object into frozen values once; nothing deeper reads a raw spec. Defaults and bounds live here
only. Rules across fields stand twice, as CEL for the API server and as validators for objects that are older than the CRD.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from octavo_operator.core.errors import SpecError
from octavo_operator.core.schema import Cpu, Memory, Seconds, SpecModel, duration, rule, rules

_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_KEY = r"^[-._a-zA-Z0-9]+$"


class PvcSource(SpecModel):
    """A folder or GGUF file on a PersistentVolumeClaim in the ModelServer's namespace, mounted read-only."""

    claim_name: str = Field(
        max_length=253,
        pattern=_SUBDOMAIN,
        description="Name of the PersistentVolumeClaim. It must be mountable by all replicas at once.",
    )
    path: str = Field(
        default=".",
        min_length=1,
        max_length=1024,
        description="Folder (safetensors, config.json, tokenizer) or .gguf file inside the volume, relative to its root. "
        "Default: the root itself. Example: SmolLM2-135M-Instruct.",
        json_schema_extra=rules(
            rule("!self.startsWith('/')", "must be relative to the root of the volume: leave the leading / away"),
            rule("!self.split('/').exists(part, part == '..')", "must not contain '..': the path stays in the volume"),
        ),
    )


class ModelSource(SpecModel):
    """Where the model's files are; exactly one member is set."""

    model_config = ConfigDict(json_schema_extra=rules(rule("has(self.pvc)", "set exactly one source: pvc")))

    pvc: PvcSource | None = Field(default=None, description="Read the model from a PersistentVolumeClaim.")


class Model(SpecModel):
    """Which model is served, and under what name."""

    source: ModelSource = Field(description="Where the model's files are. Exactly one member must be set.")
    served_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._/:]*[A-Za-z0-9])?$",
        description='Name that clients put into "model" of a request. Default: the name of the ModelServer.',
    )
    max_model_len: int | None = Field(
        default=None,
        ge=1,
        le=10_000_000,
        description="Longest sequence (prompt and answer) in tokens. Default: what the model's configuration says.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="Number format of weights and activations. auto: float32 on CPU, the model's own on GPU.",
    )


class KvCache(SpecModel):
    """Memory for the paged KV cache."""

    size: Memory = Field(
        description="Bytes that a replica reserves for its KV cache, as a quantity. More room means more concurrent "
        "sequences. Must be less than runtime.resources.limits.memory. Example: 256Mi.",
    )


class ResourceQuantities(SpecModel):
    """CPU and memory of one replica."""

    cpu: Cpu | None = Field(default=None, description="CPU cores, as a quantity. Example: 2 or 500m.")
    memory: Memory | None = Field(default=None, description="Bytes of memory, as a quantity. Example: 4Gi.")


class Resources(SpecModel):
    """CPU and memory of one replica, as in a container of core/v1. GPUs are asked for in spec.accelerator."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            *(
                rule(
                    f"!has(self.requests) || !has(self.limits) || !has(self.requests.{name}) || !has(self.limits.{name}) "
                    f"|| !isQuantity(string(self.requests.{name})) || !isQuantity(string(self.limits.{name})) "
                    f"|| quantity(string(self.requests.{name})).compareTo(quantity(string(self.limits.{name}))) <= 0",
                    f"requests.{name} must not be greater than limits.{name}",
                    fieldPath=f".requests.{name}",
                )
                for name in ("cpu", "memory")
            )
        )
    )

    requests: ResourceQuantities | None = Field(default=None, description="What the scheduler sets aside for a replica.")
    limits: ResourceQuantities | None = Field(
        default=None, description="What a replica may use at most. The runtime sizes its threads by limits.cpu."
    )


class KeySelector(SpecModel):
    """One key of a Secret or ConfigMap in the ModelServer's namespace."""

    name: str = Field(max_length=253, pattern=_SUBDOMAIN, description="Name of the Secret or ConfigMap.")
    key: str = Field(max_length=253, pattern=_KEY, description="Key inside it.")
    optional: bool | None = Field(
        default=None, description="Whether a replica starts without the variable when the key is missing. Default: false."
    )


class FieldSelector(SpecModel):
    """A field of the pod itself."""

    field_path: str = Field(
        min_length=1, max_length=253, description="Path of the field in the pod. Example: status.podIP or spec.nodeName."
    )
    api_version: str | None = Field(default=None, max_length=32, description="Version of the path's schema. Default: v1.")


class EnvSource(SpecModel):
    """Where the value of an environment variable comes from; exactly one member is set."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "(has(self.secretKeyRef) ? 1 : 0) + (has(self.configMapKeyRef) ? 1 : 0) + (has(self.fieldRef) ? 1 : 0) == 1",
                "set exactly one of secretKeyRef, configMapKeyRef and fieldRef",
            )
        )
    )

    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")
    field_ref: FieldSelector | None = Field(default=None, description="A field of the pod.")


class EnvVar(SpecModel):
    """One environment variable of the runtime's container: a name with a value or a valueFrom."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.value) != has(self.valueFrom)", "set exactly one of value and valueFrom"),
            rule("self.name != 'HOME'", "HOME is set by the operator to /tmp, the only writable folder"),
        )
    )

    name: str = Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable.")
    value: str | None = Field(default=None, max_length=32768, description="Its value.")
    value_from: EnvSource | None = Field(default=None, description="Where its value comes from.")


_FLAGS_WITH_A_FIELD = {
    "--served-model-name": "spec.model.servedName",
    "--max-model-len": "spec.model.maxModelLen",
    "--dtype": "spec.model.dtype",
    "--max-num-seqs": "spec.runtime.maxNumSeqs",
    "--max-num-batched-tokens": "spec.runtime.maxBatchedTokens",
    "--kv-cache-memory": "spec.runtime.kvCache.size",
    "--drain-timeout": "spec.drain.timeout",
}
_FLAGS_OF_THE_OPERATOR = ("--port", "--drain-delay")


def _args_rules() -> dict[str, Any]:
    def refuse(flag: str, message: str) -> dict[str, str]:
        return rule(f"!self.exists(arg, arg == '{flag}' || arg.startsWith('{flag}='))", message)

    return rules(
        rule("size(self) == 0 || self[0].startsWith('-')", "must begin with a flag; the model comes from spec.model.source"),
        *(refuse(flag, f"set {field} instead of {flag}") for flag, field in _FLAGS_WITH_A_FIELD.items()),
        *(refuse(flag, f"{flag} belongs to the operator: leave it away") for flag in _FLAGS_OF_THE_OPERATOR),
    )


class Runtime(SpecModel):
    """The container that serves the model."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.maxNumSeqs) || !has(self.maxBatchedTokens) || self.maxBatchedTokens >= self.maxNumSeqs",
                "maxBatchedTokens must be at least maxNumSeqs: every running sequence takes a token in each step",
                fieldPath=".maxBatchedTokens",
            ),
            rule(
                "!has(self.kvCache) || !has(self.resources) || !has(self.resources.limits) "
                "|| !has(self.resources.limits.memory) || !isQuantity(string(self.kvCache.size)) "
                "|| !isQuantity(string(self.resources.limits.memory)) "
                "|| quantity(string(self.kvCache.size)).isLessThan(quantity(string(self.resources.limits.memory)))",
                "kvCache.size must be less than resources.limits.memory, which also holds the weights",
                fieldPath=".kvCache.size",
            ),
        )
    )

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        pattern=r"^\S+$",
        description="Image of the runtime. Default: the one that the operator was installed with.",
    )
    args: tuple[Annotated[str, Field(max_length=1024)], ...] = Field(
        default=(),
        max_length=64,
        description='More arguments for "octavo serve". What a field of the spec sets is refused here. '
        'Example: ["--block-size", "32"].',
        json_schema_extra={"x-kubernetes-list-type": "atomic", **_args_rules()},
    )
    env: tuple[EnvVar, ...] = Field(
        default=(),
        max_length=64,
        description="More environment variables of the container; names are unique.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    max_num_seqs: int | None = Field(
        default=None,
        ge=1,
        le=65536,
        description="Most sequences that a replica runs at once; more wait in its queue. Default: the runtime's own.",
    )
    max_batched_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_048_576,
        description="Token budget of one step, prefill and decode together. Default: the runtime's own.",
    )
    kv_cache: KvCache | None = Field(
        default=None, description="Memory for the KV cache. Default: the runtime takes a share of what is free."
    )
    resources: Resources | None = Field(default=None, description="CPU and memory of one replica. Default: none asked for.")


class Toleration(SpecModel):
    """One toleration of core/v1."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
                "operator Exists takes no value: remove value or set operator to Equal",
            ),
            rule(
                "(has(self.key) && self.key != '') || (has(self.operator) && self.operator == 'Exists')",
                "an empty key tolerates every taint: set operator to Exists, or set key",
            ),
            rule(
                "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
                "tolerationSeconds needs effect NoExecute",
            ),
        )
    )

    key: str | None = Field(default=None, max_length=317, description="Taint key. Example: nvidia.com/gpu.")
    operator: Literal["Equal", "Exists"] | None = Field(
        default=None, description="Equal compares the value, Exists takes any. Default: Equal."
    )
    value: str | None = Field(default=None, max_length=63, description="Taint value, for operator Equal.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="Taint effect. Default: all."
    )
    toleration_seconds: int | None = Field(
        default=None, ge=0, le=31_536_000, description="Seconds that a NoExecute taint is tolerated. Default: for ever."
    )


class Accelerator(SpecModel):
    """What a replica computes on, and on which nodes."""

    count: int = Field(
        ge=0,
        le=1,
        description="GPUs of one replica (nvidia.com/gpu): 1, or 0 for CPU on the nodes that are chosen here.",
    )
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict,
        max_length=32,
        description="Labels that a node must have. Example: nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(),
        max_length=32,
        description="Taints that a replica tolerates.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )


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
        description="Replicas are removed only down to the most that was needed at any moment of this time, one at a time. "
        "Default: 5m.",
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


class Drain(SpecModel):
    """How a replica ends."""

    timeout: Annotated[Seconds, duration("1s", "1h")] = Field(
        default="120s",
        validate_default=True,
        description="Time that running answers get to finish when a replica is removed or replaced; what is left then is "
        "ended with an error. Default: 120s.",
    )


class ModelServerSpec(SpecModel):
    """What should be served, on what, and with how many replicas."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!(has(self.replicas) && has(self.autoscaling))",
                "replicas and autoscaling exclude each other: remove spec.replicas to let the load decide, "
                "or remove spec.autoscaling to fix the number",
                fieldPath=".replicas",
            )
        )
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
        description="Fixed number of replicas, also set by kubectl scale. Excludes autoscaling. Default: 1.",
    )
    autoscaling: Autoscaling | None = Field(
        default=None, description="Let the load decide the number of replicas. Excludes replicas. Default: off."
    )
    drain: Drain = Field(default=Drain(), description="How a replica ends.")
    paused: bool = Field(
        default=False,
        description="true: the operator leaves the children as they are and scales nothing; it only reports. Default: false.",
    )

    @model_validator(mode="after")
    def _one_scaler(self) -> Self:
        if self.replicas is not None and self.autoscaling is not None:
            raise ValueError("replicas and autoscaling exclude each other")
        if self.model.source.pvc is None:
            raise ValueError("model.source has no member that this operator knows: set pvc")
        return self


def parse_spec(raw: object) -> ModelServerSpec:
    """The spec of a raw ModelServer. SpecError names the first field that does not fit."""
    try:
        return ModelServerSpec.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(["spec", *(str(part) for part in first["loc"])])
        message = first["msg"].removeprefix("Value error, ")
        raise SpecError(path, f"{message} (got {_short(first['input'])})") from error


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
