"""Which replicas go when fewer are wanted: those with the fewest tokens in flight.

    fewer are wanted ─> mark the idlest ─> Deployment ─> its controllers delete the marked ─> SIGTERM: they drain

What deletes pods is the ReplicaSet's controller. It takes those without a node or not ready first, then those with the
lowest deletion cost, then the youngest. So the mark is a cost of -1, on exactly as many as must go beyond those that
are not ready, written before the Deployment's number falls. A mark that is left from before (the number rose again) is
taken back at the next time, before it can count.
"""

from collections.abc import Mapping
from typing import Any, Final

from octavo_operator.core import names
from octavo_operator.core.manifest import Manifest
from octavo_operator.core.observed import PodView
from octavo_operator.core.window import Window

MARK: Final = "-1"


def tokens_in_flight(window: Window | None, now: float) -> float | None:
    """Tokens of a replica's requests, those that wait in its queue too; None without a fresh sample.

    Of the last sample and not the mean of the window: who goes is asked about now.
    """
    if window is None or window.at(now) is None:
        return None
    last = window.samples[-1]
    return last.kv_used + last.waiting_tokens


def choose(pods: tuple[PodView, ...], windows: Mapping[str, Window], excess: int, now: float) -> frozenset[str]:
    """The uids of the ready pods that should go when `excess` pods must.

    A replica without a sample may be the one with too much to do to answer, so it is never chosen: with nothing known
    the choice stays with the controller.
    """
    staying = [pod for pod in pods if not pod.terminating]
    ready = [pod for pod in staying if pod.ready]
    idlest = sorted(
        (tokens, -pod.ready_since, pod.name, pod.uid)
        for pod in ready
        if (tokens := tokens_in_flight(windows.get(pod.uid), now)) is not None
    )
    number = max(0, excess - (len(staying) - len(ready)))
    return frozenset(uid for *_, uid in idlest[:number])


def make_marks(
    namespace: str, pods: tuple[PodView, ...], windows: Mapping[str, Window], excess: int, now: float
) -> tuple[Manifest, ...]:
    """What to apply to pods before `excess` of them go: the mark where it is missing, nothing where it is left over."""
    chosen = choose(pods, windows, excess, now)
    changed = [pod for pod in pods if not pod.terminating and (pod.uid in chosen) != pod.marked]
    return tuple(_marked(namespace, pod, mark=pod.uid in chosen) for pod in changed)


def _marked(namespace: str, pod: PodView, *, mark: bool) -> Manifest:
    """With the uid, so that it never makes a pod or lands on another one; a field that is left out is given up."""
    metadata: dict[str, Any] = {"name": pod.name, "namespace": namespace, "uid": pod.uid}
    annotations = {"annotations": {names.DELETION_COST: MARK}} if mark else {}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata | annotations}
