"""What a model's source asks of the pod and of the network.

source   argument              volume at /models           goes out to          time to start
──────   ────────              ─────────────────           ───────────          ─────────────
pvc      /models/PATH          the claim, read-only        nobody               to load
oci      /models/PATH          the image, read-only        nobody               to load; the node pulls it before
hub      hf://REPO@REVISION    the cache: a claim, or      DNS, and the port    to fetch and to load
s3       s3://BUCKET/PREFIX    an emptyDir of the pod's    of the endpoint

The runtime fetches (runtime/octavo_runtime/sources). What it has fetched survives the container, so one that the
kubelet restarts goes on where the last one ended.
"""

import posixpath
from typing import Final
from urllib.parse import urlsplit

from octavo_operator.core import names
from octavo_operator.core.manifest import Manifest, Owner, child
from octavo_operator.core.spec_model import Model
from octavo_operator.core.spec_source import HubSource, OciSource, PvcSource, S3Source

LOAD_SECONDS: Final = 1800
"""Time that a replica may take to load its model; 140 GB from slow storage need a good part of it."""

FETCH_SECONDS: Final = 7200
"""Time that it may take to fetch it before: 140 GB at 20 MB/s."""

_DEFAULT_REGION: Final = "us-east-1"
_HTTPS: Final = 443
_DNS: Final = 53


def startup_seconds(model: Model) -> int:
    """How long a replica may take to start."""
    return LOAD_SECONDS + (FETCH_SECONDS if model.source.is_fetched else 0)


def pull_seconds(model: Model) -> int:
    """How long the node may take to pull the model before a replica starts."""
    return FETCH_SECONDS if model.source.oci else 0


def model_argument(model: Model) -> str:
    """The model as `octavo serve` takes it."""
    match _source(model):
        case PvcSource(path=path) | OciSource(path=path):
            return posixpath.normpath(posixpath.join(names.MODELS_FOLDER, path))
        case HubSource() as hub:
            return f"hf://{hub.repo}@{hub.revision}" + (f"/{hub.file}" if hub.file else "")
        case S3Source() as s3:
            return s3.uri


def source_env(model: Model) -> list[Manifest]:
    """Addresses and credentials, in the variables that the fetching libraries read."""
    match _source(model):
        case HubSource() as hub:
            return [*_value("HF_ENDPOINT", hub.endpoint), *_hub_token(hub)]
        case S3Source() as s3:
            region = _value("AWS_REGION", s3.region or _DEFAULT_REGION)
            return [*_value("AWS_ENDPOINT_URL", s3.endpoint), *region, *_s3_credentials(s3)]
        case PvcSource() | OciSource():
            return []


def make_cache_claim(model: Model, owner: Owner) -> Manifest | None:
    """The claim for what is fetched; None where none is asked for."""
    claim = model.cache.claim if model.cache else None
    if claim is None:
        return None
    storage_class = {"storageClassName": claim.storage_class_name} if claim.storage_class_name else {}
    resources = {"requests": {"storage": claim.size}}
    return child(
        owner,
        "PersistentVolumeClaim",
        spec={"accessModes": [claim.access_mode], "resources": resources} | storage_class,
    )


def model_volume(model: Model, server: str) -> Manifest:
    """The volume at `names.MODELS_FOLDER` of the pods of a ModelServer."""
    if model.source.pvc:
        return _claim(model.source.pvc.claim_name, readOnly=True)
    if model.source.oci:
        oci = model.source.oci
        policy = {"pullPolicy": oci.pull_policy} if oci.pull_policy else {}
        return {"name": "model", "image": {"reference": oci.image, **policy}}
    cache = model.cache
    if cache and (name := cache.claim_name(server)):
        return _claim(name)
    return {"name": "model", "emptyDir": {"sizeLimit": cache.size_limit} if cache and cache.size_limit else {}}


def shares_a_volume(model: Model) -> bool:
    """Whether the replicas write to a claim, which must then belong to their group."""
    return model.cache is not None and model.cache.size_limit is None


def egress(model: Model) -> list[Manifest]:
    """The rules of a NetworkPolicy for what the fetch connects to. It knows no host names, so ports must do."""
    source = _source(model)
    if isinstance(source, PvcSource | OciSource):
        return []
    return [{"ports": [*dns_ports(), {"protocol": "TCP", "port": _port(source.endpoint)}]}]


def dns_ports() -> list[Manifest]:
    """Where names are asked for."""
    return [{"protocol": protocol, "port": _DNS} for protocol in ("UDP", "TCP")]


def _source(model: Model) -> PvcSource | OciSource | HubSource | S3Source:
    source = model.source.pvc or model.source.oci or model.source.hub or model.source.s3
    assert source is not None, "parse_spec admits no ModelSource without a member"
    return source


def _port(endpoint: str | None) -> int:
    if endpoint is None:
        return _HTTPS
    parts = urlsplit(endpoint)
    return parts.port or (_HTTPS if parts.scheme == "https" else 80)


def _claim(name: str, **more: bool) -> Manifest:
    return {"name": "model", "persistentVolumeClaim": {"claimName": name, **more}}


def _hub_token(hub: HubSource) -> list[Manifest]:
    secret = hub.token_secret_ref
    return [_secret("HF_TOKEN", secret.name, secret.key)] if secret else []


def _s3_credentials(s3: S3Source) -> list[Manifest]:
    """Without a Secret the library would ask the node for its own identity, which is not the ModelServer's to use."""
    secret = s3.credentials_secret_ref
    if secret is None:
        return _value("AWS_SKIP_SIGNATURE", "true")
    key, session = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "AWS_SESSION_TOKEN"
    return [*(_secret(name, secret.name, name) for name in key), _secret(session, secret.name, session, optional=True)]


def _value(name: str, value: str | None) -> list[Manifest]:
    return [{"name": name, "value": value}] if value else []


def _secret(name: str, secret: str, key: str, **more: bool) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, **more}}}
