"""A Kubernetes cluster for Octavo's demo, tests and development, from nothing but package registries.

    python -m cluster up [--context NAME]      your own cluster; else kind, where Docker and kind are there (untried);
    else a
                                               real single node: etcd, API server, controllers, scheduler, containerd,
                                               kubelet, kube-proxy, as background processes (root)
    python -m cluster images [operator] [runtime]   builds the images and gives them to the cluster
    python -m cluster status | env             what runs; KUBECONFIG and PATH as shell lines
    python -m cluster down [--purge]           removes what was made; with --purge the cache too
    python -m cluster control-plane            no node, no root: an API server for tests, in the foreground
    python -m cluster build [BINARY…]          only builds

In Python: `up`, `down`, `images`, `tool("helm")`, `paths()`, and `ControlPlane` for test fixtures.

The node has no cluster DNS: pods reach the API server through KUBERNETES_SERVICE_HOST and use the machine's own
resolver (the kubelet says so in a `MissingClusterDNS` event). Its bridge network does not enforce NetworkPolicy. It
listens on its own bridge only, so nothing of it can be reached from outside the machine. Disk: binaries 0.5 GB, Go's
caches 4 GB, image builds and node images about 12 GB, of which the runtime's torch is nearly all.
"""

from cluster.control_plane import ControlPlane
from cluster.errors import ClusterError
from cluster.layout import Layout, paths
from cluster.modes import Cluster, Mode, down, images, tool, up
from cluster.progress import Progress

__all__ = [
    "Cluster",
    "ClusterError",
    "ControlPlane",
    "Layout",
    "Mode",
    "Progress",
    "down",
    "images",
    "paths",
    "tool",
    "up",
]
