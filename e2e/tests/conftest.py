"""One cluster for the whole run, one namespace for each test that asks for it."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import pytest

from kit import install, prepare, target

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.kube import Kube
    from kit.target import Images, Target

SPEC = {
    "model": {
        "source": {"pvc": {"claimName": install.CLAIM, "path": "SmolLM2-135M-Instruct.Q4_1.gguf"}},
        "servedName": "smollm2",
        "maxModelLen": 1024,
    },
    "runtime": {
        "maxNumSeqs": 4,
        "kvCache": {"size": "128Mi"},
        "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
    },
    "replicas": 1,
    "drain": {"timeout": "60s"},
}


@pytest.fixture(scope="session")
def where() -> Target:
    return target.bring_up(target.parse_nothing())


@pytest.fixture(scope="session", autouse=True)
def images(where: Target) -> Images:
    """The images of this checkout, and the operator installed from them."""
    built = target.build_images(target.parse_nothing())
    install.install_chart(where.kube, operator_image=built.operator, runtime_image=built.runtime)
    return built


@pytest.fixture(scope="session")
def kube(where: Target) -> Kube:
    return where.kube


@pytest.fixture(scope="module")
def namespace(where: Target, images: Images, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test module's own, with the model on a volume; gone afterwards."""
    name = "e2e-" + re.sub(r"[^a-z0-9]+", "-", request.module.__name__.rsplit(".", 1)[-1].removeprefix("test_"))
    with prepare.demo_namespace(where, images, name):
        yield name


def manifest(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """A small ModelServer; `spec` replaces whole top-level fields, None removes one."""
    merged = {key: value for key, value in (copy.deepcopy(SPEC) | spec).items() if value is not None}
    return {
        "apiVersion": "octavo.dev/v1alpha1",
        "kind": "ModelServer",
        "metadata": {"name": name, "namespace": namespace},
        "spec": merged,
    }


@pytest.fixture(scope="session")
def make() -> Callable[..., dict[str, Any]]:
    """`manifest`, for tests: conftest.py is no module that importlib mode can import."""
    return manifest
