"""The cgroup that all pods of the node lie below, on cgroup v1, hybrid and v2: made, emptied, removed.

Everything below `/octavo` is ours, so a container is found there also when its shim, containerd and kubelet are gone.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.mounts import Mount, read_mounts
from cluster.node_config import CGROUP_ROOT
from cluster.processes import kill_all, wait_until


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup tree."""

    root: Path
    unified: bool

    @property
    def ours(self) -> Path:
        return self.root / CGROUP_ROOT.lstrip("/")


def hierarchies(mounts: list[Mount]) -> list[Hierarchy]:
    """All cgroup trees of the machine: one on v2, about ten on v1, both kinds on hybrid."""
    return [Hierarchy(mount.path, mount.kind == "cgroup2") for mount in mounts if mount.kind in ("cgroup", "cgroup2")]


def make() -> None:
    """Makes our cgroup in every hierarchy; on v2 with every controller that the root offers."""
    for hierarchy in hierarchies(read_mounts()):
        try:
            hierarchy.ours.mkdir(exist_ok=True)
        except OSError as error:
            raise ClusterError(
                f"cannot make the cgroup {hierarchy.ours} ({error.strerror}): run as root of the machine"
            ) from None
        if hierarchy.unified:
            _delegate(hierarchy.root)
            _delegate(hierarchy.ours)


def remove() -> None:
    """Kills everything below our cgroups and removes them."""
    trees = [each.ours for each in hierarchies(read_mounts()) if each.ours.exists()]
    wait_until(lambda: _kill_members(trees), timeout=20)
    for tree in trees:
        for folder in sorted((p for p in tree.rglob("*") if p.is_dir()), reverse=True):
            _remove_folder(folder)
        _remove_folder(tree)


def _delegate(folder: Path) -> None:
    for controller in (folder / "cgroup.controllers").read_text().split():
        with contextlib.suppress(OSError):
            (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _kill_members(trees: list[Path]) -> bool:
    """One round of killing; True once nobody is left."""
    members: set[int] = set()
    for tree in trees:
        for listing in tree.rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                members |= {int(pid) for pid in listing.read_text().split()}
    kill_all(members - {0})  # 0 stands for a process of another pid namespace.
    return not members


def _remove_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()
