"""Deleting a ModelServer removes its children, whether the operator runs or not."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from kit import install
from kit.kube import NAME_LABEL, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.kube import Kube


OPERATOR = ("-n", install.SYSTEM_NAMESPACE, "-l", "app.kubernetes.io/name=octavo-operator")


@contextmanager
def operator_stopped(kube: Kube) -> Iterator[None]:
    kube.kubectl("scale", "deployment", *OPERATOR, "--replicas=0")
    kube.kubectl("wait", "pod", *OPERATOR, "--for=delete", "--timeout=300s")
    try:
        yield
    finally:
        kube.kubectl("scale", "deployment", *OPERATOR, "--replicas=1")
        kube.kubectl("wait", "deployment", *OPERATOR, "--for=condition=Available", "--timeout=300s")


def children(kube: Kube, name: str, namespace: str) -> str:
    return kube.kubectl("get", "deploy,rs,svc,pod", "-n", namespace, "-l", f"{NAME_LABEL}={name}", "-o", "name")


@pytest.mark.parametrize("running", [True, False], ids=["operator-running", "operator-stopped"])
def test_children_go_with_their_modelserver(
    running: bool, kube: Kube, namespace: str, make: Callable[..., dict[str, Any]]
) -> None:
    name = f"gone-{str(running).lower()}"
    kube.apply(make(name, namespace))
    wait_until("a pod", lambda: len(kube.pods(name, namespace)) == 1, seconds=180)
    with nullcontext() if running else operator_stopped(kube):
        kube.kubectl("delete", "modelserver", name, "-n", namespace, "--wait=true", "--timeout=120s")
        wait_until("no child left", lambda: not children(kube, name, namespace), seconds=180)
