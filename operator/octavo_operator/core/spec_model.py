"""The parts of a spec that say what is served and on what: model and accelerator."""

from typing import Annotated, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from octavo_operator.core.schema import Price, SpecModel, rule, rules, written
from octavo_operator.core.spec_source import Cache, ModelSource

_IDLE_CACHE = "cache does nothing for source.pvc and source.oci, which are read where they are: remove cache"

_SERVED_NAME: Final = r"^[A-Za-z0-9]([-A-Za-z0-9._/:]*[A-Za-z0-9])?$"
_WRITE_SERVED_NAME: Final = (
    "use only letters, digits and -._/: with a letter or digit at both ends, such as org/model-1"
)


class Model(SpecModel):
    """Which model is served, and under what name."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("!has(self.cache) || !(has(self.source.pvc) || has(self.source.oci))", _IDLE_CACHE, fieldPath=".cache")
        )
    )

    checks: ClassVar = ((lambda self: self.cache is None or self.source.is_fetched, _IDLE_CACHE),)

    source: ModelSource = Field(description="Where the model's files are. Exactly one member must be set.")
    cache: Cache | None = Field(
        default=None,
        description="Where fetched files are kept. Default: on the node's disk, without a limit, while the pod is "
        "there.",
    )
    served_name: Annotated[str, *written(_SERVED_NAME, _WRITE_SERVED_NAME)] | None = Field(
        default=None,
        max_length=253,
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


_SOME_HARDWARE: Final = "set profile, count or both"
_NO_PROFILE_FOR_CPU: Final = "profile is a kind of GPU, and count is 0: set count to at least 1 or remove profile"
_NO_PRICE_FOR_CPU: Final = "costPerHour is the price of a GPU, and count is 0: remove costPerHour"
_NO_NODES_FOR_CPU: Final = (
    "nodes divides GPUs over several nodes, and count is 0: set count to at least 1 or remove nodes"
)


class Accelerator(SpecModel):
    """What a replica computes on, and on which nodes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.profile) || has(self.count)", _SOME_HARDWARE),
            rule("!has(self.profile) || !has(self.count) || self.count > 0", _NO_PROFILE_FOR_CPU, fieldPath=".profile"),
            rule(
                "!has(self.costPerHour) || !has(self.count) || self.count > 0",
                _NO_PRICE_FOR_CPU,
                fieldPath=".costPerHour",
            ),
            rule("!has(self.count) || self.count > 0 || self.nodes == 1", _NO_NODES_FOR_CPU, fieldPath=".nodes"),
        )
    )

    checks: ClassVar = (
        (lambda self: self.profile is not None or self.count is not None, _SOME_HARDWARE),
        (lambda self: self.profile is None or self.count != 0, _NO_PROFILE_FOR_CPU),
        (lambda self: self.cost_per_hour is None or self.count != 0, _NO_PRICE_FOR_CPU),
        (lambda self: self.count != 0 or self.nodes == 1, _NO_NODES_FOR_CPU),
    )

    profile: str | None = Field(
        default=None,
        max_length=63,
        pattern=r"^[A-Za-z0-9]([-A-Za-z0-9._]*[A-Za-z0-9])?$",
        description="Kind of GPU, which chooses the nodes: L40S, A100-40, A100-80, H100, H200, B200, or one that the "
        "installation adds. Default: none, so any GPU will do.",
    )
    count: int | None = Field(
        default=None,
        ge=0,
        le=8,
        description="GPUs of one replica on each of its nodes; with several, each layer is divided over them. 0: CPU, "
        "on the nodes that are chosen here. Default with a profile: 1.",
    )
    nodes: int = Field(
        default=1,
        ge=1,
        le=8,
        description="Nodes of one replica, each with count GPUs; each layer is divided over all of them. More than 1 "
        "needs LeaderWorkerSet (leaderworkerset.x-k8s.io/v1) in the cluster, and a model that all nodes can reach. "
        "Default: 1.",
    )
    cost_per_hour: Price | None = Field(
        default=None,
        description="Price of one GPU for an hour, for autoscaling.budget. Default: the profile's. Example: '2.5'.",
    )
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(
        default_factory=dict,
        max_length=32,
        description="Labels that a node must have. Default: the profile's. "
        "Example: nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3.",
    )
    tolerations: tuple[Toleration, ...] = Field(
        default=(),
        max_length=32,
        description="Taints that a replica tolerates. Default: the profile's.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )

    @property
    def gpus_on_a_node(self) -> int:
        """GPUs of one of a replica's pods."""
        return 1 if self.count is None else self.count

    @property
    def gpus(self) -> int:
        """GPUs of one replica, on all of its nodes."""
        return self.gpus_on_a_node * self.nodes
