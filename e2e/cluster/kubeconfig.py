"""Kubeconfig files with a token, and the few questions that are asked of an API server without a client library."""

import json
import ssl
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

from cluster.certificates import Pki


def kubeconfig_text(server: str, ca: bytes, token: str) -> str:
    """A kubeconfig (JSON is YAML) with everything inline, so that the file can be copied anywhere."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "octavo", "cluster": {"server": server, "certificate-authority-data": b64encode(ca).decode()}}
        ],
        "users": [{"name": "octavo", "user": {"token": token}}],
        "contexts": [{"name": "octavo", "context": {"cluster": "octavo", "user": "octavo"}}],
        "current-context": "octavo",
    }
    return json.dumps(config, indent=2) + "\n"


def write_kubeconfig(path: Path, server: str, pki: Pki, user: str) -> Path:
    unfinished = path.with_suffix(".new")
    unfinished.touch(0o600)
    unfinished.write_text(kubeconfig_text(server, pki.ca.read_bytes(), pki.token(user)))
    return unfinished.replace(path)


class ApiServer:
    """A few plain requests to one API server, as its administrator."""

    def __init__(self, server: str, pki: Pki) -> None:
        self.server = server
        self._token = pki.token("admin")
        self._context = ssl.create_default_context(cafile=str(pki.ca))
        # No proxy from the environment may come between us and the loopback interface.
        handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        self._opener = urllib.request.build_opener(*handlers)

    def get(self, path: str, timeout: float = 2.0) -> bytes:
        """The body of a 2xx answer; raises OSError (of which HTTPError is one) otherwise."""
        request = urllib.request.Request(self.server + path, headers={"Authorization": f"Bearer {self._token}"})
        with self._opener.open(request, timeout=timeout) as answer:
            body: bytes = answer.read()
        return body

    def ready(self) -> bool:
        return self.exists("/readyz")

    def exists(self, path: str) -> bool:
        try:
            self.get(path)
        except OSError:
            return False
        return True

    def read(self, path: str) -> dict[str, Any] | None:
        """One object or list; None where there is no (good) answer."""
        try:
            found: dict[str, Any] = json.loads(self.get(path))
        except OSError:
            return None
        return found
