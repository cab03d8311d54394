"""A control plane without a node, for tests: etcd, kube-apiserver and kube-controller-manager on free loopback ports.

Needs no root. Everything lives in one temporary folder and dies with the process (more exactly: the thread) that
started it, also when that is killed.

    from cluster import ControlPlane

    with ControlPlane.start() as cp:
        subprocess.run([cp.kubectl, "--kubeconfig", cp.kubeconfig, "get", "namespaces"])

`ControlPlane.start(controller_manager=False)` leaves the controllers out: no garbage collection, no Deployment
controller, and an API server that is there a little sooner. The binaries come from `$KUBEBUILDER_ASSETS` where that is
set, and are otherwise built once into the cache (see `build.py`). Attributes: `kubeconfig` (Path), `server` (URL),
`kubectl` (Path), `folder` (Path, with `logs/`), `apiserver_pid` and `etcd_pid` (for fault tests),
`restart_apiserver()` and `stop()`.
"""

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cluster import build
from cluster.certificates import Pki, make_pki
from cluster.components import Endpoints, apiserver_command, controller_manager_command, etcd_command
from cluster.errors import ClusterError
from cluster.kubeconfig import ApiServer, write_kubeconfig
from cluster.layout import Layout, paths
from cluster.ports import free_ports
from cluster.processes import identify, is_alive, last_lines, read_pid_file, start_child, write_pid_file
from cluster.progress import Progress

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType

_PREFIX = "octavo-control-plane-"
_READY_SECONDS = 180.0
_OWNER = "owner.json"
_CONTROLLERS = "--controllers=*,-endpoints-controller"
"""Pods that are played have loopback addresses, which Endpoints may not: refused, and tried again for ever."""


class ControlPlane:
    """A running control plane; see the module's docstring."""

    def __init__(self, folder: Path, binaries: build.ControlPlaneBinaries) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.kubectl = binaries.kubectl
        self._binaries = binaries
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._where = _free_endpoints()
        self._pki: Pki = make_pki(folder / "pki", ["127.0.0.1", "10.0.0.1"])

    @classmethod
    def start(
        cls, *, controller_manager: bool = True, layout: Layout | None = None, progress: Progress | None = None
    ) -> Self:
        """Starts everything and returns once `/readyz` says so. Raises ClusterError with the end of the log
        otherwise.
        """
        binaries = build.control_plane_binaries(layout or paths(), progress or Progress())
        sweep_abandoned()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        _claim(folder)
        plane = cls(folder, binaries)
        try:
            plane._bring_up(controller_manager=controller_manager)
        except BaseException:
            plane.stop()
            raise
        return plane

    @property
    def server(self) -> str:
        return self._where.server

    @property
    def apiserver_pid(self) -> int:
        return self._children["kube-apiserver"].pid

    @property
    def etcd_pid(self) -> int:
        return self._children["etcd"].pid

    def stop(self) -> None:
        """Ends all processes and removes the folder. Calling it again does nothing."""
        for name in reversed(list(self._children)):
            self._end(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop_apiserver(self) -> None:
        """An outage: the API server is gone at once, its data stays."""
        self._end("kube-apiserver")

    def restart_apiserver(self) -> None:
        """Brings the API server back on the same address with the same data."""
        self._end("kube-apiserver")
        self._start_apiserver()

    def wait(self) -> None:
        """Returns when one of the processes has ended."""
        while all(child.poll() is None for child in self._children.values()):
            time.sleep(0.2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.stop()

    def _bring_up(self, *, controller_manager: bool) -> None:
        self._run("etcd", etcd_command(self._binaries.etcd, self.folder / "etcd", self._where, self._pki))
        self._start_apiserver()
        write_kubeconfig(self.kubeconfig, self.server, self._pki, "admin")
        if controller_manager and self._binaries.controller_manager is not None:
            user = write_kubeconfig(self.folder / "controllers", self.server, self._pki, "controller-manager")
            command = controller_manager_command(self._binaries.controller_manager, self._where, self._pki, user)
            self._run("kube-controller-manager", [*command, _CONTROLLERS])

    def _start_apiserver(self) -> None:
        self._run("kube-apiserver", apiserver_command(self._binaries.apiserver, self._where, self._pki))
        api = ApiServer(self.server, self._pki)
        deadline = time.monotonic() + _READY_SECONDS
        while not api.ready():
            self._check_children()
            if time.monotonic() > deadline:
                raise ClusterError(f"kube-apiserver is not ready after {_READY_SECONDS:.0f} s: {self._end_of_log()}")
            time.sleep(0.05)

    def _check_children(self) -> None:
        for name, child in self._children.items():
            if child.poll() is not None:
                raise ClusterError(f"{name} ended with status {child.returncode}: {self._end_of_log(name)}")

    def _end_of_log(self, name: str = "kube-apiserver") -> str:
        return last_lines(self.folder / "logs" / f"{name}.log")

    def _run(self, name: str, command: list[str | Path]) -> None:
        self._children[name] = start_child(name, command, self.folder)

    def _end(self, name: str) -> None:
        child = self._children.pop(name, None)
        if child is not None:
            child.kill()
            child.wait()


def sweep_abandoned(parent: Path | None = None) -> list[Path]:
    """Removes the folders of control planes whose owner was killed; returns them."""
    parent = parent or Path(tempfile.gettempdir())
    abandoned = [folder for folder in parent.glob(_PREFIX + "*") if _is_abandoned(folder)]
    for folder in abandoned:
        shutil.rmtree(folder, ignore_errors=True)
    return abandoned


def _is_abandoned(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        owner = read_pid_file(folder / _OWNER)
        return owner is not None and not is_alive(owner)
    return False


def _claim(folder: Path) -> None:
    me = identify(os.getpid())
    assert me is not None
    write_pid_file(folder / _OWNER, me)


def _free_endpoints() -> Endpoints:
    api, etcd, peer, manager = free_ports(4)
    return Endpoints("127.0.0.1", api, etcd, peer, manager, service_range="10.0.0.0/16")
