"""A Go module as its authors publish it, when it has the hash that is pinned here.

Its own go.sum is one of its files, so one hash pins everything that is built from it.
"""

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.progress import Step
from cluster.toolchain import go_environment


@dataclass(frozen=True)
class PublishedModule:
    """`sum` is that of the module's files, as in a go.sum."""

    path: str
    version: str
    sum: str

    def download(self, go: Path, layout: Layout, step: Step) -> Path:
        """The module as a zip file. ClusterError where it cannot be had, or is another one."""
        step.note("download")
        command = [str(go), "mod", "download", "-json", f"{self.path}@{self.version}"]
        done = subprocess.run(
            command,
            cwd=layout.cache,
            env=go_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ClusterError(
                f"{self.path} {self.version} cannot be had: {(done.stderr or done.stdout).strip()[-300:]}"
            )
        found = json.loads(done.stdout)
        if found["Sum"] != self.sum:
            raise ClusterError(f"{self.path} {self.version} has the hash {found['Sum']}, expected {self.sum}")
        return Path(found["Zip"])

    def unpack(self, zipped: Path, folder: Path, keeps: Callable[[PurePosixPath], bool] = lambda _: True) -> None:
        """Lays out anew the files that are kept."""
        shutil.rmtree(folder, ignore_errors=True)
        prefix = f"{self.path}@{self.version}/"
        with zipfile.ZipFile(zipped) as archive:
            for member in archive.namelist():
                path = PurePosixPath(member.removeprefix(prefix))
                if keeps(path):
                    target = folder / path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.read(member))
