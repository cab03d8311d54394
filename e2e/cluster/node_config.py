"""What the node's programs read: containerd, kubelet, kube-proxy, CNI. Values in, text out; nothing runs here."""

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from cluster.layout import Layout

NODE_NAME = "octavo"
BRIDGE = "octavo0"
CNI_NETWORK = "octavo"
CGROUP_ROOT = "/octavo"
SANDBOX_IMAGE = "octavo.local/pause:1"

_CANDIDATES = ("10.222.0.0/16", "10.122.0.0/16", "172.30.0.0/16", "10.22.0.0/16", "192.168.0.0/16")


@dataclass(frozen=True)
class Network:
    """One private /16: its first /24 for pods, its upper half for Services. The bridge has the first address, and is
    the node.
    """

    block: IPv4Network

    @property
    def pods(self) -> IPv4Network:
        return next(self.block.subnets(new_prefix=24))

    @property
    def services(self) -> IPv4Network:
        return list(self.block.subnets(new_prefix=17))[1]

    @property
    def node(self) -> IPv4Address:
        return self.pods[1]

    @property
    def api_service(self) -> IPv4Address:
        """The address of the Service `kubernetes`: the first of the range."""
        return self.services[1]


def choose_network(in_use: list[IPv4Network]) -> Network | None:
    """The first candidate that overlaps none of the machine's routes."""
    for candidate in map(IPv4Network, _CANDIDATES):
        if not any(candidate.overlaps(used) for used in in_use if used.prefixlen > 0):
            return Network(candidate)
    return None


def containerd_config(layout: Layout, *, runc: Path, cni_bin: Path, may_raise_oom_score: bool) -> str:
    """The TOML of containerd, version 2 (read by 1.5 to 2.x), with everything of it below our own folders.

    `restrict_oom_score_adj` makes containers run where CAP_SYS_RESOURCE is missing (runc fails otherwise with "can't
    get final child's PID from pipe: EOF"). A containerd beside Debian's names its shim: on PATH is Debian's.
    """
    quoted = json.dumps
    off = [
        "io.containerd.internal.v1.opt",
        *(f"io.containerd.snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs", "blockfile")),
        "io.containerd.tracing.processor.v1.otlp",
        "io.containerd.internal.v1.tracing",
    ]
    registry = f"config_path = {quoted(str(layout.registries))}" if layout.containerd else ""
    shim = f"runtime_path = {quoted(str(layout.containerd / 'containerd-shim-runc-v2'))}" if layout.containerd else ""
    return f"""\
version = 2
root = {quoted(str(layout.containerd_root))}
state = {quoted(str(layout.containerd_state))}
disabled_plugins = {quoted(off)}

[grpc]
  address = {quoted(str(layout.containerd_socket))}

[plugins."io.containerd.gc.v1.scheduler"]
  schedule_delay = "100ms"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {quoted(SANDBOX_IMAGE)}
  restrict_oom_score_adj = {quoted(not may_raise_oom_score)}
  netns_mounts_under_state_dir = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = {quoted(str(cni_bin))}
    conf_dir = {quoted(str(layout.state / "cni"))}

  [plugins."io.containerd.grpc.v1.cri".registry]
    {registry}

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      {shim}

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = {quoted(str(runc))}
        Root = {quoted(str(layout.containerd_state / "runc"))}
        SystemdCgroup = false
"""


def cni_config(network: Network, state: Path) -> dict[str, Any]:
    """A bridge with host-local addresses. It does not enforce NetworkPolicy."""
    return {
        "cniVersion": "0.4.0",
        "name": CNI_NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": True,
                "hairpinMode": True,
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(state / "cni-addresses"),
                    "ranges": [[{"subnet": str(network.pods), "gateway": str(network.node)}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def kubelet_config(layout: Layout, network: Network) -> dict[str, Any]:
    """KubeletConfiguration: own folders, no DNS, no eviction by a full disk that is not the cluster's doing."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(network.node),
        "healthzBindAddress": str(network.node),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(layout.pki / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": CGROUP_ROOT,
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "makeIPTablesUtilChains": False,
        "resolvConf": "/etc/resolv.conf",
        "podLogsDir": str(layout.state / "pod-logs"),
        "volumePluginDir": str(layout.state / "volume-plugins"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "nodeStatusUpdateFrequency": "5s",
        "shutdownGracePeriod": "0s",
        "registerNode": True,
        "maxPods": 200,
        "serializeImagePulls": False,
    }


def proxy_config(network: Network, kubeconfig: Path) -> dict[str, Any]:
    """KubeProxyConfiguration in iptables mode; NodePorts answer on the bridge's address only."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "hostnameOverride": NODE_NAME,
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": str(network.pods),
        "detectLocalMode": "ClusterCIDR",
        "nodePortAddresses": [f"{network.node}/32"],
        "bindAddress": str(network.node),
        "healthzBindAddress": f"{network.node}:10256",
        "metricsBindAddress": f"{network.node}:10249",
        "iptables": {"minSyncPeriod": "0s", "localhostNodePorts": False},
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
