"""LeaderWorkerSet's controller from its Go module, with the CRD and the webhooks that its authors install."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster import versions
from cluster.build import go_build, require_space
from cluster.gomodule import PublishedModule
from cluster.layout import Layout
from cluster.progress import Progress
from cluster.toolchain import go_binary

_MODULE = PublishedModule("sigs.k8s.io/lws", versions.LWS, "h1:DcJCgxjjoGOx//QHZkeKpyiblxYq70aCRZNYSfykWyI=")
_CRD = Path("config/crd/bases/leaderworkerset.x-k8s.io_leaderworkersets.yaml")
_WEBHOOKS = Path("config/webhook/manifests.yaml")
_BYTES = 4 << 30


@dataclass(frozen=True)
class LeaderWorkerSet:
    folder: Path

    @property
    def manager(self) -> Path:
        return self.folder / "manager"

    @property
    def crds(self) -> list[Path]:
        return sorted((self.folder / "crds").glob("*.yaml"))

    @property
    def webhooks(self) -> Path:
        return self.folder / "webhooks.yaml"


def leader_worker_set(layout: Layout, progress: Progress) -> LeaderWorkerSet:
    """The controller, built where missing."""
    built = LeaderWorkerSet(layout.cache / f"lws-{versions.LWS}")
    if not built.manager.exists():
        require_space(layout.cache, _BYTES, "building LeaderWorkerSet's controller")
        go, source = go_binary(layout, progress), layout.build / "lws"
        with progress.step(f"build LeaderWorkerSet {versions.LWS}") as step:
            _MODULE.unpack(_MODULE.download(go, layout, step), source)
            shutil.copytree(source / _CRD.parent, built.folder / "crds", dirs_exist_ok=True)
            shutil.copy(source / _WEBHOOKS, built.webhooks)
            go_build(go, "./cmd", built.manager, step, module=source, flags="-s -w")
        shutil.rmtree(source)
    return built
