"""One decision on its way: what it looks at with the candidates of each signal, and the number with its reason."""

from dataclasses import dataclass, replace
from typing import Final

from octavo_operator.core.demand import View

BLIND_SECONDS: Final = 60.0
"""After so long without one usable sample the autoscaler is called inert, not late; an activator likewise."""


@dataclass(frozen=True, slots=True)
class Case:
    """A view with the candidates per signal: `low` with unknown replicas as empty, `high` with them as full."""

    view: View
    low: dict[str, int]
    high: dict[str, int]

    @property
    def current(self) -> int:
        """Replicas wanted until now."""
        return self.view.current

    @property
    def at_least(self) -> int:
        """Replicas needed now if the unknown ones are idle."""
        return max(self.low.values())

    @property
    def at_most(self) -> int:
        """Replicas needed now if the unknown ones are full."""
        return max(self.high.values())

    @property
    def waits(self) -> bool:
        """Whether somebody waits, more than by chance: one at half of the replicas."""
        return self.view.waiting >= self.view.signals.ready / 2

    @property
    def load(self) -> str:
        """The load in words."""
        signals = self.view.signals
        held = f" and {signals.held:.0f} held" if signals.held else ""
        return f"KV {signals.kv_utilization:.0%}, {signals.waiting:.0f} waiting{held} on {signals.ready} ready replicas"

    def keep(self, reason: str, why: str) -> "Wish":
        """The same number as until now, for a reason and in words."""
        return Wish(self.current, reason, f"{why}: {self.current} kept ({self.load})")


@dataclass(frozen=True, slots=True)
class Wish:
    """A number on its way through the stages."""

    replicas: int
    reason: str
    message: str
    limiters: tuple[str, ...] = ()

    def limited(self, replicas: int, by: str, why: str) -> "Wish":
        """Another number, since something allows for no more or no fewer."""
        return replace(self, replicas=replicas, message=f"{self.message}; {why}", limiters=(*self.limiters, by))
