"""A kind cluster where a Docker engine and `kind` are there. Untried: no machine with Docker has run this yet."""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from cluster.errors import ClusterError
from cluster.layout import Layout, repository
from cluster.progress import Progress

NAME = "octavo"


def available() -> bool:
    """Whether `kind` is found and a Docker engine (not only its client) answers."""
    if shutil.which("kind") is None or shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False, timeout=20).returncode == 0


def kubeconfig(layout: Layout) -> Path:
    return layout.cache / "kind.kubeconfig"


def up(layout: Layout, progress: Progress) -> None:
    if NAME in _run("kind", "get", "clusters").split():
        return
    layout.cache.mkdir(parents=True, exist_ok=True)
    with progress.step("create the kind cluster"):
        _run("kind", "create", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig(layout)), "--wait", "120s")


def down(layout: Layout, progress: Progress) -> None:
    with progress.step("delete the kind cluster"):
        _run("kind", "delete", "cluster", "--name", NAME, "--kubeconfig", str(kubeconfig(layout)))
        kubeconfig(layout).unlink(missing_ok=True)


def images(names: Iterable[str], progress: Progress) -> dict[str, str]:
    """Builds with Docker and loads into the cluster; Docker's own cache keeps the dependency layer."""
    references = {}
    for name in names:
        references[name] = f"octavo.local/{name}:dev"
        with progress.step(f"image {references[name]}"):
            containerfile = repository() / name / "Containerfile"
            _run("docker", "build", "-f", str(containerfile), "-t", references[name], str(repository()))
            _run("kind", "load", "docker-image", references[name], "--name", NAME)
    return references


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-600:]}")
    return done.stdout
