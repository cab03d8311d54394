"""The operator's own settings: environment variables, read once at the start into a frozen value.

OCTAVO_RUNTIME_IMAGE      image of the runtime where a ModelServer names none (required)
OCTAVO_ACTIVATOR_IMAGE    the operator's own image, for activators; empty: nothing can be scaled to zero
OCTAVO_WATCH_NAMESPACES   namespaces to watch, separated by commas; empty: all
OCTAVO_PROMETHEUS_NAMESPACE
                          whose pods may scrape the replicas; empty: nobody's
OCTAVO_POD_MONITORS       true or false: PodMonitors where the cluster has them     true
OCTAVO_POD_MONITOR_LABELS
                          more labels of them, such as release=monitoring,team=ml
OCTAVO_PROFILES_CONFIGMAP
                          ConfigMap with more accelerator profiles in the operator's namespace; empty: none
OCTAVO_PROMETHEUS_URL     the Prometheus that ModelServers with metrics.source Prometheus are
                          scaled by; empty: none
OCTAVO_PROMETHEUS_AUTHORIZATION_FILE
                          file with a token for it, or with a whole Authorization header;
                          read anew for each request
OCTAVO_PROMETHEUS_CA_FILE
                          certificates that its own must be signed by             the system's
OCTAVO_HTTP_PORT          port of /metrics, /healthz and /readyz                      8080
OCTAVO_SCRAPE_PERIOD      seconds between two scrapes of a replica                    2
OCTAVO_DECIDE_PERIOD      seconds between two scaling decisions of a ModelServer;     5
                          a load that jumps is decided on at the next scrape
OCTAVO_RESYNC_PERIOD      seconds between two full lists of everything watched        300
OCTAVO_WORKERS            ModelServers that are reconciled at the same time           8
OCTAVO_LOG_LEVEL          DEBUG, INFO, WARNING or ERROR                               INFO
OCTAVO_LEASE_NAME         the Lease that the leader holds                             octavo-operator
OCTAVO_LEASE_DURATION     whole seconds after which a silent leader is replaced       15
POD_NAME                  name of the operator's pod, for its events and its Lease    the host's name
POD_NAMESPACE             namespace of the operator's pod and of its Lease            default
KUBECONFIG                used outside a cluster
"""

import logging
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from octavo_operator.core.errors import SettingsError
from octavo_operator.core.manifest import Defaults


@dataclass(frozen=True, slots=True)
class PrometheusServer:
    """Where Prometheus is, and the files that it takes to ask it."""

    url: str
    authorization_file: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module's docstring; periods are in seconds."""

    defaults: Defaults
    watch_namespaces: tuple[str, ...] = ()
    http_port: int = 8080
    scrape_period: float = 2.0
    decide_period: float = 5.0
    resync_period: float = 300.0
    workers: int = 16
    log_level: str = "INFO"
    instance: str = "octavo-operator"
    identity: str = "octavo-operator"
    """Who holds the Lease: a pod's name, since a container follows its predecessor only once that is dead."""
    profiles_configmap: str = ""
    lease_namespace: str = "default"
    lease_name: str = "octavo-operator"
    lease_duration: float = 15.0
    kubeconfig: str | None = None
    prometheus: PrometheusServer | None = None


def read_settings(environ: Mapping[str, str], kubeconfig: str | None = None) -> Settings:
    """The settings in an environment. SettingsError names the variable and its value."""
    image = environ.get("OCTAVO_RUNTIME_IMAGE", "").strip()
    if not image:
        raise SettingsError("OCTAVO_RUNTIME_IMAGE is not set: name the runtime's image")
    listed = environ.get("OCTAVO_WATCH_NAMESPACES", "")
    instance = environ.get("POD_NAME") or socket.gethostname()
    return Settings(
        defaults=Defaults(
            runtime_image=image,
            activator_image=environ.get("OCTAVO_ACTIVATOR_IMAGE", "").strip(),
            operator_namespace=environ.get("POD_NAMESPACE", ""),
            prometheus_namespace=environ.get("OCTAVO_PROMETHEUS_NAMESPACE", "").strip(),
            pod_monitors=_truth(environ, "OCTAVO_POD_MONITORS", default=True),
            pod_monitor_labels=_labels(environ, "OCTAVO_POD_MONITOR_LABELS"),
        ),
        watch_namespaces=tuple(name.strip() for name in listed.split(",") if name.strip()),
        http_port=round(_number(environ, "OCTAVO_HTTP_PORT", 8080, 1, 65535)),
        scrape_period=_number(environ, "OCTAVO_SCRAPE_PERIOD", 2, 0.1, 5),
        decide_period=_number(environ, "OCTAVO_DECIDE_PERIOD", 5, 0.1, 60),
        resync_period=_number(environ, "OCTAVO_RESYNC_PERIOD", 300, 1, 86400),
        workers=round(_number(environ, "OCTAVO_WORKERS", 16, 1, 64)),
        log_level=_log_level(environ),
        instance=instance,
        identity=environ.get("POD_NAME") or f"{instance}_{uuid.uuid4()}",
        profiles_configmap=environ.get("OCTAVO_PROFILES_CONFIGMAP", "").strip(),
        lease_namespace=environ.get("POD_NAMESPACE") or "default",
        lease_name=environ.get("OCTAVO_LEASE_NAME") or "octavo-operator",
        lease_duration=round(_number(environ, "OCTAVO_LEASE_DURATION", 15, 3, 300)),
        kubeconfig=kubeconfig or environ.get("KUBECONFIG") or None,
        prometheus=_prometheus(environ),
    )


def _prometheus(environ: Mapping[str, str]) -> PrometheusServer | None:
    url = environ.get("OCTAVO_PROMETHEUS_URL", "").strip().rstrip("/")
    if not url:
        return None
    return PrometheusServer(
        checked_url("OCTAVO_PROMETHEUS_URL", url),
        authorization_file=environ.get("OCTAVO_PROMETHEUS_AUTHORIZATION_FILE") or None,
        ca_file=environ.get("OCTAVO_PROMETHEUS_CA_FILE") or None,
    )


def checked_url(name: str, url: str) -> str:
    """The address of a Prometheus. Passwords do not belong into it: it appears in conditions and logs."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise SettingsError(f"{name} is {url!r}: its port is no number up to 65535") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise SettingsError(f"{name} is {url!r}: must be an address such as http://prometheus.monitoring:9090")
    if parts.username is not None or parts.query or parts.fragment:
        raise SettingsError(f"{name} must have no user, query or fragment")
    return url


def _number(environ: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        raise SettingsError(f"{name} is {text!r}: must be a number") from None
    if not low <= value <= high:
        raise SettingsError(f"{name} is {text}: must be between {low:g} and {high:g}")
    return value


def _truth(environ: Mapping[str, str], name: str, *, default: bool) -> bool:
    text = environ.get(name, "").strip().lower()
    if text not in ("", "true", "false"):
        raise SettingsError(f"{name} is {text!r}: must be true or false")
    return default if not text else text == "true"


def _labels(environ: Mapping[str, str], name: str) -> dict[str, str]:
    """`key=value,key=value`."""
    pairs = [item.strip() for item in environ.get(name, "").split(",") if item.strip()]
    if not all("=" in pair for pair in pairs):
        raise SettingsError(f"{name} is {environ[name]!r}: must be labels such as release=monitoring,team=ml")
    return dict(pair.split("=", 1) for pair in pairs)


def _log_level(environ: Mapping[str, str]) -> str:
    level = environ.get("OCTAVO_LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise SettingsError(f"OCTAVO_LOG_LEVEL is {level!r}: must be DEBUG, INFO, WARNING or ERROR")
    return level
