"""A Kubernetes cluster for Octavo's demo, tests and development, from nothing but package registries.

    python -m cluster up [--context NAME]    bring a cluster up, or find it running
    python -m cluster images [IMAGE…]        build the operator's and the runtime's image and give them to the cluster
    python -m cluster status | env           what runs; KUBECONFIG and PATH as shell lines
    python -m cluster down [--purge]         remove what was made; with --purge the cache too
    python -m cluster control-plane          no node, no root: an API server for tests, in the foreground
    python -m cluster build [BINARY…]        only build

`up` uses the cluster of `--context`; else kind, where Docker and kind are there (untried); else a real single node, as
root: etcd, API server, controllers, scheduler, containerd, kubelet and kube-proxy as background processes.

In Python: `up`, `down`, `images`, `tool("helm")`, `paths()`, and `ControlPlane` for test fixtures.

The node has no cluster DNS: pods reach the API server through KUBERNETES_SERVICE_HOST and use the machine's own
resolver (the kubelet says so in a `MissingClusterDNS` event). Its bridge network does not enforce NetworkPolicy. It
listens on its own bridge only, so nothing of it can be reached from outside the machine.

`Layout.containerd` is the folder of another containerd than Debian's, with images of its own (`containerd_v2.py`).

Disk: binaries 0.6 GB, Go's own caches 7 GB, image builds 1 GB, node images 6 GB (links to uv's cache, where that
is on the same file system).
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
