"""The parts of a spec that say what is served and on what: model and accelerator."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from octavo_operator.core.schema import SpecModel, rule, rules
from octavo_operator.core.spec_source import Cache, ModelSource

_IDLE_CACHE = "cache does nothing for source.pvc, which is read where it is: remove cache"


class Model(SpecModel):
    """Which model is served, and under what name."""

    model_config = ConfigDict(
        json_schema_extra=rules(rule("!has(self.cache) || !has(self.source.pvc)", _IDLE_CACHE, fieldPath=".cache"))
    )

    checks: ClassVar = ((lambda self: self.cache is None or self.source.pvc is None, _IDLE_CACHE),)

    source: ModelSource = Field(description="Where the model's files are. Exactly one member must be set.")
    cache: Cache | None = Field(
        default=None,
        description="Where fetched files are kept. Default: on the node's disk, without a limit, while the pod is "
        "there.",
    )
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

    checks: ClassVar = (
        (lambda self: self.operator != "Exists" or not self.value, "operator Exists takes no value"),
        (lambda self: bool(self.key) or self.operator == "Exists", "an empty key needs operator Exists"),
        (
            lambda self: self.toleration_seconds is None or self.effect == "NoExecute",
            "tolerationSeconds needs effect NoExecute",
        ),
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
