"""Whether something else scales the Deployment: an HPA that targets it and not the ModelServer, a script, a person.

Each time the number is put back at once; a tug of war looks like an operator that does not follow the load, so it is
said. Once is a hand, three times within ten minutes is a controller: an HPA writes every 15 s.
"""

from dataclasses import dataclass
from typing import Final

from octavo_operator.core.plan import Plan

WINDOW_SECONDS: Final = 600.0
FEWEST: Final = 3
_REPLICAS: Final = "spec.replicas"


@dataclass(frozen=True, slots=True)
class Contest:
    """When the Deployment's number of replicas was changed by others, and to what last."""

    times: tuple[float, ...] = ()
    last: int = 0

    @property
    def goes_on(self) -> bool:
        """Whether it happens again and again."""
        return len(self.times) >= FEWEST


NO_CONTEST: Final = Contest()


def follow(contest: Contest, plan: Plan, observed: int, now: float) -> Contest:
    """The contest after a look that found `observed` replicas and made that plan."""
    times = tuple(time for time in contest.times if now - WINDOW_SECONDS < time <= now)
    changed = any(step.manifest["kind"] == "Deployment" and _REPLICAS in step.drift for step in plan.steps)
    return Contest((*times, now), observed) if changed else Contest(times, contest.last)
