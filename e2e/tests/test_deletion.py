"""Deleting a ModelServer removes its children, whether the operator runs or not."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from kit import install
from kit.kube import NAME_LABEL, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.kube import Kube


@contextmanager
def operator_running(kube: Kube, wanted: bool) -> Iterator[None]:
    def scale(replicas: int) -> None:
        kube.kubectl("scale", "deploy", "-n", install.SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/name=octavo-operator", f"--replicas={replicas}")
        gone = "--for=delete" if replicas == 0 else "--for=condition=Ready"
        kube.kubectl("wait", "pod", "-n", install.SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/name=octavo-operator", gone, "--timeout=90s")

    if not wanted:
        scale(0)
    try:
        yield
    finally:
        if not wanted:
            scale(1)


def children(kube: Kube, name: str, namespace: str) -> str:
    return kube.kubectl("get", "deploy,rs,svc,pod", "-n", namespace, "-l", f"{NAME_LABEL}={name}", "-o", "name")


@pytest.mark.parametrize("running", [True, False], ids=["operator-running", "operator-stopped"])
def test_children_go_with_their_modelserver(
    running: bool, kube: Kube, namespace: str, make: Callable[..., dict[str, Any]]
) -> None:
    name = f"gone-{str(running).lower()}"
    kube.apply(make(name, namespace))
    wait_until("a pod", lambda: len(kube.pods(name, namespace)) == 1, seconds=60)
    with operator_running(kube, running):
        kube.kubectl("delete", "modelserver", name, "-n", namespace, "--wait=true", "--timeout=20s")
        wait_until("no child left", lambda: not children(kube, name, namespace), seconds=30)
