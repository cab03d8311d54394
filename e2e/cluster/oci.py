"""OCI images as archives: a small image made from bytes, and an OCI layout streamed without the layers that are
already there.

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
    """One image: its two documents, whose bytes name it."""

    manifest: bytes
    config: bytes

    @property
    def layers(self) -> tuple[str, ...]:
        """Digests of the layer blobs, the base first."""
        return tuple(layer["digest"] for layer in json.loads(self.manifest)["layers"])

    def chain_ids(self) -> tuple[str, ...]:
        """The names of the unpacked layers, the base first."""
        chain: list[str] = []
        for diff in json.loads(self.config)["rootfs"]["diff_ids"]:
            chain.append(chain_id(chain[-1] if chain else None, diff))
        return tuple(chain)

    def blobs(self) -> set[str]:
        """Digests of everything that it consists of."""
        return {digest(self.manifest), digest(self.config), *self.layers}

    def with_layer(self, position: int, diff: str) -> "Image":
        """The same image with one more uncompressed layer, as number `position` from the base."""
        manifest, config = json.loads(self.manifest), json.loads(self.config)
        config["rootfs"]["diff_ids"].insert(position, diff)
        config.pop("history", None)  # It would no longer match the layers, and is optional.
        new_config = json.dumps(config).encode()
        manifest["config"] = _descriptor(_CONFIG, new_config)
        manifest["layers"].insert(position, {"mediaType": _LAYER, "digest": diff, "size": 0})
        return Image(json.dumps(manifest).encode(), new_config)


def digest(data: bytes) -> str:
    return "sha256:" + sha256(data).hexdigest()


def chain_id(parent: str | None, diff: str) -> str:
    """The name of a layer unpacked upon its parent (OCI image configuration, "layer ChainID")."""
    return digest(f"{parent} {diff}".encode()) if parent else diff


def blob_path(layout: Path, name: str) -> Path:
    return layout / "blobs" / name.replace(":", "/")


def read_image(layout: Path) -> Image:
    """The only image of an OCI layout."""
    (only,) = json.loads((layout / "index.json").read_text())["manifests"]
    manifest = blob_path(layout, only["digest"]).read_bytes()
    return Image(manifest, blob_path(layout, json.loads(manifest)["config"]["digest"]).read_bytes())


def stream_image(image: Image, layout: Path, name: str, without: set[str], out: IO[bytes]) -> None:
    """Writes an archive of the image, its layers from an OCI layout except those that the reader already has."""
    with tarfile.open(fileobj=out, mode="w|") as archive:
        _add_documents(archive, image, name)
        for layer in image.layers:
            if layer not in without:
                archive.add(blob_path(layout, layer), f"blobs/{layer.replace(':', '/')}")


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
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": _descriptor(_CONFIG, config_bytes),
        "layers": [_descriptor(_LAYER, layer)],
    }
    with tarfile.open(fileobj=out, mode="w|") as archive:
        _add_documents(archive, Image(json.dumps(manifest).encode(), config_bytes), name)
        _add_blob(archive, layer)


def _layer(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            _add(archive, path, data, mode=0o755)
    return buffer.getvalue()


def _add_documents(archive: tarfile.TarFile, image: Image, name: str) -> None:
    annotations = {"io.containerd.image.name": name}
    descriptor = {**_descriptor(_MANIFEST, image.manifest), "annotations": annotations}
    index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [descriptor]}
    _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    _add(archive, "index.json", json.dumps(index).encode())
    _add_blob(archive, image.manifest)
    _add_blob(archive, image.config)


def _add_blob(archive: tarfile.TarFile, data: bytes) -> None:
    _add(archive, f"blobs/{digest(data).replace(':', '/')}", data)


def _add(archive: tarfile.TarFile, path: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}
