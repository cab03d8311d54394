"""From buildah into containerd, sending only the layers that containerd has not unpacked yet.

An OCI layout between the two keeps the small blobs. A large layer that containerd has unpacked is replaced in the layout by
an empty file of the same size with no blocks on disk: buildah then sees that it need not write the layer again. containerd's
own copy of the packed layer is dropped too, since the unpacked one serves the pods: of 5.8 GB, one copy stays in buildah
and one in containerd.
"""

import os
import shutil
from pathlib import Path

from cluster.buildah import Buildah
from cluster.containerd import Containerd
from cluster.layout import Layout
from cluster.oci import Image, blob_path, read_image, stream_layout
from cluster.progress import Step

_LARGE = 64 << 20


def deliver(
    buildah: Buildah, containerd: Containerd, tag: str, reference: str, layout: Layout, step: Step
) -> str:
    """Makes containerd have the image under `reference`; returns its manifest digest."""
    folder = layout.images / "oci" / reference.split("/")[-1].replace(":", "-")
    step.note("export")
    image = _export(buildah, tag, folder, containerd.snapshots())
    step.note("import into containerd")
    present = {layer for layer, chain in zip(image.layers, image.chain_ids(), strict=True) if chain in containerd.snapshots()}
    containerd.import_image(lambda out: stream_layout(folder, reference, present, out))
    _drop_packed(containerd, image)
    _hollow_out(folder, image)
    return image.manifest_digest


def _export(buildah: Buildah, tag: str, folder: Path, snapshots: set[str]) -> Image:
    """Exports over the last layout; starts anew where that stands in for a layer that containerd has lost."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    buildah.export(tag, folder)
    image = read_image(folder)
    lost = [
        layer
        for layer, chain in zip(image.layers, image.chain_ids(), strict=True)
        if chain not in snapshots and is_hollow(blob_path(folder, layer))
    ]
    if lost:
        for layer in lost:
            blob_path(folder, layer).unlink()
        buildah.export(tag, folder)
    return image


def _drop_packed(containerd: Containerd, image: Image) -> None:
    for layer in set(image.layers) & containerd.blobs():
        containerd.remove_blob(layer)


def _hollow_out(folder: Path, image: Image) -> None:
    """Keeps this image's blobs only, and the large ones as empty files of their size."""
    needed = {blob_path(folder, d) for d in (image.manifest_digest, image.config_digest, *image.layers)}
    for blob in (folder / "blobs" / "sha256").iterdir():
        if blob not in needed:
            blob.unlink()
        elif blob.stat().st_size > _LARGE and not is_hollow(blob):
            hollow(blob)


def hollow(blob: Path) -> None:
    """Replaces a file by one of the same size that takes no room."""
    stand_in = blob.with_suffix(".hollow")
    with stand_in.open("wb") as file:
        os.truncate(file.fileno(), blob.stat().st_size)
    stand_in.replace(blob)


def is_hollow(blob: Path) -> bool:
    """Whether a file has a size and no content; False where there is no file."""
    try:
        status = blob.stat()
    except FileNotFoundError:
        return False
    return status.st_size > 0 and status.st_blocks == 0


def forget(layout: Layout) -> None:
    shutil.rmtree(layout.images / "oci", ignore_errors=True)
