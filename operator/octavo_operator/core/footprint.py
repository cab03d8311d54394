"""What a pod asks of its node: read from its spec, and the part of the spec that is kept for that."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from octavo_operator.core.units import parse_quantity

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a pod asks of its node: labels and affinity, and the amounts of each container that runs with the others."""

    place: tuple[Raw, Raw] = ({}, {})
    requests: tuple[Raw, ...] = ()

    @property
    def resources(self) -> frozenset[str]:
        """The names of what it asks for."""
        return frozenset(name for amounts in self.requests for name in amounts)

    def amount(self, resource: str) -> Fraction:
        """How much of it, all containers together."""
        return sum((parse_quantity(amounts.get(resource, "0")) for amounts in self.requests), Fraction(0))

    def covers(self, other: "Footprint", resources: Iterable[str]) -> bool:
        """Whether the other one fits where this one is, as far as these resources are concerned."""
        return self.place == other.place and all(self.amount(name) >= other.amount(name) for name in resources)


NO_FOOTPRINT: Final = Footprint()


def footprint_of(spec: Raw) -> Footprint:
    """The footprint of a pod with that spec."""
    beside = [item for item in spec.get("initContainers", ()) if item.get("restartPolicy") == "Always"]
    requests = tuple(item.get("resources", {}).get("requests", {}) for item in (*spec.get("containers", ()), *beside))
    return Footprint((spec.get("nodeSelector", {}), spec.get("affinity", {}).get("nodeAffinity", {})), requests)


def part_of(spec: Raw) -> dict[str, Any]:
    """The part of a pod's spec that its footprint is read from, and its node: a few of the hundred lines of it."""

    def amounts(container: Raw) -> dict[str, Any]:
        return {key: container[key] for key in ("name", "resources", "restartPolicy") if key in container}

    lists = {key: [amounts(item) for item in spec[key]] for key in ("containers", "initContainers") if key in spec}
    return {key: spec[key] for key in ("nodeSelector", "affinity", "nodeName") if key in spec} | lists
