"""What every check on a real node begins with: the node, the product on it, a namespace with a model, and the demo's
ModelServer under another name.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from kit import install, target
from kit.kube import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kit.kube import Kube
    from kit.target import Images, Target

MANIFEST = Path(__file__).parents[1] / "demo" / "modelserver.yaml"


def node() -> tuple[Target, Images]:
    """The local node, brought up where it is not, and this checkout's images on it. Both stay."""
    options = target.parse_nothing()
    return target.bring_up(options), target.build_images(options)


@contextmanager
def namespace(kube: Kube, name: str) -> Iterator[None]:
    """An empty namespace that is removed at the end."""
    kube.kubectl("delete", "namespace", name, "--ignore-not-found")
    install.make_namespace(kube, name)
    try:
        yield
    finally:  # not waited for: a namespace with pods takes half of their grace period to be gone
        kube.kubectl("delete", "namespace", name, "--wait=false")


@contextmanager
def demo_namespace(where: Target, images: Images, name: str) -> Iterator[None]:
    """The same with the demo's model on a volume."""
    with namespace(where.kube, name):
        model, folder = target.demo_model(), where.volumes / name
        install.put_model(where.kube, model, namespace=name, folder=folder, image=images.runtime)
        yield


@contextmanager
def demo_node(name: str) -> Iterator[Target]:
    """The node with the operator and such a namespace."""
    where, images = node()
    install.install_chart(where.kube, operator_image=images.operator, runtime_image=images.runtime)
    with demo_namespace(where, images, name):
        yield where


def demo_server(name: str, namespace: str) -> dict[str, Any]:
    """The demo's ModelServer, called and served as `name`."""
    server: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    server["metadata"] = {"name": name, "namespace": namespace}
    server["spec"]["model"]["servedName"] = name
    return server


def is_ready(kube: Kube, name: str, namespace: str) -> bool:
    """Whether a ModelServer is Ready as it is wanted now."""
    view = kube.modelserver(name, namespace)
    return view is not None and view.ready


def wait_ready(kube: Kube, name: str, namespace: str, *, seconds: float = 300) -> None:
    wait_until(f"{name} to be Ready", lambda: is_ready(kube, name, namespace), seconds=seconds)
