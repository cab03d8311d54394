"""The demo's model in OCI images, as users make them: each layer a COPY into an empty image."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import models
from cluster.buildah import Buildah
from cluster.containerd import Containerd
from cluster.delivery import deliver, export
from cluster.locks import exclusive

if TYPE_CHECKING:
    from cluster import Layout, Progress


@dataclass(frozen=True)
class ModelImage:
    """Files of the models folder in an image. It is never pulled: its registry does not exist."""

    reference: str
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
    "folder": ModelImage(
        "octavo.local/models/folder:1",
        (f"--chmod=0644 {_SMALL} /", f"--chmod=0644 {_FOLDER}/*.safetensors /"),
    ),
    "file": ModelImage("octavo.local/models/file:1", (f"--chmod=0644 {_FILE} /llama/",), f"llama/{_FILE}"),
    "locked": ModelImage("octavo.local/models/locked:1", (f"--chmod=0600 {_SMALL} {_FOLDER}/*.safetensors /",)),
}
"""A Hugging Face folder in two layers, a GGUF file in a folder, and files that their owner alone can read."""


def deliver_models(layout: Layout, progress: Progress) -> None:
    """Makes the node's containerd have them all; what buildah needed meanwhile is removed."""
    models.smollm2_safetensors()  # which needs the GGUF file
    buildah, containerd = Buildah(layout), Containerd(layout)
    with exclusive(layout.images_lock, progress):
        for name, image in MODELS.items():
            with progress.step(f"image {image.reference}"):
                _deliver(name, image, layout, buildah, containerd)
        buildah.prune()


def _deliver(name: str, image: ModelImage, layout: Layout, buildah: Buildah, containerd: Containerd) -> None:
    tag, folder = f"localhost/octavo/model-{name}:soak", layout.build / f"model-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        recipe = folder / "Containerfile"
        recipe.write_text(image.containerfile)
        buildah.build(tag, recipe, context=models.models_folder())
        deliver(export(tag, folder / "oci", buildah), folder / "oci", image.reference, containerd)
        buildah.remove([tag])
    finally:
        shutil.rmtree(folder)
