"""OCI images as archives: a small image made from bytes, and an OCI layout streamed without the layers that are already there.

The formats are the OCI image layout and image manifest specifications, 1.0; containerd reads the image's name from the
annotation `io.containerd.image.name` in index.json.
"""

import io
import json
import platform
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Image:
    """One image of an OCI layout."""

    manifest_digest: str
    config_digest: str
    layers: tuple[str, ...]
    """Digests of the layer blobs, the base first."""
    diff_ids: tuple[str, ...]
    """Digests of the same layers uncompressed."""

    def chain_ids(self) -> tuple[str, ...]:
        """The names of the unpacked layers: each is the hash of the one below and its own diff id (OCI image config)."""
        chain: list[str] = []
        for diff in self.diff_ids:
            chain.append(digest(f"{chain[-1]} {diff}".encode()) if chain else diff)
        return tuple(chain)


def digest(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


def blob_path(layout: Path, name: str) -> Path:
    return layout / "blobs" / name.replace(":", "/")


def read_image(layout: Path) -> Image:
    """The only image of an OCI layout."""
    manifest_digest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    manifest = json.loads(blob_path(layout, manifest_digest).read_text())
    config_digest = manifest["config"]["digest"]
    config = json.loads(blob_path(layout, config_digest).read_text())
    layers = tuple(layer["digest"] for layer in manifest["layers"])
    return Image(manifest_digest, config_digest, layers, tuple(config["rootfs"]["diff_ids"]))


def stream_layout(layout: Path, name: str, without: set[str], out: IO[bytes]) -> None:
    """Writes an OCI layout as an archive, leaving these blobs out; nothing is copied but the stream itself."""
    image = read_image(layout)
    manifest = blob_path(layout, image.manifest_digest)
    with tarfile.open(fileobj=out, mode="w|") as archive:
        _add_head(archive, name, image.manifest_digest, manifest.stat().st_size)
        for each in (image.manifest_digest, image.config_digest, *image.layers):
            if each not in without:
                archive.add(blob_path(layout, each), f"blobs/{each.replace(':', '/')}")


def write_small_image(name: str, files: Mapping[str, bytes], entrypoint: Iterable[str], out: IO[bytes]) -> None:
    """Writes an image with one layer of executable files; the same input gives the same bytes."""
    layer = _layer(files)
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
    }
    config_bytes = json.dumps(config).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": _descriptor(_CONFIG, config_bytes),
            "layers": [_descriptor(_LAYER, layer)],
        }
    ).encode()
    with tarfile.open(fileobj=out, mode="w|") as archive:
        _add_head(archive, name, digest(manifest), len(manifest))
        for blob in (manifest, config_bytes, layer):
            _add(archive, f"blobs/{digest(blob).replace(':', '/')}", blob)


def _layer(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            _add(archive, path, data, mode=0o755)
    return buffer.getvalue()


def _add_head(archive: tarfile.TarFile, name: str, manifest_digest: str, manifest_size: int) -> None:
    descriptor = {
        "mediaType": _MANIFEST,
        "digest": manifest_digest,
        "size": manifest_size,
        "annotations": {"io.containerd.image.name": name},
    }
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [descriptor]}
    _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    _add(archive, "index.json", json.dumps(index).encode())


def _add(archive: tarfile.TarFile, path: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}
