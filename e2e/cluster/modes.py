"""Which cluster: the user's, a kind one, or the node that we run. One shape for all three."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cluster import images as node_images
from cluster import kind, node
from cluster.build import build
from cluster.errors import ClusterError
from cluster.layout import Layout, paths
from cluster.progress import Progress


class Mode(StrEnum):
    CONTEXT = "context"
    KIND = "kind"
    NODE = "node"


@dataclass(frozen=True)
class Cluster:
    """A cluster that answers."""

    mode: Mode
    kubeconfig: Path
    """Its current context is the cluster; nothing else need be known to reach it."""
    context: str
    """Its name there."""
    bin: Path
    """Folder with kubectl and helm."""
    volumes: Path
    """Folder on the node's disk for its claims; only the node that we run has it."""

    @property
    def on_this_machine(self) -> bool:
        """Whether pods and Services can be reached from here by their own addresses, and images and volumes lie
        here.
        """
        return self.mode is Mode.NODE

    @property
    def environment(self) -> dict[str, str]:
        return {"KUBECONFIG": str(self.kubeconfig)}


def up(context: str | None = None, *, layout: Layout | None = None, progress: Progress | None = None) -> Cluster:
    """Brings a cluster up, or finds the one that runs. `context` names one of the user's own kubeconfig."""
    layout, progress = layout or paths(), progress or Progress()
    if context is not None:
        return _adopt(context, layout, progress)
    if _uses_kind(layout):
        kind.up(layout, progress)
        cluster = Cluster(Mode.KIND, kind.kubeconfig(layout), f"kind-{kind.NAME}", layout.bin, layout.volumes)
    else:
        node.up(layout, progress)
        cluster = Cluster(Mode.NODE, layout.kubeconfig, "octavo", layout.bin, layout.volumes)
    build(["kubectl", "helm"], layout, progress)
    return cluster


def down(*, purge: bool = False, layout: Layout | None = None, progress: Progress | None = None) -> None:
    """Removes the kind cluster or the node; a user's own cluster is only forgotten."""
    layout, progress = layout or paths(), progress or Progress()
    for copied in layout.cache.glob("context-*.kubeconfig"):
        copied.unlink()
    if kind.kubeconfig(layout).exists():
        kind.down(layout, progress)
    node.down(layout, progress, purge=purge)


def images(
    names: Iterable[str] = tuple(node_images.RECIPES),
    *,
    base: str | None = None,
    layout: Layout | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """Builds the images and gives them to the kind cluster or the node; their references by name.

    For a user's own cluster there is nothing to load into: build with the Containerfiles, push, and name the
    references.
    """
    layout, progress = layout or paths(), progress or Progress()
    names = list(names)
    for name in names:
        if name not in node_images.RECIPES:
            raise ClusterError(f"no image {name!r}: choose from {', '.join(node_images.RECIPES)}")
    if kind.kubeconfig(layout).exists():
        return kind.images(names, progress)
    return node_images.images(names, layout=layout, progress=progress, base=base)


def tool(name: str, *, layout: Layout | None = None, progress: Progress | None = None) -> Path:
    """The path of kubectl, helm or kwok, built where it is missing."""
    return build([name], layout or paths(), progress or Progress())[name]


def _uses_kind(layout: Layout) -> bool:
    """A cluster that is already there decides; the engine is asked only where there is none."""
    if node.running(layout)["kube-apiserver"]:
        return False
    return kind.kubeconfig(layout).exists() or kind.available()


def _adopt(context: str, layout: Layout, progress: Progress) -> Cluster:
    """Copies the one context into a kubeconfig of its own, so that nothing of ours ever reaches another cluster."""
    kubectl = build(["kubectl", "helm"], layout, progress)["kubectl"]
    view = [str(kubectl), "config", "view", "--minify", "--flatten", f"--context={context}"]
    done = subprocess.run(view, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"no context {context!r} in your kubeconfig: kubectl config get-contexts lists them")
    kubeconfig = layout.cache / f"context-{context.replace('/', '_')}.kubeconfig"
    kubeconfig.touch(0o600)
    kubeconfig.write_text(done.stdout)
    with progress.step(f"reach the cluster of context {context}"):
        ask = [str(kubectl), "--kubeconfig", str(kubeconfig), "version", "--request-timeout=10s"]
        if subprocess.run(ask, capture_output=True, check=False).returncode != 0:
            raise ClusterError(
                f"the cluster of context {context!r} does not answer: kubectl --context={context} version"
            )
    return Cluster(Mode.CONTEXT, kubeconfig, context, layout.bin, layout.volumes)
