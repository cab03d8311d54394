"""Images of the operator and the runtime, from the project's own Containerfiles, into the node's containerd.

```
base           a small Debian with Python (base_image.py), or what --base names
skeleton       the Containerfile's stage `dependencies` on an empty folder: a virtual environment
dependencies   the lock, installed once per lock (dependency_layer.py)
code           the Containerfile's last stage on the skeleton: the members' wheels, user, entry point
```
A change of code makes the last layer anew and sends that alone: seconds, although torch brings 5.8 GB. Nothing is
built or sent where the inputs are the same as last time.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cluster import debian
from cluster.base_image import base_tag, ensure_base
from cluster.build import require_space
from cluster.buildah import Buildah
from cluster.containerd import Containerd
from cluster.delivery import deliver, export
from cluster.dependency_layer import diff_id, make_layer, release
from cluster.errors import ClusterError
from cluster.layout import Layout, repository
from cluster.locks import exclusive
from cluster.oci import Image, chain_id, digest
from cluster.progress import Progress
from cluster.python_packages import build_wheels


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
    "operator": Recipe("operator", ("operator",), 1 << 30),
    "runtime": Recipe("runtime", ("kernels", "runtime"), 9 << 30),
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
    with exclusive(layout.images_lock, progress):
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
        inputs = fingerprint(self._input_files(), base or base_tag())
        if self._delivered(inputs):
            self._progress.say(f"image {self._recipe.reference} is up to date")
            return
        base = base or ensure_base(self._buildah, self._layout, self._progress)
        skeleton, skeleton_image = self._ensure_skeleton(base)
        dependencies = self._ensure_dependencies(skeleton_image)
        with self._progress.step(f"image {self._recipe.reference}") as step:
            step.note("build")
            tag = self._build_code(base, skeleton)
            step.note("export")
            folder = self._layout.images / "oci" / self._recipe.name
            code = export(tag, folder, self._buildah)
            image = code.with_layer(len(skeleton_image.layers), diff_id(self._recipe.lock(self._root)))
            step.note("import")
            deliver(image, folder, self._recipe.reference, self._containerd)
        release(dependencies, self._containerd)
        self._note.write_text(json.dumps({"inputs": inputs, "manifest": digest(image.manifest)}))
        self._buildah.prune()

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

    def _ensure_skeleton(self, base: str) -> tuple[str, Image]:
        """The virtual environment without packages, in buildah and, unpacked, in containerd."""
        name = f"{self._recipe.name}-skeleton"
        key = fingerprint([self._recipe.containerfile(self._root)], base)[:12]
        tag = f"localhost/octavo/{name}:{key}"
        folder = self._layout.images / "oci" / name
        if not self._buildah.exists(tag):
            with self._progress.step(f"virtual environment of the {self._recipe.name} image"):
                self._build_skeleton(tag, base)
        image = export(tag, folder, self._buildah)
        reference = f"octavo.local/{name}:dev"
        # The name is what keeps its layers: without it they may be about to be collected as garbage.
        if self._containerd.images().get(reference) != digest(image.manifest):
            with self._progress.step(f"send the base of the {self._recipe.name} image to containerd"):
                deliver(image, folder, reference, self._containerd)
        return tag, image

    def _build_skeleton(self, tag: str, base: str) -> None:
        family = tag.partition(":")[0]
        self._buildah.remove([old for old in self._buildah.tags() if old.partition(":")[0] == family])
        empty = self._layout.images / "no-packages"
        (empty / "site-packages").mkdir(parents=True, exist_ok=True)
        containerfile = self._recipe.containerfile(self._root)
        self._buildah.build(tag, containerfile, base=base, contexts={"packages": empty}, target="dependencies")

    def _ensure_dependencies(self, skeleton: Image) -> str:
        lock, parent = self._recipe.lock(self._root), skeleton.chain_ids()[-1]
        name = chain_id(parent, diff_id(lock))
        if name not in self._containerd.snapshots():
            require_space(self._layout.cache, self._recipe.disk, f"the {self._recipe.name} image")
            scratch = self._layout.build / f"{self._recipe.name}-dependencies"
            with self._progress.step(f"dependencies of the {self._recipe.name} image") as step:
                make_layer(lock, parent, self._containerd, scratch, step)
        return name

    def _build_code(self, base: str, skeleton: str) -> str:
        tag = f"localhost/octavo/{self._recipe.name}:dev"
        wheels = self._layout.build / f"{self._recipe.name}-wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        build_wheels([self._root / member for member in self._recipe.members], wheels / "wheels")
        contexts: dict[str, Path | str] = {"wheels": wheels, "dependencies": f"container-image://{skeleton}"}
        self._buildah.build(tag, self._recipe.containerfile(self._root), base=base, contexts=contexts)
        shutil.rmtree(wheels)
        return tag


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
