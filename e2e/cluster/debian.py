"""Debian packages: what the node needs, installed without starting any service and without removing anything.

etcd and Prometheus are not even installed: their packages are downloaded and unpacked into the cache, which needs no
root.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.progress import Progress

PACKAGES = {
    # program: the package that has it
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "iptables": "iptables",
    "ip": "iproute2",
    "conntrack": "conntrack",
    "mount": "mount",
}
IMAGE_PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "g++": "g++", "skopeo": "skopeo"}

_POLICY = Path("/usr/sbin/policy-rc.d")


def etcd_binary(layout: Layout, progress: Progress) -> Path:
    """The etcd on PATH, or from Debian's package unpacked into the cache."""
    cure = "as root, apt-get install etcd-server; or put it on PATH, or set KUBEBUILDER_ASSETS"
    return _unpacked_binary("etcd", "etcd-server", layout.cache / "etcd", cure, progress)


def prometheus_binaries(layout: Layout, progress: Progress) -> tuple[Path, Path]:
    """Prometheus and promtool, from PATH or from Debian's package unpacked into the cache."""
    folder, cure = layout.cache / "prometheus", "as root, apt-get install prometheus; or put it on PATH"
    server, tool = (_unpacked_binary(name, "prometheus", folder, cure, progress) for name in ("prometheus", "promtool"))
    return server, tool


def ensure_programs(programs: dict[str, str], progress: Progress) -> None:
    """Installs the packages of those programs that are missing; raises with the cure where that is not possible."""
    missing = missing_packages(programs)
    if not missing:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise ClusterError(f"missing programs: as root, apt-get install {' '.join(missing)}")
    with progress.step(f"apt-get install {' '.join(missing)}"), _no_services():
        _install(missing)


def missing_packages(programs: dict[str, str]) -> list[str]:
    """Packages, each once, of the programs that are not found."""
    path = _search_path()
    return sorted({package for program, package in programs.items() if shutil.which(program, path=path) is None})


def find(program: str) -> Path:
    """Where an installed program lies; /usr/sbin counts also where PATH leaves it out."""
    found = shutil.which(program, path=_search_path())
    if found is None:
        raise ClusterError(f"{program} is missing: install the package {PACKAGES.get(program, program)}")
    return Path(found)


def _search_path() -> str:
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"


def _install(packages: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # --no-remove: where Docker's own containerd.io is installed, apt must not replace it.
    command = ["apt-get", "install", "-y", "--no-install-recommends", "--no-remove", *packages]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        subprocess.run(["apt-get", "update"], env=environment, capture_output=True, check=False)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ClusterError(f"apt-get install {' '.join(packages)} failed ({reason}): install them by hand")


@contextmanager
def _no_services() -> Iterator[None]:
    """Forbids maintainer scripts to start services, as invoke-rc.d documents; an existing policy is left alone."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _unpacked_binary(program: str, package: str, folder: Path, cure: str, progress: Progress) -> Path:
    installed = shutil.which(program, path=_search_path())
    if installed:
        return Path(installed)
    unpacked = folder / "usr/bin" / program
    if not unpacked.exists():
        with progress.step(f"fetch {program} from the Debian package {package}"):
            _unpack_package(package, folder, cure)
    return unpacked


def _unpack_package(package: str, folder: Path, cure: str) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ClusterError(f"{package} is missing and there is no apt-get to fetch it: {cure}")
    unfinished = folder.with_name(folder.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    if not _download(package, unfinished) and os.geteuid() == 0:
        subprocess.run(["apt-get", "update"], capture_output=True, check=False)
        _download(package, unfinished)
    archives = list(unfinished.glob("*.deb"))
    if not archives:
        raise ClusterError(f"apt-get cannot download {package}: {cure}")
    subprocess.run(["dpkg-deb", "-x", str(archives[0]), str(unfinished)], check=True)
    archives[0].unlink()
    unfinished.rename(folder)


def _download(package: str, folder: Path) -> bool:
    return (
        subprocess.run(["apt-get", "download", package], cwd=folder, capture_output=True, check=False).returncode == 0
    )
