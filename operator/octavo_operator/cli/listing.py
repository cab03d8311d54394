"""`kubectl octavo status`: one line per ModelServer, and below each that is not ready, why."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from octavo_operator.cli.words import UNKNOWN, age, condition, part, safe, state
from octavo_operator.core.names import Condition

Raw = Mapping[str, Any]


def listing(servers: Sequence[Raw], now: float, *, namespaces: bool) -> RenderableType:
    """All of them; with their namespaces where several are shown."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in [*(["NAMESPACE"] if namespaces else []), "NAME", "MODEL", "READY", "KV", "QUEUE", "REASON", "AGE"]:
        table.add_column(column, no_wrap=True, justify="right" if column in ("KV", "QUEUE", "AGE") else "left")
    for raw in servers:
        metadata = part(raw, "metadata")
        space = [safe(metadata.get("namespace"))] if namespaces else []
        table.add_row(*space, safe(metadata.get("name")), *_line(raw, now))
    return Group(table, *_reasons(servers, namespaces=namespaces))


def _line(raw: Raw, now: float) -> list[Text]:
    status, ready = part(raw, "status"), condition(raw, Condition.READY)
    model = part(status, "model").get("servedName", UNKNOWN)
    return [
        safe(model),
        state(ready.get("status"), replicas(status)),
        safe(kv(status)),
        safe(part(status, "load").get("waiting", UNKNOWN)),
        state(ready.get("status"), ready.get("reason", UNKNOWN)),
        safe(age(part(raw, "metadata").get("creationTimestamp"), now)),
    ]


def replicas(status: Raw) -> str:
    """Those that serve of those that are wanted."""
    return f"{status.get('readyReplicas', 0)}/{status.get('desiredReplicas', UNKNOWN)}"


def kv(status: Raw) -> str:
    """KV cache in use."""
    percent = part(status, "load").get("kvUtilizationPercent")
    return UNKNOWN if percent is None else f"{percent}%"


def _reasons(servers: Sequence[Raw], *, namespaces: bool) -> list[Text]:
    lines = []
    for raw in servers:
        ready, metadata = condition(raw, Condition.READY), part(raw, "metadata")
        if ready.get("status") == "True":
            continue
        name = f"{metadata.get('namespace')}/{metadata.get('name')}" if namespaces else metadata.get("name")
        message = ready.get("message", "the operator has written no status yet: does it run?")
        lines.append(Text.assemble("\n", safe(name, "bold"), ": ", safe(message)))
    return lines
