"""From buildah into containerd, sending only what containerd has not unpacked yet."""

from pathlib import Path

from cluster.buildah import Buildah
from cluster.containerd import Containerd
from cluster.oci import Image, read_image, stream_image


def export(tag: str, folder: Path, buildah: Buildah) -> Image:
    """Brings the OCI layout in `folder` up to date with buildah's image; layers that it has are not written again."""
    folder.mkdir(parents=True, exist_ok=True)
    # An index that is there would be added to, and would still lead to the image before.
    (folder / "index.json").unlink(missing_ok=True)
    buildah.export(tag, folder)
    image = read_image(folder)
    needed = {digest.rpartition(":")[2] for digest in image.blobs()}
    for blob in (folder / "blobs" / "sha256").iterdir():
        if blob.name not in needed:
            blob.unlink()
    return image


def deliver(image: Image, folder: Path, reference: str, containerd: Containerd) -> None:
    """Makes containerd have the image under `reference`, and forget the one that was called so before."""
    snapshots = containerd.snapshots()
    unpacked = {layer for layer, chain in zip(image.layers, image.chain_ids(), strict=True) if chain in snapshots}
    containerd.import_image(lambda out: stream_image(image, folder, reference, unpacked, out))
    _drop_unnamed(containerd)


def _drop_unnamed(containerd: Containerd) -> None:
    """Removes images that are left with an id only: what a name of ours pointed to before."""
    images = containerd.images()
    named = {manifest for name, manifest in images.items() if not name.startswith("sha256:")}
    containerd.remove_images(name for name, manifest in images.items() if manifest not in named)
