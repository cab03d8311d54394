"""KEDA's operator and metrics adapter from its Go module, without the scalers of other services.

Whole, the two link the SDKs of 70 services, 2,634 Go packages. In `pkg/scalers` each scaler has a file, and one
switch in `scalers_builder.go` makes them: this build has the files in `KEPT` and the cases that they serve, and nothing
else of KEDA is changed. That leaves 1,921 packages. KEDA says "no scaler found" to a trigger of another kind.
"""

import json
import re
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cluster import versions
from cluster.build import go_build, require_space
from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.progress import Progress, Step
from cluster.toolchain import go_binary, go_environment

_MODULE = "github.com/kedacore/keda/v2"
_HASH = "h1:SR60v8uIcelbveS8n/1jcl8tLdBBIbHMxmdOHw8tKqA="
"""Of the module's files, as in a go.sum; KEDA's own go.sum is one of them and pins everything else."""

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
            _unpack(_download(go, layout, step), source)
            shutil.copytree(source / _CRDS, built.folder / "crds", dirs_exist_ok=True)
            for binary in (built.adapter, built.operator):
                go_build(go, f"./cmd/{binary.name}", binary, step, module=source, flags="-s -w")
        shutil.rmtree(source)
    return built


def without_cases(switch: str, kept: Iterable[str]) -> str:
    """The text of `scalers_builder.go` with only those cases whose constructor is in one of the texts in `kept`."""
    there = {name for text in kept for name in re.findall(r"^func (New\w+)\(", text, re.MULTILINE)}
    return _CASE.sub(lambda case: case[0] if case[1] in there else "", switch)


def _download(go: Path, layout: Layout, step: Step) -> Path:
    """The module as a zip file, when it has the right hash."""
    step.note("download")
    command = [str(go), "mod", "download", "-json", f"{_MODULE}@{versions.KEDA}"]
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
        raise ClusterError(f"KEDA {versions.KEDA} cannot be had: {(done.stderr or done.stdout).strip()[-300:]}")
    found = json.loads(done.stdout)
    if found["Sum"] != _HASH:
        raise ClusterError(f"KEDA {versions.KEDA} has the hash {found['Sum']}, expected {_HASH}")
    return Path(found["Zip"])


def _unpack(zipped: Path, folder: Path) -> None:
    """Lays the sources out anew, without the scalers that are left out."""
    shutil.rmtree(folder, ignore_errors=True)
    prefix = f"{_MODULE}@{versions.KEDA}/"
    with zipfile.ZipFile(zipped) as archive:
        for member in archive.namelist():
            path = PurePosixPath(member.removeprefix(prefix))
            if path.parent != _SCALERS or path.name in KEPT:
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(member))
    kept = [(folder / _SCALERS / name).read_text() for name in KEPT]
    (folder / _SWITCH).write_text(without_cases((folder / _SWITCH).read_text(), kept))
