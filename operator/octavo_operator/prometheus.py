"""Calls of one Prometheus: the deadline, the size limit, who we are. What an answer says is read in `core/promql.py`.

No redirect is followed: it could lead to any address, with our token.
"""

import ssl
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from octavo_operator.core.errors import PrometheusError, SettingsError
from octavo_operator.settings import PrometheusServer

LARGEST_ANSWER: Final = 16 << 20


class PrometheusClient:
    """A session with one Prometheus; `deadline` is in seconds, for each request."""

    def __init__(self, server: PrometheusServer, deadline: float) -> None:
        self._server = server
        self._deadline = deadline
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=_trust(self._server.ca_file))
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._deadline),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def query(self, promql: str, at: float) -> tuple[int, bytes]:
        """HTTP status and body of an instant query; PrometheusError where there is none."""
        return await self._post("query", {"query": promql, "time": f"{at:.3f}"})

    async def query_range(self, promql: str, start: float, end: float, step: float) -> tuple[int, bytes]:
        """The same of a range query."""
        times = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        return await self._post("query_range", {"query": promql, **times})

    async def _post(self, path: str, parameters: dict[str, str]) -> tuple[int, bytes]:
        """POST, because a query of a hundred pods is longer than an address may be."""
        assert self._session is not None, "only inside async with"
        url = f"{self._server.url}/api/v1/{path}"
        try:
            async with self._session.post(
                url, data=parameters, headers=self._headers(), allow_redirects=False
            ) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > LARGEST_ANSWER:
                        raise PrometheusError(f"answered with more than {LARGEST_ANSWER >> 20} MiB")
                return answer.status, bytes(body)
        except TimeoutError:
            raise PrometheusError(f"did not answer within {self._deadline:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PrometheusError(f"could not be asked: {error}") from None

    def _headers(self) -> dict[str, str]:
        """The authorization, read anew each time: a projected token is replaced every hour."""
        path = self._server.authorization_file
        if path is None:
            return {}
        text = Path(path).read_text().strip()
        return {"Authorization": text if " " in text else f"Bearer {text}"}


def _trust(ca_file: str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"OCTAVO_PROMETHEUS_CA_FILE is {ca_file}: {error}") from error
