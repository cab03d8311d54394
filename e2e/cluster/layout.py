"""Where things lie: one cache folder outside the checkout, and named places below it.

```
~/.cache/octavo            or $OCTAVO_CACHE
├── kubernetes-v1.36.3/    built binaries, one folder per version
├── prometheus/            the unpacked Debian package, for tests (etcd/ likewise)
├── bin/                   links to all of them (works as KUBEBUILDER_ASSETS)
├── build/                 unfinished work, safe to delete
├── images/                build storage, base image, OCI layouts
├── containerd/            containerd's images and snapshots; kept by `down`
├── containerd-v2.2.9/     a newer one, for image volumes, with its own below `data`
└── cluster/               state of the running node; removed by `down`
```
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """All paths of one cache folder."""

    cache: Path
    containerd: Path | None = None
    """Folder of the containerd that the node runs, and of its images; None for Debian's."""

    @property
    def bin(self) -> Path:
        return self.cache / "bin"

    @property
    def build(self) -> Path:
        return self.cache / "build"

    @property
    def images(self) -> Path:
        return self.cache / "images"

    @property
    def containerd_root(self) -> Path:
        return self.containerd / "data" if self.containerd else self.cache / "containerd"

    @property
    def state(self) -> Path:
        return self.cache / "cluster"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def pids(self) -> Path:
        return self.state / "pids"

    @property
    def containerd_state(self) -> Path:
        return self.state / "containerd"

    @property
    def containerd_socket(self) -> Path:
        return self.containerd_state / "containerd.sock"

    @property
    def registries(self) -> Path:
        """A folder `HOST:PORT` with a hosts.toml for each registry that is not reached as usual."""
        return self.state / "registries"

    @property
    def volumes(self) -> Path:
        """For claims of the node: folders that pods mount through a hostPath."""
        return self.state / "volumes"

    @property
    def lock(self) -> Path:
        """Held by `up` and `down`."""
        return self.cache / "cluster.lock"

    @property
    def images_lock(self) -> Path:
        return self.cache / "images.lock"


def paths(environ: Mapping[str, str] | None = None) -> Layout:
    """The layout that `OCTAVO_CACHE` names, `~/.cache/octavo` without it."""
    environ = os.environ if environ is None else environ
    configured = environ.get("OCTAVO_CACHE")
    cache = Path(configured).expanduser() if configured else Path.home() / ".cache" / "octavo"
    return Layout(cache.absolute())


def repository() -> Path:
    """The checkout that this package lies in."""
    return Path(__file__).resolve().parents[2]
