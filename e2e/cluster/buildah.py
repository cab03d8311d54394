"""Buildah with a storage of our own below the cache, so that nobody else's images are touched.

Skopeo exports from that storage: buildah itself cannot write an OCI layout without compressing (minutes for torch),
and does not see that a compressed layer is already there.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.debian import find
from cluster.errors import ClusterError
from cluster.layout import Layout


class Buildah:
    """Builds and exports images without a daemon and without a registry."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.images
        self._scratch = layout.build
        storage = ["--storage-driver", "overlay", "--root", str(layout.images / "storage")]
        storage += ["--runroot", str(layout.images / "run")]
        self._command = [str(find("buildah")), *storage]
        self._storage = f"containers-storage:[overlay@{layout.images / 'storage'}+{layout.images / 'run'}]"

    def exists(self, tag: str) -> bool:
        inspect = [*self._command, "inspect", "--type", "image", tag]
        return subprocess.run(inspect, capture_output=True, check=False).returncode == 0

    def build(
        self,
        tag: str,
        containerfile: Path,
        *,
        base: str | None = None,
        contexts: Mapping[str, Path | str] | None = None,
        target: str | None = None,
        context: Path | None = None,
    ) -> None:
        """Builds one image.

        `contexts` are folders, or `container-image://TAG`, that stand for stages; without `context` it is empty.
        """
        empty = self._folder / "empty"
        empty.mkdir(parents=True, exist_ok=True)
        options = ["--isolation", "chroot", "--pull-never", "--file", str(containerfile), "--tag", tag]
        options += ["--build-arg", f"BASE={base}"] if base else []
        options += [word for k, v in (contexts or {}).items() for word in ("--build-context", f"{k}={v}")]
        options += ["--target", target] if target else []
        self._run("build", *options, str(context or empty))

    def export(self, tag: str, layout: Path) -> None:
        """Writes the image as an OCI layout, uncompressed; layers that the layout has are not written again."""
        options = ["--quiet", "--insecure-policy", "--dest-oci-accept-uncompressed-layers"]
        self._checked(
            [str(find("skopeo")), "copy", *options, self._storage + tag, f"oci:{layout}:image"], "skopeo copy"
        )

    def tags(self) -> list[str]:
        names = self._run("images", "--format", "{{.Name}}:{{.Tag}}").split()
        return [name for name in names if not name.startswith("<none>")]

    def remove(self, tags: Sequence[str]) -> None:
        if tags:
            self._run("rmi", "--force", *tags)

    def prune(self) -> None:
        """Removes images that no tag leads to, and what interrupted builds left."""
        self._run("rm", "--all")
        self._run("rmi", "--prune", "--force")

    def _run(self, *arguments: str) -> str:
        return self._checked([*self._command, *arguments], f"buildah {arguments[0]}")

    def _checked(self, command: list[str], what: str) -> str:
        self._scratch.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(self._scratch)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise ClusterError(f"{what} failed: {(done.stderr or done.stdout).strip()[-800:]}")
        return done.stdout
