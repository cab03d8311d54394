"""A registry that has one image, of an OCI layout, for whoever knows its password.

What a pull asks of it, by the OCI distribution specification 1.1: a manifest by tag or digest, and blobs by digest.
It has no certificate: the node is told to reach it by HTTP.
"""

from __future__ import annotations

import base64
import json
import shutil
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from cluster.oci import blob_path, digest, read_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LOGIN: Final = base64.b64encode(b"soak:let-me-in").decode()


@contextmanager
def registry(folder: Path, name: str, registries: Path) -> Iterator[str]:
    """The reference of the image in an OCI layout, with the tag 1, in a registry that runs meanwhile."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, _files(folder, name)))
    Thread(target=server.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{server.server_port}"
    (registries / host).mkdir(parents=True)
    (registries / host / "hosts.toml").write_text(f'server = "http://{host}"\n')
    try:
        yield f"{host}/{name}:1"
    finally:
        server.shutdown()
        server.server_close()


def pull_secret(reference: str, name: str, namespace: str) -> dict[str, Any]:
    """The Secret with which a kubelet may pull."""
    config = {"auths": {reference.partition("/")[0]: {"auth": _LOGIN}}}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": {".dockerconfigjson": json.dumps(config)},
    }


def _files(folder: Path, name: str) -> dict[str, Path]:
    """What it has, by the path in its URL."""
    image = read_image(folder)
    manifest = digest(image.manifest)
    named = {f"/v2/{name}/manifests/{key}": blob_path(folder, manifest) for key in ("1", manifest)}
    return named | {f"/v2/{name}/blobs/{blob}": blob_path(folder, blob) for blob in image.blobs()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, files: Mapping[str, Path], *connection: Any) -> None:
        self._files = files
        super().__init__(*connection)

    def do_GET(self) -> None:
        if file := self._found():
            with file.open("rb") as blob:
                shutil.copyfileobj(blob, self.wfile)

    def do_HEAD(self) -> None:
        self._found()

    def log_message(self, *_: object) -> None:
        """Nothing: the kubelet's events say what fails."""

    def _found(self) -> Path | None:
        """The file that is asked for, when its header is sent; None when something else is answered."""
        file = self._files.get(self.path)
        if self.headers["Authorization"] != f"Basic {_LOGIN}":
            self._answer(HTTPStatus.UNAUTHORIZED, 0, ("WWW-Authenticate", 'Basic realm="soak"'))
            return None
        if file is None:
            self._answer(HTTPStatus.NOT_FOUND, 0)
            return None
        kind = (
            "application/vnd.oci.image.manifest.v1+json" if "/manifests/" in self.path else "application/octet-stream"
        )
        named = ("Docker-Content-Digest", f"sha256:{file.name}")
        self._answer(HTTPStatus.OK, file.stat().st_size, ("Content-Type", kind), named)
        return file

    def _answer(self, status: HTTPStatus, length: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for header, value in (("Content-Length", str(length)), *headers):
            self.send_header(header, value)
        self.end_headers()
