"""What must be true before the node is brought up, asked before any long work; a failure is one line with its cure."""

import os
import shutil
from pathlib import Path

from cluster import cgroups
from cluster.build import require_space
from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.mounts import read_mounts
from cluster.processes import all_processes, marked_processes

_CAP_SYS_ADMIN = 21
_CAP_NET_ADMIN = 12
_CAP_SYS_RESOURCE = 24
_LONGEST_SOCKET = 100
"""A Unix socket's path has at most 107 bytes; containerd adds a suffix of its own."""

_RUN_BYTES = 2 << 30


def check_machine(layout: Layout) -> None:
    """Raises ClusterError where a node cannot run here."""
    if os.geteuid() != 0:
        raise ClusterError("a node needs root: run with sudo, or use a cluster that you have with --context NAME")
    for capability, name in ((_CAP_SYS_ADMIN, "SYS_ADMIN"), (_CAP_NET_ADMIN, "NET_ADMIN")):
        if not has_capability(capability):
            raise ClusterError(f"root lacks CAP_{name} (in a container?): use a privileged one, or --context NAME")
    if not cgroups.hierarchies(read_mounts()):
        raise ClusterError("no cgroup file system is mounted: mount -t cgroup2 none /sys/fs/cgroup")
    if len(str(layout.containerd_socket)) > _LONGEST_SOCKET:
        raise ClusterError(f"{layout.containerd_socket} is too long for a socket: set OCTAVO_CACHE to a shorter path")
    foreign = foreign_node(layout)
    if foreign:
        raise ClusterError(f"this machine already runs {foreign}: use that cluster with --context NAME, or stop it")
    require_space(layout.cache, _RUN_BYTES, "the node")


def may_raise_oom_score() -> bool:
    """Whether a process may lower its own oom_score_adj, which runc does for every container."""
    return has_capability(_CAP_SYS_RESOURCE)


def has_capability(number: int, status: str | None = None) -> bool:
    """Reads CapEff of /proc/self/status (capabilities(7))."""
    text = Path("/proc/self/status").read_text() if status is None else status
    effective = next(line.split()[1] for line in text.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> number & 1)


def foreign_node(layout: Layout) -> str | None:
    """`kubelet (pid 7)` where another Kubernetes node shares our network namespace."""
    ours = set(marked_processes(layout.state))
    here = Path("/proc/self/ns/net").readlink()
    for pid in all_processes():
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            same_network = Path(f"/proc/{pid}/ns/net").readlink() == here
        except OSError:
            continue
        if pid not in ours and same_network and name in ("kubelet", "kube-proxy", "k3s-server", "k3s-agent", "k0s"):
            return f"{name} (pid {pid})"
    return None


def docker_answers() -> bool:
    """Whether a Docker engine (not only its client) is there."""
    return shutil.which("docker") is not None and Path("/var/run/docker.sock").exists()
