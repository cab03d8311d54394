"""What the children are rendered from, and the plan that leads to them.

Most looks find that nothing is to be done. What was wanted then, and how the children were, is remembered: while both
are the same nothing is rendered or compared, which was two thirds of what a look cost. A child's status counts for
nothing there: that of a Deployment changes four times for each pod that is replaced.
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
_OURS: Final = ("uid", "labels", "annotations", "ownerReferences", "deletionTimestamp")


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


State = tuple[tuple[str, Any], ...]
"""Children by slot, each with what a plan looks at."""

Settled = tuple[Wanted, State]
"""What was wanted, and the children, when nothing was to be done."""


def plan_for(wanted: Wanted, children: Mapping[str, Raw], settled: Settled | None) -> tuple[Plan, Settled | None]:
    """The plan, and what is settled by it."""
    state = tuple((place, _state(raw["metadata"])) for place, raw in children.items())
    if settled == (wanted, state):
        return Plan(), settled
    without = (ACTIVATOR,) if sleeps(wanted.spec) and not wanted.upstream else ()
    plan = make_plan(wanted.manifests(), _as_manifests(children, without))
    return plan, (wanted, state) if plan == Plan() else None


def _state(metadata: Raw) -> tuple[Any, ...]:
    """The generation counts changes of the spec alone, and nothing else that is ours; some kinds have none."""
    version = metadata.get("generation") or metadata.get("resourceVersion")
    return version, *(metadata.get(field) for field in _OURS)


def _as_manifests(children: Mapping[str, Raw], without: tuple[str, ...]) -> dict[str, Manifest]:
    """An activator whose Service is missing for a moment is not unwanted."""
    return {place: dict(raw) for place, raw in children.items() if place not in without}
