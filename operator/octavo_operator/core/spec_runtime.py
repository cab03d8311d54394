"""The part of a spec that says how the runtime's container is started: image, arguments, environment, memory."""

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field

from octavo_operator.core.schema import SUBDOMAIN, Cpu, Memory, SpecModel, meets, rule, rules
from octavo_operator.core.units import parse_quantity

_KEY: Final = r"^[-._a-zA-Z0-9]+$"


_SOME_CACHE: Final = "set size or memoryPercent, dtype, blockSize or several of them"
_ONE_SIZE: Final = "size and memoryPercent both say how much memory the cache takes: remove one of them"
_BLOCK_SIZES: Final = (16, 32, 64, 128)
_COMPILED: Final = "must be 16, 32, 64 or 128, which the GPU kernels are compiled and checked for"


class KvCache(SpecModel):
    """The paged KV cache."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.size) || has(self.memoryPercent) || has(self.dtype) || has(self.blockSize)", _SOME_CACHE),
            rule("!has(self.size) || !has(self.memoryPercent)", _ONE_SIZE, fieldPath=".memoryPercent"),
        )
    )

    checks: ClassVar = (
        (lambda self: {self.size, self.memory_percent, self.dtype, self.block_size} != {None}, _SOME_CACHE),
        (lambda self: self.size is None or self.memory_percent is None, _ONE_SIZE),
        (lambda self: self.block_size in (None, *_BLOCK_SIZES), _COMPILED),
    )

    size: Memory | None = Field(
        default=None,
        description="Bytes that a replica reserves for its KV cache, as a quantity. More room means more concurrent "
        "sequences. On a CPU it must be less than runtime.resources.limits.memory; on GPUs it is memory of each of "
        "them. Default: memoryPercent decides. Example: 256Mi.",
    )
    memory_percent: int | None = Field(
        default=None,
        ge=1,
        le=95,
        description="The same as a share of the memory that is free once the model is loaded: on each GPU what a "
        "replica's largest step leaves, on a CPU what the node has and runtime.resources.limits.memory allows. "
        "Default: 92 on GPUs, 50 on a CPU. Example: 80.",
    )
    dtype: Literal["auto", "fp8_e4m3", "int8"] | None = Field(
        default=None,
        description="What keys and values are stored as. auto: what the model computes in. fp8_e4m3, int8: one byte a "
        "number, so that more tokens fit, and keys and values are rounded; int8 rounds less, for 2 bytes more a token "
        "and head. A GPU must be an A100 or newer for them. Default: auto.",
    )
    block_size: int | None = Field(
        default=None,
        ge=1,
        description="Tokens per block: 16, 32, 64 or 128. From 64 on an H100 or newer reads prompts faster; what "
        "a sequence leaves of its last block is lost, and the prefix cache finds only whole blocks again. Default: 16.",
        json_schema_extra=rules(rule(f"self in {list(_BLOCK_SIZES)}", _COMPILED)),
    )


class ResourceQuantities(SpecModel):
    """CPU and memory of one replica."""

    cpu: Cpu | None = Field(default=None, description="CPU cores, as a quantity. Example: 2 or 500m.")
    memory: Memory | None = Field(default=None, description="Bytes of memory, as a quantity. Example: 4Gi.")


def _request_within_limit(name: str) -> dict[str, str]:
    request, limit = f"self.requests.{name}", f"self.limits.{name}"
    return rule(
        f"""!has(self.requests) || !has(self.limits) || !has({request}) || !has({limit})
            || !isQuantity(string({request})) || !isQuantity(string({limit}))
            || quantity(string({request})).compareTo(quantity(string({limit}))) <= 0""",
        f"requests.{name} must not be greater than limits.{name}",
        fieldPath=f".requests.{name}",
    )


def _fits(requests: ResourceQuantities | None, limits: ResourceQuantities | None, name: str) -> bool:
    low, high = getattr(requests, name, None), getattr(limits, name, None)
    return low is None or high is None or parse_quantity(low) <= parse_quantity(high)


class Resources(SpecModel):
    """CPU and memory of one replica, on each of its nodes, as in a container of core/v1. GPUs are asked for in
    spec.accelerator.
    """

    model_config = ConfigDict(json_schema_extra=rules(_request_within_limit("cpu"), _request_within_limit("memory")))

    checks: ClassVar = (
        (lambda self: _fits(self.requests, self.limits, "cpu"), "requests.cpu must not be greater than limits.cpu"),
        (
            lambda self: _fits(self.requests, self.limits, "memory"),
            "requests.memory must not be greater than limits.memory",
        ),
    )

    requests: ResourceQuantities | None = Field(
        default=None, description="What the scheduler sets aside for a replica."
    )
    limits: ResourceQuantities | None = Field(
        default=None, description="What a replica may use at most. The runtime sizes its threads by limits.cpu."
    )


class KeySelector(SpecModel):
    """One key of a Secret or ConfigMap in the ModelServer's namespace."""

    name: str = Field(max_length=253, pattern=SUBDOMAIN, description="Name of the Secret or ConfigMap.")
    key: str = Field(max_length=253, pattern=_KEY, description="Key inside it.")
    optional: bool | None = Field(
        default=None,
        description="Whether a replica starts without the variable when the key is missing. Default: false.",
    )


class FieldSelector(SpecModel):
    """A field of the pod itself."""

    field_path: str = Field(
        min_length=1,
        max_length=253,
        description="Path of the field in the pod. Example: status.podIP or spec.nodeName.",
    )
    api_version: str | None = Field(
        default=None, max_length=32, description="Version of the path's schema. Default: v1."
    )


class EnvSource(SpecModel):
    """Where the value of an environment variable comes from; exactly one member is set."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                """(has(self.secretKeyRef) ? 1 : 0) + (has(self.configMapKeyRef) ? 1 : 0)
                    + (has(self.fieldRef) ? 1 : 0) == 1""",
                "set exactly one of secretKeyRef, configMapKeyRef and fieldRef",
            )
        )
    )

    checks: ClassVar = (
        (
            lambda self: [self.secret_key_ref, self.config_map_key_ref, self.field_ref].count(None) == 2,
            "set exactly one of secretKeyRef, configMapKeyRef and fieldRef",
        ),
    )

    secret_key_ref: KeySelector | None = Field(default=None, description="A key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(default=None, description="A key of a ConfigMap.")
    field_ref: FieldSelector | None = Field(default=None, description="A field of the pod.")


VARIABLES_WITH_A_FIELD: Final = {
    "HF_TOKEN": "spec.model.source.hub.tokenSecretRef",
    "HF_ENDPOINT": "spec.model.source.hub.endpoint",
    "AWS_ENDPOINT_URL": "spec.model.source.s3.endpoint",
    "AWS_REGION": "spec.model.source.s3.region",
    "AWS_ACCESS_KEY_ID": "spec.model.source.s3.credentialsSecretRef",
    "AWS_SECRET_ACCESS_KEY": "spec.model.source.s3.credentialsSecretRef",
    "AWS_SESSION_TOKEN": "spec.model.source.s3.credentialsSecretRef",
    "AWS_SKIP_SIGNATURE": "spec.model.source.s3.credentialsSecretRef",
}


def _has_a_field(name: str) -> str:
    return f"set {VARIABLES_WITH_A_FIELD[name]} instead of {name}"


class EnvVar(SpecModel):
    """One environment variable of the runtime's container: a name with a value or a valueFrom."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule("has(self.value) != has(self.valueFrom)", "set exactly one of value and valueFrom"),
            rule("self.name != 'HOME'", "HOME is set by the operator to /tmp, the only writable folder"),
            *(rule(f"self.name != '{name}'", _has_a_field(name)) for name in VARIABLES_WITH_A_FIELD),
        )
    )

    checks: ClassVar = (
        (lambda self: (self.value is None) != (self.value_from is None), "set exactly one of value and valueFrom"),
        (lambda self: self.name != "HOME", "HOME is set by the operator to /tmp, the only writable folder"),
        *((lambda self, name=name: self.name != name, _has_a_field(name)) for name in VARIABLES_WITH_A_FIELD),
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
    "--kv-cache-memory": "spec.runtime.kvCache.size or memoryPercent",
    "--drain-timeout": "spec.drain.timeout",
    "--drain-delay": "spec.drain.preStopDelay",
    "--nodes": "spec.accelerator.nodes",
    "--node-rank": "spec.accelerator.nodes",
    "--leader-address": "spec.accelerator.nodes",
}
_FLAGS_SET_ONCE: Final = {
    "--kv-cache-dtype": ("has(self.kvCache) && has(self.kvCache.dtype)", "kvCache.dtype"),
    "--block-size": ("has(self.kvCache) && has(self.kvCache.blockSize)", "kvCache.blockSize"),
    "--no-prefix-caching": ("has(self.prefixCaching)", "prefixCaching"),
}
"""Flags that were written into args before they had a field: they still may, where the field is not set."""
_FLAGS_OF_THE_OPERATOR = ("--port", "--download-dir", "--group-timeout")


def _args_rules() -> dict[str, Any]:
    def refuse(flag: str, message: str) -> dict[str, str]:
        return rule(f"!self.exists(arg, arg == '{flag}' || arg.startsWith('{flag}='))", message)

    return rules(
        rule(
            "size(self) == 0 || self[0].startsWith('-')",
            "must begin with a flag; the model comes from spec.model.source",
        ),
        *(refuse(flag, f"set {field} instead of {flag}") for flag, field in _FLAGS_WITH_A_FIELD.items()),
        *(refuse(flag, f"{flag} belongs to the operator: leave it away") for flag in _FLAGS_OF_THE_OPERATOR),
    )


def _flag(argument: str) -> str:
    return argument.split("=", 1)[0]


def _check_args(args: tuple[str, ...]) -> tuple[str, ...]:
    if args and not args[0].startswith("-"):
        raise ValueError("must begin with a flag; the model comes from spec.model.source")
    for flag in map(_flag, args):
        if flag in _FLAGS_WITH_A_FIELD:
            raise ValueError(f"set {_FLAGS_WITH_A_FIELD[flag]} instead of {flag}")
        if flag in _FLAGS_OF_THE_OPERATOR:
            raise ValueError(f"{flag} belongs to the operator: leave it away")
    return args


def _twice(flag: str, field: str) -> str:
    return f"{field} sets {flag}: leave it out of args"


def _set_once_rule(flag: str) -> dict[str, str]:
    given, field = _FLAGS_SET_ONCE[flag]
    return rule(
        f"!({given}) || !has(self.args) || !self.args.exists(arg, arg == '{flag}' || arg.startsWith('{flag}='))",
        _twice(flag, field),
        fieldPath=".args",
    )


def _is_set_once(runtime: "Runtime", flag: str) -> bool:
    cache = runtime.kv_cache
    given = {
        "--kv-cache-dtype": cache and cache.dtype,
        "--block-size": cache and cache.block_size,
        "--no-prefix-caching": runtime.prefix_caching,
    }
    return given[flag] is None or flag not in map(_flag, runtime.args)


class Runtime(SpecModel):
    """The container that serves the model."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.maxNumSeqs) || !has(self.maxBatchedTokens) || self.maxBatchedTokens >= self.maxNumSeqs",
                "maxBatchedTokens must be at least maxNumSeqs: every running sequence takes a token in each step",
                fieldPath=".maxBatchedTokens",
            ),
            *map(_set_once_rule, _FLAGS_SET_ONCE),
        )
    )

    checks: ClassVar = (
        (
            lambda self: (self.max_batched_tokens or self.max_num_seqs or 0) >= (self.max_num_seqs or 0),
            "maxBatchedTokens must be at least maxNumSeqs: every running sequence takes a token in each step",
        ),
        *(
            (lambda self, flag=flag: _is_set_once(self, flag), _twice(flag, field))
            for flag, (_, field) in _FLAGS_SET_ONCE.items()
        ),
    )

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        pattern=r"^\S+$",
        description="Image of the runtime. Default: the one that the operator was installed with.",
    )
    args: Annotated[tuple[Annotated[str, Field(max_length=1024)], ...], AfterValidator(_check_args)] = Field(
        default=(),
        max_length=64,
        description='More arguments for "octavo serve". What a field of the spec sets is refused here. '
        'Example: ["--speculative-ngram", "4"].',
        json_schema_extra={"x-kubernetes-list-type": "atomic", **_args_rules()},
    )
    env: Annotated[
        tuple[EnvVar, ...],
        meets((lambda env: len({item.name for item in env}) == len(env), "a name stands twice: keep one of them")),
    ] = Field(
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
        default=None, description="The KV cache. Default: the runtime takes a share of the memory that is free."
    )
    prefix_caching: bool | None = Field(
        default=None,
        description="Whether computed blocks are kept for requests that start alike, such as with the same system "
        "prompt. false: every prompt is computed anew. Default: true.",
    )
    resources: Resources | None = Field(
        default=None, description="CPU and memory of one replica. Default: none asked for."
    )
