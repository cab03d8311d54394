"""The part of a spec that says where the autoscaler's samples come from: exactly one source, never both."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field

from octavo_operator.core.pace import DIRECT, RESTING, Pace
from octavo_operator.core.schema import Seconds, SpecModel, duration, rule, rules

PROMETHEUS: Final = "Prometheus"
DEFAULT_STALE_SECONDS: Final = 30

_ONLY_PROMETHEUS: Final = "remove it, or set source: Prometheus: direct samples are stale after 10 s"


class MetricsSource(SpecModel):
    """Where the samples of the load come from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"!has(self.staleAfter) || (has(self.source) && self.source == '{PROMETHEUS}')",
                _ONLY_PROMETHEUS,
                fieldPath=".staleAfter",
            )
        )
    )

    source: Literal["Direct", "Prometheus"] = Field(
        default="Direct",
        description="Direct: the operator scrapes the replicas. Prometheus: it asks the Prometheus that the operator's "
        "installation names, and scrapes nothing itself for this ModelServer. Default: Direct.",
    )
    stale_after: Annotated[Seconds, duration("10s", "1m")] | None = Field(
        default=None,
        description="A replica whose last sample in Prometheus is older is unknown. At least twice the interval at "
        "which Prometheus scrapes. Default: 30s. Example: 45s.",
    )

    checks: ClassVar = ((lambda self: self.stale_after is None or self.source == PROMETHEUS, _ONLY_PROMETHEUS),)

    @property
    def pace(self) -> Pace:
        """The windows over which samples of this source are looked at."""
        return pace_of(self.stale_after or DEFAULT_STALE_SECONDS) if self.source == PROMETHEUS else DIRECT


def pace_of(stale_after: float) -> Pace:
    """Windows for samples that come at most half of `stale_after` seconds apart; never shorter than direct ones."""
    return Pace(fresh=stale_after, mean=max(DIRECT.mean, stale_after / 2), rate=max(DIRECT.rate, stale_after))


def direct_pace(raw: Mapping[str, Any]) -> Pace | None:
    """At which pace the operator itself asks the replicas of a raw ModelServer; None where Prometheus does."""
    if not raw.get("spec", {}).get("autoscaling"):
        return RESTING
    return None if metrics_source(raw).source == PROMETHEUS else DIRECT


def wants_queue_time(raw: Mapping[str, Any]) -> bool:
    """Whether a raw ModelServer has a target for the time in the queue, so that its histogram is to be read."""
    scaling = raw.get("spec", {}).get("autoscaling") or {}
    return "queueWait" in (scaling.get("slo") or {})


def metrics_source(raw: Mapping[str, Any]) -> MetricsSource:
    """The source that a raw ModelServer names; the default where that does not parse, for then nothing is decided."""
    scaling = raw.get("spec", {}).get("autoscaling") or {}
    try:
        return MetricsSource.model_validate(scaling.get("metrics") or {})
    except ValueError:
        return MetricsSource()
