"""What scale to zero means for one look: what the activator adds to the signals, and where the Service should lead."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from octavo_operator.core.autoscale import Decision
from octavo_operator.core.held import Held
from octavo_operator.core.observed import DeploymentView
from octavo_operator.core.spec import ModelServerSpec
from octavo_operator.core.window import Signals

Raw = Mapping[str, Any]


def sleeps(spec: ModelServerSpec) -> bool:
    """Whether there may be no replica while nothing is asked."""
    return spec.autoscaling is not None and spec.autoscaling.scale_to_zero is not None


def with_held(signals: Signals, held: Held | None, activator: DeploymentView | None, *, asked: bool) -> Signals:
    """The activator is deaf if it is not there, or is asked and does not answer."""
    deaf = not _serves(activator) or (asked and held is None)
    if held is None or not asked:
        return replace(signals, deaf=deaf)
    return replace(
        signals,
        held=float(held.requests),
        held_tokens=float(held.tokens),
        activated=None if deaf else held.seconds,
        deaf=deaf,
    )


def needs_activator(
    spec: ModelServerSpec,
    desired: int,
    replicas: DeploymentView | None,
    activator: DeploymentView | None,
    decision: Decision | None,
) -> bool:
    """Whether requests should go to the activator now: nobody else is there to take them, or will be in a moment.

    One that is not there itself takes nothing, so what is left of the replicas is the better place.
    """
    if not sleeps(spec) or desired == 0:
        return sleeps(spec)
    idle = decision is not None and decision.inputs is not None and decision.inputs.is_idle
    return _serves(activator) and (idle or not _serves(replicas))


def _serves(deployment: DeploymentView | None) -> bool:
    return deployment is not None and deployment.available > 0


def address(service: Raw | None) -> str | None:
    """A Service's own address, once it has one."""
    found = service.get("spec", {}).get("clusterIP") if service else None
    return str(found) if found and found != "None" else None
