"""KEDA's operator and metrics adapter from its Go module, without the scalers of other services.

Whole, the two link the SDKs of 70 services, 2,634 Go packages. In `pkg/scalers` each scaler has a file, and one
switch in `scalers_builder.go` makes them: this build has the files in `KEPT` and the cases that they serve, and nothing
else of KEDA is changed. That leaves 1,921 packages. KEDA says "no scaler found" to a trigger of another kind.
"""

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cluster import versions
from cluster.build import go_build, require_space
from cluster.gomodule import PublishedModule
from cluster.layout import Layout
from cluster.progress import Progress
from cluster.toolchain import go_binary

_MODULE = PublishedModule(
    "github.com/kedacore/keda/v2", versions.KEDA, "h1:SR60v8uIcelbveS8n/1jcl8tLdBBIbHMxmdOHw8tKqA="
)

KEPT = ("scaler.go", "prometheus_scaler.go", "cron_scaler.go", "cpu_memory_scaler.go", "azure_queue_scaler.go")
"""The last one has a constant that the others use."""
_SCALERS = PurePosixPath("pkg/scalers")
_SWITCH = Path("pkg/scaling/scalers_builder.go")
_CRDS = Path("config/crd/bases")
_CASE = re.compile(r'^\tcase "[^"]+":\n\t\treturn scalers\.(\w+)\(.*\)\n', re.MULTILINE)
_BYTES = 6 << 30


@dataclass(frozen=True)
class Keda:
    folder: Path

    @property
    def operator(self) -> Path:
        return self.folder / "operator"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    @property
    def crds(self) -> list[Path]:
        return sorted((self.folder / "crds").glob("*.yaml"))


def keda(layout: Layout, progress: Progress) -> Keda:
    """KEDA, built where missing."""
    built = Keda(layout.cache / f"keda-{versions.KEDA}")
    if not built.operator.exists():
        require_space(layout.cache, _BYTES, "building KEDA")
        go, source = go_binary(layout, progress), layout.build / "keda"
        with progress.step(f"build KEDA {versions.KEDA}") as step:
            _unpack(_MODULE.download(go, layout, step), source)
            shutil.copytree(source / _CRDS, built.folder / "crds", dirs_exist_ok=True)
            for binary in (built.adapter, built.operator):
                go_build(go, f"./cmd/{binary.name}", binary, step, module=source, flags="-s -w")
        shutil.rmtree(source)
    return built


def without_cases(switch: str, kept: Iterable[str]) -> str:
    """The text of `scalers_builder.go` with only those cases whose constructor is in one of the texts in `kept`."""
    there = {name for text in kept for name in re.findall(r"^func (New\w+)\(", text, re.MULTILINE)}
    return _CASE.sub(lambda case: case[0] if case[1] in there else "", switch)


def _unpack(zipped: Path, folder: Path) -> None:
    """Lays the sources out anew, without the scalers that are left out."""
    _MODULE.unpack(zipped, folder, keeps=lambda path: path.parent != _SCALERS or path.name in KEPT)
    kept = [(folder / _SCALERS / name).read_text() for name in KEPT]
    (folder / _SWITCH).write_text(without_cases((folder / _SWITCH).read_text(), kept))
