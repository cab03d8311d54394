"""What is mounted, and taking down what lies below a folder of ours before that folder is removed."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ClusterError


@dataclass(frozen=True)
class Mount:
    path: Path
    kind: str
    """File system type."""


def parse_mounts(mountinfo: str) -> list[Mount]:
    """Reads /proc/PID/mountinfo (proc(5)): mount point in field 5, type after the separator `-`."""
    mounts = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), before.split()[4])
        mounts.append(Mount(Path(point), after.split()[0]))
    return mounts


def read_mounts() -> list[Mount]:
    return parse_mounts(Path("/proc/self/mountinfo").read_text())


def mounted_below(folder: Path) -> list[Path]:
    """Mount points in or at a folder, the latest first."""
    return [m.path for m in reversed(read_mounts()) if m.path == folder or folder in m.path.parents]


def unmount_below(folder: Path) -> None:
    for path in mounted_below(folder):
        if subprocess.run(["umount", path], capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", "--lazy", path], capture_output=True, check=False)


def remove_folder(folder: Path) -> None:
    """Unmounts and deletes; never deletes through a mount, which might lead to somebody's data."""
    unmount_below(folder)
    still = mounted_below(folder)
    if still:
        raise ClusterError(f"{still[0]} cannot be unmounted: unmount it, then run again")
    shutil.rmtree(folder, ignore_errors=True)
