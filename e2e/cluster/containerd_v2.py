"""containerd 2 from its Go module: Debian's is older than image volumes, which came with 2.1."""

import shutil
from pathlib import Path

from cluster import versions
from cluster.build import go_build, require_space
from cluster.gomodule import PublishedModule
from cluster.layout import Layout
from cluster.progress import Progress
from cluster.toolchain import go_binary

_PATH = "github.com/containerd/containerd/v2"
_MODULE = PublishedModule(_PATH, versions.CONTAINERD, "h1:ddw9THGOXhcKnHORjkKoXtazPjwtcPwmqk8AVyRpfZw=")
_FLAGS = f"-s -w -X {_PATH}/version.Version={versions.CONTAINERD}"
_BYTES = 2 << 30


def containerd_v2(layout: Layout, progress: Progress) -> Path:
    """The folder with `containerd` and its shim, built where missing."""
    folder = layout.cache / f"containerd-{versions.CONTAINERD}"
    if not (folder / "containerd").exists():
        require_space(layout.cache, _BYTES, "building containerd")
        go, source = go_binary(layout, progress), layout.build / "containerd"
        with progress.step(f"build containerd {versions.CONTAINERD}") as step:
            _MODULE.unpack(_MODULE.download(go, layout, step), source)
            for name in ("containerd-shim-runc-v2", "containerd"):
                go_build(go, f"./cmd/{name}", folder / name, step, module=source, flags=_FLAGS)
        shutil.rmtree(source)
    return folder
