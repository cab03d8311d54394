"""What the children are rendered from, and the plan that leads to them.

Most looks find that nothing is to be done. What was wanted then, and the versions of the children, are remembered:
while both are the same nothing is rendered or compared, which was two thirds of what a look cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from octavo_operator.core import names
from octavo_operator.core.manifest import Defaults, Manifest, Owner
from octavo_operator.core.plan import Plan, make_plan
from octavo_operator.core.render import render
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.zero import sleeps

Raw = Mapping[str, Any]

ACTIVATOR: Final = f"Deployment{names.OF_ACTIVATOR}"
"""The slot of the activator's Deployment."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """All that the children are rendered from."""

    spec: ModelServerSpec
    owner: Owner
    replicas: int
    defaults: Defaults
    in_place: bool
    to_activator: bool
    upstream: str | None

    def manifests(self) -> tuple[Manifest, ...]:
        """The children."""
        return render(
            self.spec,
            self.owner,
            self.replicas,
            self.defaults,
            in_place=self.in_place,
            to_activator=self.to_activator,
            upstream=self.upstream,
        )


Versions = frozenset[tuple[str, str]]
"""Children by slot and resource version."""

Settled = tuple[Wanted, Versions]
"""What was wanted, and the children, when nothing was to be done."""


def plan_for(wanted: Wanted, children: Mapping[str, Raw], settled: Settled | None) -> tuple[Plan, Settled | None]:
    """The plan, and what is settled by it."""
    versions = frozenset((place, raw["metadata"].get("resourceVersion", "")) for place, raw in children.items())
    if settled == (wanted, versions):
        return Plan(), settled
    without = (ACTIVATOR,) if sleeps(wanted.spec) and not wanted.upstream else ()
    plan = make_plan(wanted.manifests(), _as_manifests(children, without))
    return plan, (wanted, versions) if plan == Plan() else None


def _as_manifests(children: Mapping[str, Raw], without: tuple[str, ...]) -> dict[str, Manifest]:
    """An activator whose Service is missing for a moment is not unwanted."""
    return {place: dict(raw) for place, raw in children.items() if place not in without}
