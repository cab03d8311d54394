"""The locked dependencies as one layer of the node's containerd, installed straight into place.

torch brings 5.8 GB. Sent through an image build, an export and an import, they are written seven times (six minutes
here); installed by uv into an unpacked layer that containerd has prepared, they are linked from uv's cache once (a
minute, most of it byte-compiling). What the Containerfile's stage `dependencies` does around them is done by the
Containerfile, on an empty folder: the result is the parent of this layer.

The layer has no packed form, so its id is a name, made of the lock's and the parent's hashes, and not the hash of an
archive.
"""

import re
import subprocess
from pathlib import Path

from cluster.containerd import Containerd
from cluster.errors import ClusterError
from cluster.mounts import unmount_below
from cluster.oci import chain_id, digest
from cluster.progress import Step
from cluster.python_packages import install_locked

_SITE_PACKAGES = Path("opt/octavo/lib/python3.11/site-packages")
_COMPILE = (
    "-m",
    "compileall",
    "-q",
    "-j",
    "0",
    "--invalidation-mode",
    "unchecked-hash",
    "-x",
    "/torch/testing/_internal/",
)
_ROOT_LABEL = "containerd.io/gc.root"


def diff_id(lock: Path) -> str:
    """The layer's id; as the lock has hashes, it stands for the content."""
    return digest(b"octavo dependencies 1\0" + lock.read_bytes())


def make_layer(lock: Path, parent: str, containerd: Containerd, scratch: Path, step: Step) -> None:
    """Makes the layer above the unpacked layer `parent`, under its chain id.

    containerd may collect it as garbage only after `release`, when an image holds it.
    """
    name = chain_id(parent, diff_id(lock))
    unfinished = f"{name}-unfinished"
    containerd.remove_snapshot(unfinished)
    containerd.run("snapshots", "prepare", unfinished, parent)
    mount = containerd.run("snapshots", "mounts", str(scratch), unfinished).strip()
    step.note("install the lock")
    install_locked(lock, upper_folder(mount) / _SITE_PACKAGES)
    step.note("open it to every user")
    _open_to_all(upper_folder(mount))
    step.note("compile")
    _compile(mount, scratch)
    containerd.run("snapshots", "commit", name, unfinished)


def release(name: str, containerd: Containerd) -> None:
    """From now on the layer lives as long as an image needs it."""
    containerd.run("snapshots", "label", name, f"{_ROOT_LABEL}=")


def upper_folder(mount: str) -> Path:
    """Where a layer's own files lie: of `mount -t overlay overlay TARGET -o …,upperdir=DIR,…`."""
    found = re.search(r"upperdir=([^,\s]+)", mount)
    if found is None:
        raise ClusterError(
            f"containerd's overlayfs gives no upper folder ({mount}): remove the cache with down --purge"
        )
    return Path(found[1])


def _open_to_all(folder: Path) -> None:
    """Pods run as another user than root; a strict umask must not lock them out."""
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)


def _compile(mount: str, scratch: Path) -> None:
    """Runs the image's own Python in the layer. It wants /dev/shm for its helper processes."""
    scratch.mkdir(parents=True, exist_ok=True)
    unmount_below(scratch)
    try:
        subprocess.run(mount.split(), check=True, capture_output=True)
        subprocess.run(["mount", "--bind", "/dev", str(scratch / "dev")], check=True, capture_output=True)
        command = ["chroot", str(scratch), "/opt/octavo/bin/python", *_COMPILE, f"/{_SITE_PACKAGES}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        unmount_below(scratch)
    if done.returncode != 0:
        raise ClusterError(f"the dependencies of the image do not compile: {done.stdout.strip()[-400:]}")
