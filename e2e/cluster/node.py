"""The real single node: every program as a background process of ours, in the order in which they need one another."""

import json
import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from cluster import cgroups, debian, leftovers, network
from cluster.build import CONTROL_PLANE, NODE, build, build_pause
from cluster.certificates import Pki, make_pki
from cluster.checks import check_machine, may_raise_oom_score
from cluster.components import (
    Command,
    Endpoints,
    apiserver_command,
    controller_manager_command,
    etcd_command,
    kubelet_command,
    proxy_command,
    scheduler_command,
)
from cluster.containerd import Containerd
from cluster.errors import ClusterError
from cluster.kubeconfig import ApiServer, write_kubeconfig
from cluster.layout import Layout
from cluster.locks import exclusive
from cluster.node_config import (
    SANDBOX_IMAGE,
    Network,
    cni_config,
    containerd_config,
    kubelet_config,
    proxy_config,
)
from cluster.node_health import kubelet_reports, node_is_ready, pods_are_current
from cluster.oci import write_small_image
from cluster.ports import free_ports
from cluster.processes import ProcessId, is_alive, kill_all, last_lines, read_pid_file, start_daemon, wait_until
from cluster.progress import Progress

DAEMONS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "containerd",
    "kubelet",
    "kube-proxy",
)

_DEFAULT_ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"


def up(layout: Layout, progress: Progress) -> None:
    """Brings the node up, from nothing, from a stopped state or from the leftovers of a killed one.

    Returns in about a second where it already runs. Raises ClusterError.
    """
    with exclusive(layout.lock, progress):
        if healthy(layout):
            progress.say("the node is running")
            return
        check_machine(layout)
        debian.ensure_programs(debian.PACKAGES, progress)
        etcd = debian.etcd_binary(layout, progress)
        binaries = {**build((*CONTROL_PLANE, *NODE), layout, progress), "etcd": etcd}
        pause = build_pause(layout, progress)
        if layout.state.exists():
            with progress.step("clear what an earlier run left"):
                leftovers.stop(layout)
        _Start(layout, binaries, pause, progress).run()


def down(layout: Layout, progress: Progress, *, purge: bool = False) -> None:
    """Removes the node and everything it made on the machine; built binaries and images stay, unless `purge`."""
    if not layout.cache.exists():
        return
    if os.geteuid() != 0 and layout.state.exists():
        raise ClusterError("the node was brought up by root: remove it as root")
    with exclusive(layout.lock, progress), progress.step("remove the node" + (" and the cache" if purge else "")):
        (leftovers.purge if purge else leftovers.remove)(layout)


def running(layout: Layout) -> dict[str, bool]:
    """Which of the node's programs are alive."""
    found = {name: read_pid_file(layout.pids / f"{name}.json") for name in DAEMONS}
    return {name: process is not None and is_alive(process) for name, process in found.items()}


def healthy(layout: Layout) -> bool:
    """Whether every program is alive, the API server ready and the node Ready."""
    if not all(running(layout).values()) or not layout.kubeconfig.exists():
        return False
    server = json.loads(layout.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
    api = ApiServer(server, Pki(layout.pki))
    return api.ready() and node_is_ready(api)


class _Start:
    """One bring-up; the steps share the paths and the addresses."""

    def __init__(self, layout: Layout, binaries: dict[str, Path], pause: Path, progress: Progress) -> None:
        layout.state.mkdir(parents=True, exist_ok=True)
        self._layout = layout
        self._state = layout.state
        self._binaries = binaries
        self._pause = pause
        self._progress = progress
        self._network: Network = network.load_or_choose(layout.state)
        self._where = _endpoints(self._network)
        self._pki = make_pki(layout.pki, ["127.0.0.1", str(self._network.node), str(self._network.api_service)])
        self._api = ApiServer(self._where.server, self._pki)

    def run(self) -> None:
        fresh = not (self._state / "etcd").exists()
        shutil.rmtree(self._layout.logs, ignore_errors=True)
        leftovers.remember_outside(self._state)
        with self._progress.step("network and cgroups"):
            network.set_up(self._network, self._state)
            cgroups.make()
        self._start_containerd()
        with self._progress.step("etcd and kube-apiserver"):
            fresh = self._start_store_and_api(fresh=fresh)
        write_kubeconfig(self._layout.kubeconfig, self._where.server, self._pki, "admin")
        self._start_controllers()
        with self._progress.step("containerd"):
            self._prepare_containerd(fresh=fresh)
        with self._progress.step("kubelet and kube-proxy"):
            self._start_node(fresh=fresh)

    def _start_containerd(self) -> None:
        config = containerd_config(
            self._layout,
            runc=debian.find("runc"),
            cni_bin=Path("/usr/lib/cni"),
            may_raise_oom_score=may_raise_oom_score(),
        )
        _write_json(self._state / "cni" / "10-octavo.conflist", cni_config(self._network, self._state))
        path = self._state / "containerd.toml"
        path.write_text(config)
        ours = self._layout.containerd
        binary = ours / "containerd" if ours else debian.find("containerd")
        start_daemon("containerd", [binary, "--config", path], self._state)

    def _start_store_and_api(self, *, fresh: bool) -> bool:
        """Whether the cluster is a new one: asked for, or because the data of the last one cannot be read."""
        try:
            self._try_store_and_api()
        except ClusterError:
            if fresh:
                raise
            self._progress.say("the last cluster's data cannot be read: starting with an empty one")
            self._end("kube-apiserver", "etcd")
            shutil.rmtree(self._state / "etcd")
            self._try_store_and_api()
            return True
        return fresh

    def _try_store_and_api(self) -> None:
        data = self._state / "etcd"
        self._daemon("etcd", etcd_command(self._binaries["etcd"], data, self._where, self._pki))
        self._daemon("kube-apiserver", apiserver_command(self._binaries["kube-apiserver"], self._where, self._pki))
        self._wait("kube-apiserver", self._api.ready, 60, "etcd", "kube-apiserver")

    def _start_controllers(self) -> None:
        user = self._user("controller-manager")
        binary = self._binaries["kube-controller-manager"]
        self._daemon("kube-controller-manager", controller_manager_command(binary, self._where, self._pki, user))
        scheduler = scheduler_command(self._binaries["kube-scheduler"], self._where, self._pki, self._user("scheduler"))
        self._daemon("kube-scheduler", scheduler)

    def _prepare_containerd(self, *, fresh: bool) -> None:
        containerd = Containerd(self._layout)
        self._wait("containerd", containerd.answers, 30, "containerd")
        if fresh:
            containerd.remove_containers()
        if SANDBOX_IMAGE not in containerd.images():
            files = {"pause": self._pause.read_bytes()}
            containerd.import_image(lambda out: write_small_image(SANDBOX_IMAGE, files, ["/pause"], out))

    def _start_node(self, *, fresh: bool) -> None:
        started = datetime.now(UTC)
        kubelet_file = self._state / "kubelet.json"
        _write_json(kubelet_file, kubelet_config(self._layout, self._network))
        user = self._user("kubelet")
        self._daemon(
            "kubelet", kubelet_command(self._binaries["kubelet"], self._state, kubelet_file, user, self._network)
        )
        proxy_file = self._state / "kube-proxy.json"
        _write_json(proxy_file, proxy_config(self._network, self._user("proxy")))
        self._daemon("kube-proxy", proxy_command(self._binaries["kube-proxy"], proxy_file))
        since = None if fresh else started
        self._wait("the node", lambda: self._kubelet_agrees(since), 60, "kubelet", "kube-proxy")
        # Until it exists, a pod that somebody creates by hand is refused.
        self._wait("the service account", lambda: self._api.exists(_DEFAULT_ACCOUNT), 60, "kube-controller-manager")

    def _kubelet_agrees(self, since: datetime | None) -> bool:
        """Whether the API server's picture of the node is not older than `since`; a new cluster has no old picture."""
        return (
            (since is None or kubelet_reports(self._api, since))
            and node_is_ready(self._api)
            and pods_are_current(self._api, Containerd(self._layout).running())
        )

    def _user(self, name: str) -> Path:
        return write_kubeconfig(self._state / f"{name}.kubeconfig", self._where.server, self._pki, name)

    def _daemon(self, name: str, command: Command) -> None:
        start_daemon(name, command, self._state)

    def _end(self, *names: str) -> None:
        for name in names:
            process = read_pid_file(self._layout.pids / f"{name}.json")
            if process and is_alive(process):
                kill_all([process.pid])
                wait_until(partial(_ended, process), timeout=10)

    def _wait(self, what: str, condition: Callable[[], bool], timeout: float, *daemons: str) -> None:
        """Polls until the condition holds; ends early, with the log's end, where one of the daemons has ended."""
        deadline = time.monotonic() + timeout
        while not condition():
            alive = running(self._layout)
            dead = [name for name in daemons if not alive[name]]
            if dead or time.monotonic() > deadline:
                name = dead[0] if dead else daemons[-1]
                log = self._layout.logs / f"{name}.log"
                raise ClusterError(f"{what} does not come up; {log} ends with:\n{last_lines(log)}")
            time.sleep(0.05)


def _endpoints(where: Network) -> Endpoints:
    etcd_port, peer_port = free_ports(2)
    return Endpoints(
        host=str(where.node),
        api_port=6443,
        etcd_port=etcd_port,
        etcd_peer_port=peer_port,
        controller_manager_port=10257,
        service_range=str(where.services),
    )


def _ended(process: ProcessId) -> bool:
    return not is_alive(process)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n")
