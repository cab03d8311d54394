"""Builds Kubernetes, helm and kwok from their Go modules, once per version, into the cache.

`gomodules/` holds one small module per product, with `go.sum`, so that every source file is checked against a hash in
this repository. `go install k8s.io/kubernetes/…@version` is not possible (its go.mod has `replace` lines), so the
small module repeats them with the published staging modules.

A binary is built under another name and renamed; one that was killed half way is built again, and Go's own build cache
makes that a matter of seconds. Cold, on 2 cores: kube-apiserver 4 to 6 min, all six 7 to 11, helm 3, kwok 1 to 2.
"""

import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster import debian, versions
from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.progress import Progress, Step
from cluster.toolchain import go_binary, go_environment

_MODULES = Path(__file__).parent / "gomodules"
_BUILD_BYTES = 8 << 30
"""Module cache 2 GB, build cache 5 GB, binaries 0.6 GB, and room for the linker."""


@dataclass(frozen=True)
class Product:
    """One Go module that binaries come from."""

    name: str
    version: str
    package: str
    """Import path that binaries lie below: PACKAGE/BINARY."""
    flags: str

    def folder(self, layout: Layout) -> Path:
        return layout.cache / f"{self.name}-{self.version}"


def _kubernetes_flags(version: str) -> str:
    """Linker flags that stamp the version, as Kubernetes' own hack/lib/version.sh does."""
    major, minor = version.lstrip("v").split(".")[:2]
    values = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    return " ".join(["-s -w", *(f"-X {p}.{k}={v}" for p in packages for k, v in values.items())])


KUBERNETES = Product("kubernetes", versions.KUBERNETES, "k8s.io/kubernetes/cmd", _kubernetes_flags(versions.KUBERNETES))
HELM = Product(
    "helm", versions.HELM, "helm.sh/helm/v4/cmd", f"-s -w -X helm.sh/helm/v4/internal/version.version={versions.HELM}"
)
KWOK = Product(
    "kwok", versions.KWOK, "sigs.k8s.io/kwok/cmd", f"-s -w -X sigs.k8s.io/kwok/pkg/consts.Version={versions.KWOK}"
)

CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kubectl")
NODE = ("kube-scheduler", "kubelet", "kube-proxy")
PAUSE = Product("pause", versions.PAUSE, "octavo.local", "-s -w")
PRODUCTS = {**dict.fromkeys((*CONTROL_PLANE, *NODE), KUBERNETES), "helm": HELM, "kwok": KWOK, "pause": PAUSE}


def build(names: Iterable[str], layout: Layout, progress: Progress) -> dict[str, Path]:
    """The paths of these binaries, built where missing."""
    wanted = {name: PRODUCTS[name].folder(layout) / name for name in names}
    missing = [name for name, path in wanted.items() if not path.exists()]
    if missing:
        require_space(layout.cache, _BUILD_BYTES, "building Kubernetes")
        go = go_binary(layout, progress)
        for name in missing:
            _build_one(name, go, layout, progress)
    for path in wanted.values():
        _link(layout.bin, path)
    return wanted


def build_pause(layout: Layout, progress: Progress) -> Path:
    """The program of the sandbox image; our own ten lines of Go."""
    return build(["pause"], layout, progress)["pause"]


@dataclass(frozen=True)
class ControlPlaneBinaries:
    etcd: Path
    apiserver: Path
    kubectl: Path
    controller_manager: Path | None
    """None where KUBEBUILDER_ASSETS has none."""


def control_plane_binaries(
    layout: Layout, progress: Progress, environ: Mapping[str, str] | None = None
) -> ControlPlaneBinaries:
    """From the folder KUBEBUILDER_ASSETS where it is set, else built."""
    assets = (os.environ if environ is None else environ).get("KUBEBUILDER_ASSETS")
    if assets:
        return _from_assets(Path(assets))
    etcd = debian.etcd_binary(layout, progress)
    built = build(CONTROL_PLANE, layout, progress)
    return ControlPlaneBinaries(etcd, built["kube-apiserver"], built["kubectl"], built["kube-controller-manager"])


def _from_assets(folder: Path) -> ControlPlaneBinaries:
    for name in ("etcd", "kube-apiserver", "kubectl"):
        if not os.access(folder / name, os.X_OK):
            raise ClusterError(f"KUBEBUILDER_ASSETS={folder} has no {name}: unset it, or point it to a folder that has")
    manager = folder / "kube-controller-manager"
    found = manager if os.access(manager, os.X_OK) else None
    return ControlPlaneBinaries(folder / "etcd", folder / "kube-apiserver", folder / "kubectl", found)


def require_space(folder: Path, needed: int, purpose: str) -> None:
    """Raises before the long work where the disk is too small."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ClusterError(
            f"{purpose} needs {needed >> 30} GiB of disk and {folder} has {free / (1 << 30):.1f}: "
            f"free some, or set OCTAVO_CACHE to a bigger disk"
        )


def _build_one(name: str, go: Path, layout: Layout, progress: Progress) -> None:
    product = PRODUCTS[name]
    target = product.folder(layout) / name
    with progress.step(f"build {name} {product.version}") as step:
        go_build(go, f"{product.package}/{name}", target, step, module=_MODULES / product.name, flags=product.flags)


def go_build(go: Path, package: str, target: Path, step: Step, *, module: Path, flags: str) -> None:
    """Compiles and links a package of the module in the folder `module`; `target` is there once it is whole."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    step.note("modules, compile, link")
    command = [go, "build", "-v", "-trimpath", "-ldflags", flags, "-o", unfinished, package]
    _compile([str(word) for word in command], module, step)
    unfinished.rename(target)
    for leftover in target.parent.glob(f".{target.name}.*"):
        leftover.unlink()


def _compile(command: list[str], folder: Path, step: Step) -> None:
    """Runs `go build -v`, which names each package as it is compiled, and keeps the last lines for the error."""
    child = subprocess.Popen(
        command, cwd=folder, env=go_environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    tail: queue.Queue[str] = queue.Queue()
    reader = threading.Thread(target=_follow, args=(child, step, tail), daemon=True)
    reader.start()
    try:
        status = child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    reader.join(timeout=5)
    if status != 0:
        raise ClusterError(f"{' '.join(command[:2])} failed in {folder.name}: {' | '.join(tail.queue)[-600:]}")


def _follow(child: "subprocess.Popen[str]", step: Step, tail: "queue.Queue[str]") -> None:
    assert child.stderr is not None
    for count, line in enumerate(child.stderr, start=1):
        text = line.strip()
        step.note(text if text.startswith("go: ") else f"{count} packages compiled, last {text}")
        tail.put(text)
        if tail.qsize() > 3:
            tail.get()
    child.stderr.close()


def _link(folder: Path, binary: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / binary.name
    if link.is_symlink() and link.readlink() == binary:
        return
    unfinished = folder / f".{binary.name}.{os.getpid()}"
    unfinished.symlink_to(binary)
    unfinished.rename(link)
