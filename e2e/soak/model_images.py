"""The demo's model in OCI images, as users make them: each layer a COPY into an empty image."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import models
from cluster.buildah import Buildah
from cluster.containerd import Containerd
from cluster.delivery import deliver, export
from cluster.locks import exclusive
from cluster.oci import read_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cluster import Layout, Progress


@dataclass(frozen=True)
class ModelImage:
    """Files of the models folder in an image."""

    layers: tuple[str, ...]
    """What each layer copies, as a Containerfile says it."""
    path: str = "."
    """Where the model is in it."""

    @property
    def containerfile(self) -> str:
        return "".join(("FROM scratch\n", *(f"COPY {layer}\n" for layer in self.layers)))


_FOLDER: Final = "SmolLM2-135M-Instruct-fp32"
_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SMALL: Final = " ".join(f"{_FOLDER}/{name}" for name in ("*.json", "*.jinja"))

MODELS: Final = {
    "folder": ModelImage((f"--chmod=0644 {_SMALL} /", f"--chmod=0644 {_FOLDER}/*.safetensors /")),
    "file": ModelImage((f"--chmod=0644 {_FILE} /llama/",), f"llama/{_FILE}"),
    "locked": ModelImage((f"--chmod=0600 {_SMALL} {_FOLDER}/*.safetensors /",)),
}
"""A Hugging Face folder in two layers, a GGUF file in a folder, and files that their owner alone can read."""


@contextmanager
def model_images(layout: Layout, progress: Progress) -> Iterator[dict[str, Path]]:
    """An OCI layout of each, removed afterwards."""
    models.smollm2_safetensors()  # which needs the GGUF file
    scratch = layout.build / "model-images"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        with exclusive(layout.images_lock, progress):
            for name, image in MODELS.items():
                with progress.step(f"image of a model: {name}"):
                    _make(name, image, scratch, Buildah(layout))
        yield {name: scratch / name for name in MODELS}
    finally:
        shutil.rmtree(scratch)


def give(layout: Layout, folder: Path, reference: str) -> None:
    """Makes the node's containerd have an image without a registry."""
    deliver(read_image(folder), folder, reference, Containerd(layout))


def forget(layout: Layout, part: str) -> None:
    """Removes from the node's containerd the images with that in one of their names."""
    containerd = Containerd(layout)
    there = containerd.images()
    ours = {manifest for name, manifest in there.items() if part in name}
    containerd.remove_images(name for name, manifest in there.items() if manifest in ours)


def _make(name: str, image: ModelImage, scratch: Path, buildah: Buildah) -> None:
    tag, recipe = f"localhost/octavo/model-{name}:soak", scratch / f"{name}.containerfile"
    recipe.write_text(image.containerfile)
    buildah.build(tag, recipe, context=models.models_folder())
    export(tag, scratch / name, buildah)
    buildah.remove([tag])
    buildah.prune()
