"""Stops whatever of the node is still there, in whatever state it is, and removes what it made.

Nothing is trusted but names: processes by their mark, containers by their cgroup, mounts by their folder, links by
their bridge, rules by their chains. So it works after any mixture of kills, and after a reboot.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from cluster import cgroups, network
from cluster.checks import foreign_node
from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.mounts import remove_folder, unmount_below
from cluster.processes import all_processes, kill_all, marked_processes, wait_until

_OUTSIDE = (
    # The fixed places that kubelet, the controller manager, containerd's shim, CNI and buildah write to.
    "/var/lib/kubelet",
    "/var/log/containers",
    "/run/containerd",
    "/var/lib/cni",
    "/var/lib/containers",
)
_THEIR_USERS = ("kubelet", "containerd", "dockerd", "crio", "podman", "buildah")


def remember_outside(state: Path) -> None:
    """Notes which fixed places did not exist before the first start: those are ours to remove."""
    note = state / "outside.json"
    if not note.exists():
        note.write_text(json.dumps([path for path in _OUTSIDE if not Path(path).exists()]))


def stop(layout: Layout) -> None:
    """Ends all processes and containers, and frees mounts, network and sockets; keeps the data.

    Bridge, cgroups and rules have one name per machine: where another cache folder's node runs, they are that node's.
    """
    if not layout.state.exists():
        return
    foreign = foreign_node(layout)
    if foreign:
        raise ClusterError(f"{foreign} belongs to another node on this machine: take that one down first")
    _kill_marked(layout.state)
    _remove_shim_sockets(layout.containerd_state)
    cgroups.remove()
    _kill_marked(layout.state)
    _remove_log_links(layout.state)
    unmount_below(layout.state)
    unmount_below(layout.containerd_root)
    remove_folder(layout.containerd_state)
    network.take_down(layout.state)
    remove_folder(layout.state / "cni-addresses")
    remove_folder(layout.pids)


def remove(layout: Layout) -> None:
    """Removes the node's state. Built binaries, containerd's images and the image build's storage stay."""
    stop(layout)
    _remove_outside(layout.state)
    remove_folder(layout.state)


def purge(layout: Layout) -> None:
    """Removes everything below the cache folder that this package made; the folder itself only if nothing else is in
    it.
    """
    remove(layout)
    for folder in _made_in_cache(layout):
        remove_folder(folder)
    layout.lock.unlink(missing_ok=True)
    layout.images_lock.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        layout.cache.rmdir()


def _made_in_cache(layout: Layout) -> Iterator[Path]:
    yield from (layout.bin, layout.build, layout.images, layout.containerd_root)
    built = ("kubernetes", "helm", "kwok", "keda", "lws", "coredns", "containerd")
    for pattern in (*(f"{name}-v*" for name in built), "pause-*", "etcd", "etcd.new", "go-toolchain*"):
        yield from layout.cache.glob(pattern)


def _kill_marked(state: Path) -> None:
    def round_of_killing() -> bool:
        found = marked_processes(state)
        kill_all(found)
        return not found

    if not wait_until(round_of_killing, timeout=20):
        raise ClusterError(f"processes {marked_processes(state)} do not end: see them with ps, then run again")


def _remove_shim_sockets(containerd_state: Path) -> None:
    """A shim's socket lies in /run/containerd/s; each bundle says where."""
    for note in containerd_state.glob("io.containerd.runtime.v2.task/*/*/address"):
        with contextlib.suppress(OSError):
            Path(note.read_text().removeprefix("unix://")).unlink(missing_ok=True)


def _remove_log_links(state: Path) -> None:
    logs = Path("/var/log/containers")
    for link in logs.iterdir() if logs.is_dir() else ():
        if link.is_symlink() and str(link.readlink()).startswith(f"{state}/"):
            link.unlink()


def _remove_outside(state: Path) -> None:
    """Removes the fixed places that did not exist before, unless somebody else has come to use them since."""
    if _others_run():
        return
    with contextlib.suppress(FileNotFoundError, ValueError):
        for path in json.loads((state / "outside.json").read_text()):
            remove_folder(Path(path))


def _others_run() -> bool:
    for pid in all_processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() in _THEIR_USERS and Path(f"/proc/{pid}/exe").exists():
                return True
    return False
