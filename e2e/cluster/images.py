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

    def reference(self, inputs: str) -> str:
        """A tag of its own for each content: a changed reference is what makes Kubernetes replace pods."""
        return f"octavo.local/{self.name}:{inputs[:12]}"

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
    """Builds what changed and makes containerd have it. The references by name, `octavo.local/NAME:HASH`.

    `base` is an image that buildah can find, instead of the locally made one.
    """
    debian.ensure_programs({**debian.PACKAGES, **debian.IMAGE_PACKAGES}, progress)
    containerd = Containerd(layout)
    if not containerd.answers():
        raise ClusterError("the node is not running: run up first")
    recipes = [RECIPES[name] for name in names]
    with exclusive(layout.images_lock, progress):
        return {recipe.name: _Build(recipe, layout, progress, containerd).run(base) for recipe in recipes}


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

    def run(self, base: str | None) -> str:
        """The reference under which containerd has the image."""
        inputs = fingerprint(self._root, self._input_files(), base or base_tag())
        reference = self._recipe.reference(inputs)
        if self._delivered(reference):
            self._progress.say(f"image {reference} is up to date")
            return reference
        base = base or ensure_base(self._buildah, self._layout, self._progress)
        skeleton, skeleton_image = self._ensure_skeleton(base)
        dependencies = self._ensure_dependencies(skeleton_image)
        with self._progress.step(f"image {reference}") as step:
            step.note("build")
            tag = self._build_code(base, skeleton)
            step.note("export")
            folder = self._layout.images / "oci" / self._recipe.name
            code = export(tag, folder, self._buildah)
            image = code.with_layer(len(skeleton_image.layers), diff_id(self._recipe.lock(self._root)))
            step.note("import")
            deliver(image, folder, reference, self._containerd)
        release(dependencies, self._containerd)
        self._keep_two(reference, digest(image.manifest))
        self._buildah.prune()
        return reference

    def _input_files(self) -> Iterator[Path]:
        yield self._recipe.containerfile(self._root)
        yield self._recipe.lock(self._root)
        for member in self._recipe.members:
            yield from source_files(self._root / member)

    def _delivered(self, reference: str) -> bool:
        manifest = self._notes().get(reference)
        return manifest is not None and self._containerd.images().get(reference) == manifest

    def _notes(self) -> dict[str, str]:
        """Manifest digests of what was delivered, by reference, oldest first."""
        try:
            notes = json.loads(self._note.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return notes if isinstance(notes, dict) else {}

    def _keep_two(self, reference: str, manifest: str) -> None:
        """Notes the new image and removes all but it and the one before, which pods may still run while they roll."""
        notes = {old: known for old, known in self._notes().items() if old != reference} | {reference: manifest}
        kept = dict(list(notes.items())[-2:])
        family = reference.partition(":")[0] + ":"
        there = self._containerd.images()
        self._containerd.remove_images(name for name in there if name.startswith(family) and name not in kept)
        self._note.write_text(json.dumps(kept))

    def _ensure_skeleton(self, base: str) -> tuple[str, Image]:
        """The virtual environment without packages, in buildah and, unpacked, in containerd."""
        name = f"{self._recipe.name}-skeleton"
        recipe = up_to_stage(self._recipe.containerfile(self._root).read_text(), "dependencies")
        key = digest(f"{base}\0{recipe}".encode())[7:19]
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
        nothing = self._layout.build / f"{self._recipe.name}-launcher"  # of use on a GPU alone
        (nothing / "opt/octavo/kernels").mkdir(parents=True, exist_ok=True)
        contexts: dict[str, Path | str] = {
            "wheels": wheels,
            "dependencies": f"container-image://{skeleton}",
            "launcher": nothing,
        }
        self._buildah.build(tag, self._recipe.containerfile(self._root), base=base, contexts=contexts)
        shutil.rmtree(wheels)
        return tag


def source_files(member: Path) -> list[Path]:
    """A member's files that end up in its wheel or decide about it, in a stable order."""
    return sorted(path for path in member.rglob("*") if path.is_file() and not _is_left_over(path.relative_to(member)))


def _is_left_over(path: Path) -> bool:
    """Whether a file was made by a tool, not by a person."""
    made = ("__pycache__", "build", "dist")
    return any(part in made or part.startswith(".") or part.endswith(".egg-info") for part in path.parts)


def up_to_stage(containerfile: str, stage: str) -> str:
    """The text of a Containerfile to the end of one stage; what follows cannot change that stage."""
    before, head, after = containerfile.partition(f" AS {stage}\n")
    if not head:
        raise ClusterError(f"the Containerfile has no stage {stage}")
    return before + head + after.partition("\nFROM ")[0]


def fingerprint(root: Path, files: Iterable[Path], extra: str = "") -> str:
    """A hash of the files' contents and of their places below `root`; another checkout of the same has the same."""
    total = sha256(extra.encode())
    for path in files:
        total.update(f"\0{path.relative_to(root).as_posix()}\0{path.stat().st_size}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()
