"""containerd through its own `ctr`, in the namespace that the kubelet uses."""

import contextlib
import subprocess
from collections.abc import Callable, Iterable
from typing import IO

from cluster.debian import find
from cluster.errors import ClusterError
from cluster.layout import Layout


class Containerd:
    """Commands to one containerd."""

    def __init__(self, layout: Layout) -> None:
        self._command = [str(find("ctr")), "--address", str(layout.containerd_socket), "--namespace", "k8s.io"]

    def run(self, *arguments: str) -> str:
        """Standard output of one command; raises ClusterError where it fails."""
        done = subprocess.run([*self._command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"ctr {' '.join(arguments[:3])} failed: {done.stderr.strip()[-300:]}")
        return done.stdout

    def answers(self) -> bool:
        return subprocess.run([*self._command, "version"], capture_output=True, check=False).returncode == 0

    def images(self) -> dict[str, str]:
        """Manifest digests by image name."""
        rows = [line.split() for line in self.run("images", "ls").splitlines()[1:]]
        return {row[0]: row[2] for row in rows}

    def snapshots(self) -> set[str]:
        """Keys of all snapshots; an unpacked layer's key is its chain id."""
        return {line.split()[0] for line in self.run("snapshots", "ls").splitlines()[1:]}

    def running(self) -> set[str]:
        """Ids of the containers that run."""
        rows = [line.split() for line in self.run("tasks", "ls").splitlines()[1:]]
        return {row[0] for row in rows if row[-1] == "RUNNING"}

    def remove_images(self, names: Iterable[str]) -> None:
        names = list(names)
        if names:
            self.run("images", "rm", "--sync", *names)

    def remove_snapshot(self, name: str) -> None:
        if name in self.snapshots():
            self.run("snapshots", "rm", name)

    def remove_containers(self) -> None:
        """Forgets the records of containers that an earlier, removed cluster left behind."""
        names = self.run("containers", "ls", "-q").split()
        if names:
            self.run("containers", "rm", *names)

    def import_image(self, write: Callable[[IO[bytes]], None]) -> None:
        """Imports and unpacks the archive that `write` streams."""
        child = subprocess.Popen(
            [*self._command, "images", "import", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert child.stdin is not None
        assert child.stderr is not None
        with child:
            with contextlib.suppress(BrokenPipeError):  # It ended early; its own words say why.
                write(child.stdin)
                child.stdin.close()
            reason = child.stderr.read().decode(errors="replace").strip()
        if child.returncode != 0:
            raise ClusterError(f"ctr images import failed: {reason[-300:]}")
