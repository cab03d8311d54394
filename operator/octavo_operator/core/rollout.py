"""How old replicas make way for new ones: (strategy, what is observed) -> surge or in place, decided at each look.

    strategy   maxSurge   maxUnavailable
    ────────   ────────   ──────────────
    Surge      1          0                a new replica serves before an old one goes
    InPlace    0          1                an old replica goes before a new one comes
    Auto       1, then 0  0, then 1        surge, until the scheduler finds no room for a new replica where the end of
                                           an old one makes it; then in place until the rollout is over

A budget that allows for no further replica wins over all three. Both ways are one replica at a time, and the
Deployment's controller counts new replicas that do not serve as unavailable: when they crash, it takes no further old
one.

What is asked is the scheduler, by way of the new pod: it knows taints, quotas, topology and fragments of nodes, which a
look at free accelerators would have to guess. That a rollout is in place stands in the Deployment itself, so a restart
of the operator forgets nothing.
"""

import re
from collections.abc import Iterator
from typing import Final

from octavo_operator.core.footprint import Footprint
from octavo_operator.core.observed import DeploymentView, PodView
from octavo_operator.core.spec import ModelServerSpec

OVERDUE_SECONDS: Final = 60.0
"""So long after its time to end a pod is not waited for any more: its node may be dead."""

SETTLE_SECONDS: Final = 15.0
"""So long after a pod has gone the scheduler's last words count for nothing: it may not have looked again yet."""

_LACKING: Final = re.compile(r"Insufficient (\S+?)[.,]*(?:\s|$)")
_CROWDED: Final = "Too many pods"
_QUOTA: Final = "exceeded quota"


def replaces_in_place(
    spec: ModelServerSpec,
    replicas: int,
    deployment: DeploymentView | None,
    pods: tuple[PodView, ...],
    now: float,
    *,
    left: float | None = None,
) -> bool:
    """Whether an old replica goes before a new one comes. `left`: when a pod that ends was seen last."""
    if spec.affordable is not None and replicas >= spec.affordable:
        return True
    if spec.rollout.strategy != "Auto" or deployment is None:
        return spec.rollout.strategy == "InPlace"
    if not is_rolling(deployment, pods):
        return False
    if deployment.in_place:
        return True
    settled = left is None or not 0 <= now - left < SETTLE_SECONDS
    return settled and _an_old_one_makes_room(deployment, pods, now)


def is_rolling(deployment: DeploymentView, pods: tuple[PodView, ...]) -> bool:
    """Whether there are old replicas, or nobody knows yet. One that still drains holds its accelerator."""
    return (
        not deployment.current
        or deployment.replicas > deployment.updated
        or any(pod.revision != deployment.revision for pod in pods)
    )


def _an_old_one_makes_room(deployment: DeploymentView, pods: tuple[PodView, ...], now: float) -> bool:
    """Whether a new replica waits for what an old one has, and none is on its way out that will leave it."""
    wanted = list(_wanted(deployment, pods))
    leaving = [pod for pod in pods if pod.terminating and now < pod.ends_by + OVERDUE_SECONDS]
    old = [pod for pod in pods if pod.revision != deployment.revision and not pod.terminating and not pod.is_homeless]
    return any(
        any(pod.footprint.covers(footprint, lacking) for pod in old)
        and not any(pod.footprint.covers(footprint, lacking) for pod in leaving)
        for footprint, lacking in wanted
    )


def _wanted(deployment: DeploymentView, pods: tuple[PodView, ...]) -> Iterator[tuple[Footprint, frozenset[str]]]:
    """What new replicas ask for and do not get, and of what there is too little."""
    for pod in pods:
        if pod.revision == deployment.revision and not pod.terminating and pod.is_homeless:
            message = pod.problem.message if pod.problem else ""
            lacking = frozenset(_LACKING.findall(message))
            if lacking or _CROWDED in message:
                yield pod.footprint, lacking
    if _QUOTA in (deployment.pods_refused or ""):
        yield deployment.footprint, deployment.footprint.resources
