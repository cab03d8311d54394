"""The operator's own settings: environment variables, read once at the start into a frozen value.

OCTAVO_RUNTIME_IMAGE      image of the runtime where a ModelServer names none (required)
OCTAVO_WATCH_NAMESPACES   namespaces to watch, separated by commas; empty: all
OCTAVO_HTTP_PORT          port of /metrics, /healthz and /readyz                      8080
OCTAVO_SCRAPE_PERIOD      seconds between two scrapes of a replica                    2
OCTAVO_DECIDE_PERIOD      seconds between two scaling decisions of a ModelServer      5
OCTAVO_RESYNC_PERIOD      seconds between two full lists of everything watched        300
OCTAVO_WORKERS            ModelServers that are reconciled at the same time           8
OCTAVO_LOG_LEVEL          DEBUG, INFO, WARNING or ERROR                               INFO
POD_NAME                  name of the operator's pod, for its events                  the host's name
KUBECONFIG                used outside a cluster
"""

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from octavo_operator.core.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module's docstring; periods are in seconds."""

    runtime_image: str
    watch_namespaces: tuple[str, ...] = ()
    http_port: int = 8080
    scrape_period: float = 2.0
    decide_period: float = 5.0
    resync_period: float = 300.0
    workers: int = 8
    log_level: str = "INFO"
    instance: str = "octavo-operator"
    kubeconfig: str | None = None


def read_settings(environ: Mapping[str, str], kubeconfig: str | None = None) -> Settings:
    """The settings in an environment. SettingsError names the variable and its value."""
    image = environ.get("OCTAVO_RUNTIME_IMAGE", "").strip()
    if not image:
        raise SettingsError("OCTAVO_RUNTIME_IMAGE is not set: name the runtime's image")
    listed = environ.get("OCTAVO_WATCH_NAMESPACES", "")
    return Settings(
        runtime_image=image,
        watch_namespaces=tuple(name.strip() for name in listed.split(",") if name.strip()),
        http_port=round(_number(environ, "OCTAVO_HTTP_PORT", 8080, 1, 65535)),
        scrape_period=_number(environ, "OCTAVO_SCRAPE_PERIOD", 2, 0.1, 5),
        decide_period=_number(environ, "OCTAVO_DECIDE_PERIOD", 5, 0.1, 60),
        resync_period=_number(environ, "OCTAVO_RESYNC_PERIOD", 300, 1, 86400),
        workers=round(_number(environ, "OCTAVO_WORKERS", 8, 1, 64)),
        log_level=_log_level(environ),
        instance=environ.get("POD_NAME") or socket.gethostname(),
        kubeconfig=kubeconfig or environ.get("KUBECONFIG") or None,
    )


def _number(environ: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    text = environ.get(name, "").strip()
    try:
        value = float(text) if text else default
    except ValueError:
        raise SettingsError(f"{name} is {text!r}: must be a number") from None
    if not low <= value <= high:
        raise SettingsError(f"{name} is {text}: must be between {low:g} and {high:g}")
    return value


def _log_level(environ: Mapping[str, str]) -> str:
    level = environ.get("OCTAVO_LOG_LEVEL", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise SettingsError(f"OCTAVO_LOG_LEVEL is {level!r}: must be DEBUG, INFO, WARNING or ERROR")
    return level
