"""Command lines of etcd and the Kubernetes control plane, as functions of where they listen. Nothing runs here.

Flags follow the reference pages of etcd 3.4 and Kubernetes 1.36; both cluster modes use the same ones.
"""

from dataclasses import dataclass
from pathlib import Path

from cluster.certificates import Pki
from cluster.node_config import NODE_NAME, Network

Command = list[str | Path]


@dataclass(frozen=True)
class Endpoints:
    """Where one control plane listens."""

    host: str
    """Address of the API server, the controller manager and the scheduler."""
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    controller_manager_port: int
    service_range: str

    @property
    def server(self) -> str:
        return f"https://{self.host}:{self.api_port}"

    @property
    def etcd(self) -> str:
        return f"https://127.0.0.1:{self.etcd_port}"


def etcd_command(binary: Path, data: Path, where: Endpoints, pki: Pki) -> Command:
    """One etcd on loopback, open only to holders of a certificate: who reaches it without one would own the cluster."""
    peer = f"http://127.0.0.1:{where.etcd_peer_port}"
    return [
        binary,
        "--name=octavo",
        f"--data-dir={data}",
        f"--listen-client-urls={where.etcd}",
        f"--advertise-client-urls={where.etcd}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=octavo={peer}",
        f"--cert-file={pki.certificate('server')}",
        f"--key-file={pki.key('server')}",
        f"--trusted-ca-file={pki.ca}",
        "--client-cert-auth",
        "--auto-compaction-retention=5m",
        "--auto-compaction-mode=periodic",
        "--quota-backend-bytes=1073741824",
    ]


def apiserver_command(binary: Path, where: Endpoints, pki: Pki) -> Command:
    return [
        binary,
        f"--etcd-servers={where.etcd}",
        f"--etcd-cafile={pki.ca}",
        f"--etcd-certfile={pki.certificate('client')}",
        f"--etcd-keyfile={pki.key('client')}",
        f"--bind-address={where.host}",
        f"--secure-port={where.api_port}",
        f"--tls-cert-file={pki.certificate('server')}",
        f"--tls-private-key-file={pki.key('server')}",
        f"--client-ca-file={pki.ca}",
        f"--token-auth-file={pki.token_file}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki.service_account_public}",
        f"--service-account-signing-key-file={pki.service_account_key}",
        f"--service-cluster-ip-range={where.service_range}",
        f"--kubelet-client-certificate={pki.certificate('client')}",
        f"--kubelet-client-key={pki.key('client')}",
        "--kubelet-preferred-address-types=InternalIP",
        "--profiling=false",
    ]


def controller_manager_command(binary: Path, where: Endpoints, pki: Pki, kubeconfig: Path) -> Command:
    return [
        binary,
        f"--kubeconfig={kubeconfig}",
        f"--bind-address={where.host}",
        f"--secure-port={where.controller_manager_port}",
        f"--cert-dir={pki.folder / 'controller-manager'}",
        f"--service-account-private-key-file={pki.service_account_key}",
        f"--root-ca-file={pki.ca}",
        f"--cluster-signing-cert-file={pki.ca}",
        f"--cluster-signing-key-file={pki.ca_key}",
        "--use-service-account-credentials=true",
        # The default of 20 makes the 40 controllers of a new cluster take ten seconds to start.
        "--kube-api-qps=300",
        "--kube-api-burst=600",
        f"--flex-volume-plugin-dir={kubeconfig.parent / 'volume-plugins'}",
        "--leader-elect=false",
        "--profiling=false",
    ]


def scheduler_command(binary: Path, where: Endpoints, pki: Pki, kubeconfig: Path) -> Command:
    return [
        binary,
        f"--kubeconfig={kubeconfig}",
        f"--bind-address={where.host}",
        "--secure-port=10259",
        f"--cert-dir={pki.folder / 'scheduler'}",
        "--leader-elect=false",
        "--profiling=false",
    ]


def kubelet_command(binary: Path, state: Path, config: Path, kubeconfig: Path, network: Network) -> Command:
    return [
        binary,
        f"--config={config}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={network.node}",
        f"--root-dir={state / 'kubelet'}",
        f"--cert-dir={state / 'kubelet-pki'}",
    ]


def proxy_command(binary: Path, config: Path) -> Command:
    return [binary, f"--config={config}"]
