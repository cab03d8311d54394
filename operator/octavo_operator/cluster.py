"""The only module that talks to the Kubernetes API (the watch apart, which is kopf's).

Plain objects in and out, one request per call, no retries: the work queue asks again. Every failure becomes
`Rejected` or `Unavailable`. Writes are server-side apply with one field manager; `force` takes the fields that we
own, and only those.

Every write but the Lease's own passes the fence, and carries the resource version of what it was decided from: what a
leader that was paused for minutes still sends is refused by one of the two.
"""

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from octavo_operator.core import names
from octavo_operator.core.errors import Rejected, SettingsError, Unavailable
from octavo_operator.fence import Fence
from octavo_operator.logs import kv
from octavo_operator.metrics import Metrics
from octavo_operator.store import Raw, slim

PAGE: Final = 500
_READ_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)

_FINAL_STATUSES: Final = frozenset({400, 403, 404, 405, 422})
_NO_SUCH_FIELD: Final = "failed to create typed patch object"
"""What server-side apply says of a field that a kind does not have, or of another type. It calls that a failure of its
own (HTTP 500), and yet the same object will never do."""
_UNDECLARED: Final = re.compile(r"\.status\.(\w+)[^:\n]*: field not declared in schema")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """How to reach the API server; for the watch."""

    server: str
    ca_path: str | None
    insecure: bool
    token: str | None
    certificate_path: str | None
    private_key_path: str | None
    username: str | None
    password: str | None


class Cluster:
    """A connection to one API server."""

    def __init__(self, kubeconfig: str | None, metrics: Metrics, fence: Fence) -> None:
        self._kubeconfig = kubeconfig
        self._metrics = metrics
        self._fence = fence
        self._undeclared: set[str] = set()
        self._short = aiohttp.ClientTimeout(total=fence.write_timeout)

    async def __aenter__(self) -> Self:
        """Reads the kubeconfig, or else the pod's service account. SettingsError if there is neither."""
        self._configuration = client.Configuration()
        try:
            if self._kubeconfig is None:
                config.load_incluster_config(client_configuration=self._configuration)
            else:
                await config.load_kube_config(config_file=self._kubeconfig, client_configuration=self._configuration)
        except (config.ConfigException, OSError) as error:
            where = f"KUBECONFIG {self._kubeconfig}" if self._kubeconfig else "no KUBECONFIG, and no service account"
            raise SettingsError(f"{where}: {error}") from error
        self._configuration.client_session_kwargs = {"trust_env": False}  # else each call asks two threads for a proxy
        self._api = client.ApiClient(self._configuration)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connections."""
        await self._api.close()

    async def credentials(self) -> Credentials:
        """What the watch needs to log in; tokens are read anew, since they expire."""
        headers: dict[str, str] = {}
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], "", "GET", None)
        cfg = self._configuration
        return Credentials(
            server=cfg.host,
            ca_path=cfg.ssl_ca_cert,
            insecure=not cfg.verify_ssl,
            token=headers.get("authorization", "").split(" ", 1)[-1] or None,
            certificate_path=cfg.cert_file,
            private_key_path=cfg.key_file,
            username=cfg.username or None,
            password=cfg.password or None,
        )

    async def get(self, kind: str, namespace: str, name: str) -> Raw | None:
        """One object, or None."""
        try:
            return slim(await self._call("GET", kind, namespace, name))
        except Rejected as error:
            if error.status == 404:
                return None
            raise

    async def list_all(self, kind: str, namespaces: Sequence[str]) -> tuple[list[Raw], int]:
        """All objects of a kind that concern the operator, and the resource version up to which the list is true."""
        pages = [await self._list_one(kind, namespace) for namespace in namespaces or ("",)]
        versions = [version for _, version in pages]
        return [raw for raws, _ in pages for raw in raws], min(versions)

    async def apply(self, manifest: Raw) -> Raw:
        """Server-side apply of a child; returns it as it is now."""
        metadata = manifest["metadata"]
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        answer = await self._call(
            "PATCH", manifest["kind"], metadata["namespace"], metadata["name"], query=query, body=manifest
        )
        return slim(answer)

    async def apply_status(self, server: Raw, status: Raw) -> Raw | None:
        """Server-side apply of a ModelServer's status. None when it is gone, or is not any more what `server` is."""
        metadata = {key: server["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
        namespace, name = metadata["namespace"], metadata["name"]
        body = {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "status": status}
        query = {"fieldManager": names.FIELD_MANAGER, "force": "true"}
        try:
            return slim(await self._call("PATCH", names.KIND, namespace, f"{name}/status", query=query, body=body))
        except (Rejected, Unavailable) as error:
            if error.status in (404, 409):
                return None
            known = self._known_members(status, str(error))
            if known == status:
                raise
        return await self.apply_status(server, known)

    def _known_members(self, status: Raw, refusal: str) -> Raw:
        """Without what an older CRD does not have: its users should hear all that it can say, and not nothing."""
        unknown = set(_UNDECLARED.findall(refusal))
        for member in unknown - self._undeclared:
            words = "the CRD is older than this operator: apply crds/modelserver.yaml"
            logger.warning(words, extra=kv(it_lacks=f"status.{member}"))
        self._undeclared |= unknown
        return {member: value for member, value in status.items() if member not in unknown}

    async def remove(self, existing: Raw) -> None:
        """Deletes exactly this version of a child; one that is gone already is fine."""
        metadata = existing["metadata"]
        conditions = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": conditions}
        try:
            await self._call("DELETE", existing["kind"], metadata["namespace"], metadata["name"], body=body)
        except Rejected as error:
            if error.status != 404:
                raise

    async def serves(self, kind: str) -> bool:
        """Whether the cluster has this kind; asked by name, since the whole discovery is megabytes."""
        resource = names.RESOURCES[kind]
        try:
            answer = await self._request("GET", kind, _group(resource))
        except Rejected as error:
            if error.status == 404:
                return False
            raise
        return any(item.get("name") == resource.plural for item in answer.get("resources", ()))

    async def create_event(self, namespace: str, body: Raw) -> None:
        """Posts one event of events.k8s.io/v1."""
        await self._call("POST", "Event", namespace, "", body=body)

    async def write_lease(self, lease: Raw) -> Raw:
        """Replaces the version of the Lease that is named in it, or creates one. Unavailable (409) if it is stale."""
        metadata = lease["metadata"]
        new = "resourceVersion" not in metadata
        verb, name = ("POST", "") if new else ("PUT", metadata["name"])
        return await self._call(verb, "Lease", metadata["namespace"], name, body=lease)

    async def _list_one(self, kind: str, namespace: str) -> tuple[list[Raw], int]:
        selector = {} if kind == names.KIND else {"labelSelector": names.LABEL_MODEL_SERVER}
        raws: list[Raw] = []
        more = ""
        while True:
            query = {"limit": str(PAGE), **selector, **({"continue": more} if more else {})}
            page = await self._call("GET", kind, namespace, "", query=query)
            types = {"kind": kind, "apiVersion": names.RESOURCES[kind].api_version}  # a list's items come without them
            raws += [{**slim(item), **types} for item in page["items"]]
            more = page["metadata"].get("continue", "")
            if not more:
                return raws, int(page["metadata"]["resourceVersion"])

    async def _call(
        self,
        verb: str,
        kind: str,
        namespace: str,
        name: str,
        *,
        query: dict[str, str] | None = None,
        body: Raw | None = None,
    ) -> Raw:
        return await self._request(verb, kind, _url(kind, namespace, name, query), body, f"{namespace}/{name}")

    async def _request(self, verb: str, kind: str, path: str, body: Raw | None = None, name: str = "") -> Raw:
        status = 0
        try:
            status, text = await self._send(verb, kind, path, body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{verb} {kind} {name}: {error or type(error).__name__}") from error
        finally:
            self._metrics.api_requests.labels(verb=verb, kind=kind, status=str(status)).inc()
        answer = _parse(text)
        if status < 300 and answer is not None:
            return answer
        told = answer or {}
        message = f"{verb} {kind} {name}: {told.get('message') or f'{status}, no JSON object: {text[:200]!r}'}"
        if status in _FINAL_STATUSES or _NO_SUCH_FIELD in message:
            raise Rejected(message, status)
        raise Unavailable(message, status, told.get("details", {}).get("retryAfterSeconds"))

    async def _send(self, verb: str, kind: str, path: str, body: Raw | None) -> tuple[int, str]:
        headers = {"Accept": "application/json", "User-Agent": names.FIELD_MANAGER}
        if body is not None:
            headers["Content-Type"] = "application/apply-patch+yaml" if verb == "PATCH" else "application/json"
        await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, verb, body)
        url = self._configuration.host + path
        timeout = _READ_TIMEOUT if verb == "GET" and kind != "Lease" else self._short
        if verb != "GET" and kind != "Lease":
            self._fence.check(f"{verb} {path}")
        answer = await self._api.call_api(verb, url, headers, body, None, _request_timeout=timeout)
        data = await answer.read()
        return answer.status, data.decode(errors="replace")


def _url(kind: str, namespace: str, name: str, query: dict[str, str] | None) -> str:
    resource = names.RESOURCES[kind]
    place = f"/namespaces/{quote(namespace)}" if namespace else ""
    tail = f"/{quote(name)}" if name else ""
    return f"{_group(resource)}{place}/{resource.plural}{tail}" + (f"?{urlencode(query)}" if query else "")


def _group(resource: names.Resource) -> str:
    return f"/apis/{resource.api_version}" if resource.group else f"/api/{resource.version}"


def _parse(text: str) -> Raw | None:
    """The object in an answer, or None where there is none."""
    try:
        answer = json.loads(text)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
