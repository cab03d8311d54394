"""How much of a GPU's memory a model's steps leave to the KV cache, kept from one start to the next. Pure.

    free before   ████████████████████████████████  once the weights are loaded
    for the cache ██████████████████████░░░░░░░░░░  ░ what the largest step took, and what libraries kept after it

What the step took follows from the model, the settings and the software, not from the day. So the difference is what
a plan is worth: later starts take it from what is free then. It is trusted where nothing of its key has changed, and
where at least as much is free as was then: with less, somebody else is on the GPU, and it is measured anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig

_SETTINGS: Final = (
    "max_model_len",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "speculative_ngram",
    "attention_backend",
)
MOST_BYTES: Final = 1 << 14  # of a plan's file; what is larger is none


class PlanKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that a step's need of memory follows from."""

    model: str  # a fingerprint of its configuration and weights
    dtype: str
    cache_dtype: str
    device: str  # such as "NVIDIA H100 80GB HBM3"
    device_memory: int  # bytes
    versions: dict[str, str]
    settings: dict[str, int | str | None]


class KvPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: PlanKey
    free_before: int  # bytes
    for_cache: int  # bytes

    @property
    def taken(self) -> int:
        """Bytes that steps need beside the cache."""
        return self.free_before - self.for_cache


@dataclass(frozen=True, slots=True)
class Verdict:
    """`for_cache` in bytes, or why the plan is of no use."""

    for_cache: int | None
    reason: str = ""


def settings_of(config: ServeConfig) -> dict[str, int | str | None]:
    """Those that change what a step needs."""
    return {name: getattr(config, name) for name in _SETTINGS}


def file_name(key: PlanKey) -> str:
    """Each key has a file of its own, so that replicas on different GPUs may share a folder."""
    digest = hashlib.blake2b(msgspec.json.encode(key, order="deterministic"), digest_size=8).hexdigest()
    return f"kv-plan-{digest}.json"


def encode(plan: KvPlan) -> bytes:
    return msgspec.json.format(msgspec.json.encode(plan)) + b"\n"


def judge(text: bytes, key: PlanKey, free: int) -> Verdict:
    """What the plan in `text` is worth to a start with this `key` and so many bytes `free`."""
    try:
        plan = msgspec.json.decode(text, type=KvPlan)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return Verdict(None, f"it is no plan: {error}")
    if not 0 <= plan.for_cache <= plan.free_before:
        return Verdict(None, f"it leaves {plan.for_cache} of {plan.free_before} bytes")
    if plan.key != key:
        return Verdict(None, f"it was made for other {', '.join(_differences(plan.key, key))}")
    if free < plan.free_before:
        return Verdict(None, f"{free >> 20} MiB are free, and {plan.free_before >> 20} were when it was made")
    return Verdict(free - plan.taken)


def _differences(one: PlanKey, other: PlanKey) -> list[str]:
    return [name for name in PlanKey.__struct_fields__ if getattr(one, name) != getattr(other, name)]
