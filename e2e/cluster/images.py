"""Images of the operator and the runtime, from the project's own Containerfiles, into the node's containerd.

Three layers of images: base (a Debian, see `base_image.py`), dependencies (the lock, installed once per lock and base), and the
project's code. Only what containerd lacks is sent to it, so a change of code costs seconds although torch brings 5.8 GB.
Nothing is built or sent where the inputs are the same as last time.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cluster import debian
from cluster.base_image import ensure_base
from cluster.build import require_space
from cluster.buildah import Buildah
from cluster.containerd import Containerd
from cluster.delivery import deliver
from cluster.errors import ClusterError
from cluster.layout import Layout, repository
from cluster.progress import Progress
from cluster.python_packages import build_wheels, install_locked


@dataclass(frozen=True)
class Recipe:
    """One image: its Containerfile, its lock and the members whose code goes in."""

    name: str
    members: tuple[str, ...]
    disk: int
    """Bytes that a first build needs."""

    @property
    def reference(self) -> str:
        return f"octavo.local/{self.name}:dev"

    def containerfile(self, root: Path) -> Path:
        return root / self.name / "Containerfile"

    def lock(self, root: Path) -> Path:
        return root / "requirements" / f"{self.name}.txt"


RECIPES = {
    "operator": Recipe("operator", ("operator",), 3 << 30),
    "runtime": Recipe("runtime", ("kernels", "runtime"), 26 << 30),
}


def images(
    names: Iterable[str] = tuple(RECIPES), *, layout: Layout, progress: Progress, base: str | None = None
) -> dict[str, str]:
    """Builds what changed and makes containerd have it. The references by name, `octavo.local/NAME:dev`.

    `base` is an image that buildah can find, instead of the locally made one.
    """
    debian.ensure_programs({**debian.PACKAGES, **debian.IMAGE_PACKAGES}, progress)
    containerd = Containerd(layout)
    if not containerd.answers():
        raise ClusterError("the node is not running: run up first")
    recipes = [RECIPES[name] for name in names]
    for recipe in recipes:
        _Build(recipe, layout, progress, containerd).run(base)
    return {recipe.name: recipe.reference for recipe in recipes}


class _Build:
    """One image's way from its inputs into containerd."""

    def __init__(self, recipe: Recipe, layout: Layout, progress: Progress, containerd: Containerd) -> None:
        self._recipe = recipe
        self._layout = layout
        self._progress = progress
        self._containerd = containerd
        self._buildah = Buildah(layout)
        self._root = repository()
        self._note = layout.images / f"{recipe.name}.json"

    def run(self, base: str | None) -> None:
        inputs = fingerprint(self._input_files(), base or "")
        if self._delivered(inputs):
            self._progress.say(f"image {self._recipe.reference} is up to date")
            return
        base = base or ensure_base(self._buildah, self._layout, self._progress)
        dependencies = self._ensure_dependencies(base)
        tag = f"localhost/octavo/{self._recipe.name}:dev"
        with self._progress.step(f"image {self._recipe.reference}") as step:
            step.note("code")
            self._build_code(tag, base, dependencies)
            manifest = deliver(self._buildah, self._containerd, tag, self._recipe.reference, self._layout, step)
        self._note.write_text(json.dumps({"inputs": inputs, "manifest": manifest}))
        self._remove_old(dependencies)

    def _input_files(self) -> Iterator[Path]:
        yield self._recipe.containerfile(self._root)
        yield self._recipe.lock(self._root)
        for member in self._recipe.members:
            yield from source_files(self._root / member)

    def _delivered(self, inputs: str) -> bool:
        try:
            note = json.loads(self._note.read_text())
        except (FileNotFoundError, ValueError):
            return False
        there = self._containerd.images().get(self._recipe.reference)
        return bool(note.get("inputs") == inputs and there == note.get("manifest"))

    def _ensure_dependencies(self, base: str) -> str:
        files = [self._recipe.containerfile(self._root), self._recipe.lock(self._root)]
        tag = f"localhost/octavo/{self._recipe.name}-dependencies:{fingerprint(files, base)[:12]}"
        if self._buildah.exists(tag):
            return tag
        require_space(self._layout.images, self._recipe.disk, f"the {self._recipe.name} image")
        packages = self._layout.images / f"{self._recipe.name}-packages"
        with self._progress.step(f"dependencies of the {self._recipe.name} image") as step:
            shutil.rmtree(packages, ignore_errors=True)
            step.note("install the lock")
            install_locked(self._recipe.lock(self._root), packages / "site-packages")
            step.note("copy into a layer and compile")
            self._buildah.build(
                tag,
                self._recipe.containerfile(self._root),
                arguments={"BASE": base},
                contexts={"packages": packages},
                target="dependencies",
            )
            shutil.rmtree(packages)
        return tag

    def _build_code(self, tag: str, base: str, dependencies: str) -> None:
        wheels = self._layout.images / f"{self._recipe.name}-wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        build_wheels([self._root / member for member in self._recipe.members], wheels / "wheels")
        self._buildah.build(
            tag,
            self._recipe.containerfile(self._root),
            arguments={"BASE": base, "DEPENDENCIES": dependencies},
            contexts={"wheels": wheels},
        )

    def _remove_old(self, dependencies: str) -> None:
        """Dependency images of earlier locks, and code images that the new one replaced."""
        family = dependencies.partition(":")[0]
        self._buildah.remove([t for t in self._buildah.tags() if t.partition(":")[0] == family and t != dependencies])
        self._buildah.prune()


def source_files(member: Path) -> list[Path]:
    """A member's files that end up in its wheel or decide about it, in a stable order."""
    skipped = {"__pycache__", "build", "dist"}
    return sorted(
        path
        for path in member.rglob("*")
        if path.is_file()
        and not skipped & set(path.relative_to(member).parts)
        and path.suffix in (".py", ".toml", ".typed", ".json", ".yaml", ".jinja", ".txt")
    )


def fingerprint(files: Iterable[Path], extra: str = "") -> str:
    """A hash of names and contents."""
    total = sha256(extra.encode())
    for path in files:
        total.update(f"\0{path.name}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()
