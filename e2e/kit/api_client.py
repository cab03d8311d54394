"""The API server over aiohttp, for what has to be quick: kubectl takes a tenth of a second to start."""

from __future__ import annotations

import asyncio
import json
import ssl
from base64 import b64decode
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import yaml

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

Raw = dict[str, Any]


class ApiClient:
    """As the user of a kubeconfig with a token. Paths are the API server's own."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self._server = cluster["server"]
        authority = b64decode(cluster["certificate-authority-data"]).decode()
        self._trust = ssl.create_default_context(cadata=authority)
        self._headers = {"Authorization": f"Bearer {user['token']}"}

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._trust, limit=64)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=60)
        self._session = aiohttp.ClientSession(
            self._server, connector=connector, timeout=timeout, headers=self._headers, raise_for_status=True
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def get(self, path: str) -> Raw:
        return await self._json("GET", path)

    async def post(self, path: str, body: Raw) -> Raw:
        return await self._json("POST", path, body)

    async def patch(self, path: str, body: Raw) -> Raw:
        """A merge patch."""
        return await self._json("PATCH", path, body, "application/merge-patch+json")

    async def apply(self, path: str, body: Raw, manager: str) -> Raw:
        """Server-side apply by that field manager."""
        return await self._json("PATCH", f"{path}?fieldManager={manager}", body, "application/apply-patch+yaml")

    async def delete(self, path: str, body: Raw) -> Raw:
        return await self._json("DELETE", path, body)

    async def watch(self, path: str) -> AsyncIterator[Raw]:
        """The events of a path, those of what is there first, for ever: they come again when a watch ended."""
        while True:
            async with self._session.get(path, params={"watch": "true"}, read_bufsize=1 << 22) as answer:
                async for line in answer.content:
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        break
                    yield event
            await asyncio.sleep(0.5)

    async def _json(self, verb: str, path: str, body: Raw | None = None, kind: str = "application/json") -> Raw:
        data = None if body is None else json.dumps(body)
        async with self._session.request(verb, path, data=data, headers={"Content-Type": kind}) as answer:
            found: Raw = await answer.json()
            return found
