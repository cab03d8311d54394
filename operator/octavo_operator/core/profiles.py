"""Accelerator profiles: what a name such as H100 in `accelerator.profile` stands for, and what users add to it.

    what            where the spec says it itself, that counts         what a profile gives otherwise
    ────            ──────────────────────────────────────────         ──────────────────────────────
    nodes           accelerator.nodeSelector                           its nodeSelector, and one of its products
    taints          accelerator.tolerations                            its tolerations
    price           budget.replicaCostPerHour, accelerator.costPerHour its costPerHour, for each GPU
    host memory     runtime.resources.*.memory                         its memory, as a request, for each GPU

Products are the values of the label `nvidia.com/gpu.product` that NVIDIA's GPU feature discovery writes. A GPU that is
divided or shared has another value (-MIG-…, -SHARED), so it is never taken for a whole one.

Prices are rounded list prices of AWS, on demand, us-east-1, 2025: an instance with eight GPUs (g6e with one for the
L40S) divided by its GPUs, in $, from memory: check them against what you pay, and override them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import Annotated, Any, Final

import yaml
from pydantic import Field, ValidationError, field_validator

from octavo_operator.core.budget import affordable
from octavo_operator.core.errors import SpecError
from octavo_operator.core.schema import Memory, Price, SpecModel
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.spec_model import Accelerator, Toleration
from octavo_operator.core.units import parse_quantity

PRODUCT_LABEL: Final = "nvidia.com/gpu.product"
_GPU_TAINT: Final = Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
_FIELD: Final = "spec.accelerator.profile"


class ProfileError(SpecError):
    """A profile that nobody described, or nobody described rightly."""


class Profile(SpecModel):
    """One kind of GPU. Amounts and prices are for one of them."""

    resource: str = Field(default="nvidia.com/gpu", pattern=r"^[a-z0-9][-a-z0-9.]*/[A-Za-z0-9][-A-Za-z0-9_.]*$")
    gpu_memory: Memory
    products: tuple[str, ...] = ()
    node_selector: dict[str, Annotated[str, Field(max_length=63)]] = Field(default_factory=dict)
    tolerations: tuple[Toleration, ...] = (_GPU_TAINT,)
    cost_per_hour: Price | None = None
    memory: Memory | None = None

    @field_validator("cost_per_hour", mode="before")
    @classmethod
    def _unquoted(cls, value: object) -> object:
        """A price is a string in the API; in a file of one's own everybody writes 2.5."""
        return str(value) if isinstance(value, float) else value


def _nvidia(gpu_memory: str, cost_per_hour: str, memory: str, *products: str) -> Profile:
    return Profile(
        gpu_memory=gpu_memory,
        cost_per_hour=cost_per_hour,
        memory=memory,
        products=tuple(f"NVIDIA-{product}" for product in products),
    )


# Host memory is a request: what a loading replica needs beside the page cache, and what the smallest common nodes
# have for each of their GPUs.
_BUILT_IN: Final[Mapping[str, Profile]] = {
    "L40S": _nvidia("48Gi", "1.9", "16Gi", "L40S"),
    "A100-40": _nvidia("40Gi", "2.7", "32Gi", "A100-SXM4-40GB", "A100-PCIE-40GB"),
    "A100-80": _nvidia("80Gi", "3.4", "32Gi", "A100-SXM4-80GB", "A100-80GB-PCIe", "A100-SXM-80GB"),
    "H100": _nvidia("80Gi", "6.9", "64Gi", "H100-80GB-HBM3", "H100-PCIe", "H100-NVL"),
    "H200": _nvidia("141Gi", "7.9", "64Gi", "H200", "H200-NVL"),
    "B200": _nvidia("180Gi", "14.2", "64Gi", "B200"),
}


@dataclass(frozen=True, slots=True)
class Profiles:
    """All profiles of an installation. `broken` are those that do not parse, with the reason."""

    known: Mapping[str, Profile] = field(default_factory=lambda: _BUILT_IN)
    broken: Mapping[str, str] = field(default_factory=dict)

    def of(self, accelerator: Accelerator | None) -> Profile | None:
        """The profile that a spec names, if it names one. ProfileError with the known ones otherwise.

        A broken entry hides a built-in one of its name: what its author wanted is not what the other one says.
        """
        name = accelerator.profile if accelerator else None
        if name is None:
            return None
        if name in self.broken:
            raise ProfileError(_FIELD, f"{name} is described wrongly: {self.broken[name]}")
        if name not in self.known:
            raise ProfileError(_FIELD, f"{name} is not known; known are {', '.join(sorted(self.known))}")
        return self.known[name]


BUILT_IN: Final = Profiles()


def extended(entries: Mapping[str, Any]) -> Profiles:
    """The built-in profiles with a user's (name -> mapping, or YAML of one) over them; each stands or falls alone."""
    known, broken = dict(_BUILT_IN), dict[str, str]()
    for name, entry in entries.items():
        try:
            known[name] = Profile.model_validate(yaml.safe_load(entry) if isinstance(entry, str) else entry)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "it"
            broken[name] = f"{where}: {first['msg'].removeprefix('Value error, ')}"
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date of month 13, for one
            broken[name] = " ".join(str(error).split())[:200]
    return Profiles({name: profile for name, profile in known.items() if name not in broken}, broken)


def settle(spec: ModelServerSpec, profiles: Profiles) -> ModelServerSpec:
    """The spec with the price of a replica where its budget has none. SpecError where the profile does not fit."""
    profile = profiles.of(spec.accelerator)
    _check_memory(spec, profile)
    budget = spec.autoscaling.budget if spec.autoscaling else None
    most = budget.max_cost_per_hour if budget else None
    if spec.autoscaling is None or budget is None or most is None or budget.replica_cost_per_hour is not None:
        return spec
    price, least = _budgeted(spec, profiles), spec.autoscaling.min_replicas
    if affordable(most, price) < least:
        raise SpecError("spec.autoscaling.budget.maxCostPerHour", _too_little(most, price, least))
    priced = budget.model_copy(update={"replica_cost_per_hour": price})
    return spec.model_copy(update={"autoscaling": spec.autoscaling.model_copy(update={"budget": priced})})


def price_of(spec: ModelServerSpec, profiles: Profiles) -> Fraction | None:
    """Of one replica for an hour: as its budget says, else of its GPUs; None where nobody has said."""
    budget = spec.autoscaling.budget if spec.autoscaling else None
    if budget is not None and budget.replica_cost_per_hour is not None:
        return parse_quantity(budget.replica_cost_per_hour)
    profile, own = profiles.of(spec.accelerator), spec.accelerator.cost_per_hour if spec.accelerator else None
    each = own or (profile.cost_per_hour if profile else None)
    return parse_quantity(each) * spec.gpus if each is not None else None


def _budgeted(spec: ModelServerSpec, profiles: Profiles) -> str:
    """The price in millionths, which every quantity can be written in."""
    price = price_of(spec, profiles)
    if price is None:
        why = f"set it: profile {_named(spec.accelerator)} has no costPerHour"
        raise SpecError("spec.autoscaling.budget.replicaCostPerHour", why)
    return f"{ceil(price * 10**6)}u"


def _too_little(most: str, price: str, replicas: int) -> str:
    return f"{most} does not pay for minReplicas {replicas} at {float(parse_quantity(price)):g} each"


def _check_memory(spec: ModelServerSpec, profile: Profile | None) -> None:
    cache = spec.runtime.kv_cache
    if profile is None or cache is None or cache.size is None:
        return
    if parse_quantity(cache.size) < parse_quantity(profile.gpu_memory):
        return
    fits = f"a {_named(spec.accelerator)} has {profile.gpu_memory}, which also holds the weights"
    raise SpecError("spec.runtime.kvCache.size", f"{cache.size} is too much: {fits}")


def _named(accelerator: Accelerator | None) -> str | None:
    return accelerator.profile if accelerator else None
