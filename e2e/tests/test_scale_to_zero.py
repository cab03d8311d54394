"""From no replica to a first token for streams that are held meanwhile, and back to none; nobody sees an error."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Self

from kit import figures
from kit.kube import wait_until
from kit.load import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from kit.kube import Kube
    from kit.target import Target

NAME = "rare"
SCALING = {
    "minReplicas": 1,
    "maxReplicas": 1,
    "targets": {"kvUtilizationPercent": 70},
    "scaleToZero": {"idleAfter": "15s", "holdTimeout": "4m"},
}
GOAL_SECONDS = 2.0


def is_asleep(kube: Kube, namespace: str) -> bool:
    view = kube.modelserver(NAME, namespace)
    return view is not None and view.condition("Ready")["reason"] == "ScaledToZero" and not kube.pods(NAME, namespace)


class FirstPod:
    """When the first pod was created and when it was ready, by our own clock: the API has whole seconds."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube, self._namespace = kube, namespace
        self.created = self.ready = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="first pod", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)

    def _look(self) -> None:
        while not self._stop.wait(0.05) and not self.ready:
            pods = self._kube.pods(NAME, self._namespace)
            if pods and not self.created:
                self.created = time.monotonic()
            conditions = [item for pod in pods for item in pod.status.conditions or ()]
            if any(item.type == "Ready" and item.status == "True" for item in conditions):
                self.ready = time.monotonic()


def test_held_streams_wake_a_replica_and_it_sleeps_again(
    where: Target, kube: Kube, namespace: str, make: Callable[..., dict[str, Any]]
) -> None:
    kube.apply(make(NAME, namespace, replicas=None, autoscaling=SCALING))
    wait_until("Ready", lambda: (view := kube.modelserver(NAME, namespace)) and view.ready, seconds=180)
    wait_until("no replica", lambda: is_asleep(kube, namespace), seconds=300)
    with FirstPod(kube, namespace) as pod, Load(where.url(NAME, namespace), "smollm2", users=3, max_tokens=16) as load:
        wait_until("a first token", lambda: load.tally.first_piece_seconds, seconds=240, every=0.05)
        wait_until("the pod's times", lambda: pod.ready, seconds=180)
        wait_until("answers past the activator", lambda: load.tally.finished >= 12, seconds=240)
    load.tally.assert_whole()
    start, first = pod.ready - pod.created, load.tally.first_piece_seconds[0]
    print(f"first token after {first:.2f} s, of which {start:.2f} s were the pod's start")
    figures.record(
        "from zero to the first token of a held request, without the pod's start",
        goal=f"{GOAL_SECONDS:g} s",
        value=f"{first - start:.2f} s ({first:.2f} s, pod {start:.2f} s)",
    )
    wait_until("no replica again", lambda: is_asleep(kube, namespace), seconds=300)
