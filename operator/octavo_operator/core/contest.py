"""Whether something else scales the Deployment: an HPA that targets it and not the ModelServer, a script, a person.

Each time the number is put back at once; a tug of war looks like an operator that does not follow the load, so it is
said. Once is a hand, three times within ten minutes is a controller: an HPA writes every 15 s.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from octavo_operator.core.plan import Plan

WINDOW_SECONDS: Final = 600.0
FEWEST: Final = 3
_REPLICAS: Final = "spec.replicas"


@dataclass(frozen=True, slots=True)
class Contest:
    """When the Deployment's number of replicas was changed by others, to what last, and by which generation of it."""

    times: tuple[float, ...] = ()
    last: int = 0
    generation: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether it happens again and again."""
        return len(self.times) >= FEWEST


NO_CONTEST: Final = Contest()


def follow(contest: Contest, plan: Plan, deployment: Mapping[str, Any] | None, now: float) -> Contest:
    """The contest after a look that found this Deployment and made that plan.

    A change that could not be put back at once is seen again, under the same generation, and is still one.
    """
    times = tuple(time for time in contest.times if now - WINDOW_SECONDS < time <= now)
    changed = any(step.manifest["kind"] == "Deployment" and _REPLICAS in step.drift for step in plan.steps)
    generation = deployment["metadata"].get("generation", 0) if deployment else 0
    if deployment is None or not changed or generation == contest.generation:
        return replace(contest, times=times)
    return Contest((*times, now), deployment["spec"].get("replicas", 1), generation)
