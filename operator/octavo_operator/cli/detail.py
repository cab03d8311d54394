"""`kubectl octavo status NAME`: conditions, replicas and events of one ModelServer."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from octavo_operator.cli.listing import kv, replicas
from octavo_operator.cli.words import UNKNOWN, age, condition, conditions, part, safe, state
from octavo_operator.core.groups import view_workload
from octavo_operator.core.manifest import slot
from octavo_operator.core.names import Condition
from octavo_operator.core.observed import view_pod

Raw = Mapping[str, Any]

LATEST_EVENTS: Final = 8
_BAD_WHEN_TRUE: Final = frozenset({Condition.STALLED, Condition.SCALING_LIMITED})
_NEUTRAL: Final = frozenset({Condition.PROGRESSING, Condition.RECONCILING, Condition.SCALING_ACTIVE})


def detail(server: Raw, children: Sequence[Raw], events: Sequence[Raw], now: float) -> RenderableType:
    """Everything on one ModelServer that fits on a screen. `children` are what makes its replicas, and its pods."""
    parts: list[RenderableType] = [_headline(server), Text(), _conditions(server, now)]
    pods = [raw for raw in children if raw.get("kind") == "Pod"]
    if pods:
        parts += [Text("\nReplicas", "bold"), _replicas(pods, newest_revision(server, children), now)]
    if events:
        parts += [Text("\nEvents", "bold"), _events(events, now)]
    return Group(*parts)


def _headline(server: Raw) -> RenderableType:
    status, metadata = part(server, "status"), part(server, "metadata")
    load, ready = part(status, "load"), condition(server, Condition.READY)
    table = Table.grid(padding=(0, 2))
    table.add_row("Name", safe(f"{metadata.get('namespace')}/{metadata.get('name')}", "bold"))
    table.add_row("Model", safe(part(status, "model").get("servedName", UNKNOWN)))
    table.add_row("URL", safe(status.get("url", UNKNOWN)))
    table.add_row("Replicas", state(ready.get("status"), f"{replicas(status)} serve"))
    running, waiting = load.get("running", UNKNOWN), load.get("waiting", UNKNOWN)
    if startup := part(status, "startup"):
        table.add_row("Start", safe(_start(startup)))
    if capacity := part(status, "capacity"):
        table.add_row("A replica", safe(_capacity(capacity)))
    if cost := part(status, "cost"):
        table.add_row("Cost", safe(_cost(cost)))
    table.add_row("Load", safe(f"KV {kv(status)}, {running} running, {waiting} waiting"))
    return table


def _start(startup: Raw) -> str:
    """How far one is, and how long they take."""
    words = []
    if phase := startup.get("phase"):
        left = f", {startup['etaSeconds']} s left" if "etaSeconds" in startup else ""
        words.append(f"now {phase} {startup.get('progressPercent', 0)}%{left}")
    if "p50Seconds" in startup:
        parts = ((kind, startup.get(f"{kind}Seconds")) for kind in ("scheduling", "pulling", "loading"))
        told = ", ".join(f"{kind} {seconds} s" for kind, seconds in parts if seconds is not None)
        phases = ((kind, startup.get(f"{kind}Seconds")) for kind in ("fetch", "weights", "warmup"))
        if split := ", ".join(f"{kind} {seconds} s" for kind, seconds in phases if seconds is not None):
            told += f": {split}"
        words.append(
            f"{startup['p50Seconds']} s at p50, {startup['p90Seconds']} s at p90" + (f" ({told})" if told else "")
        )
    return "; ".join(words)


def _capacity(capacity: Raw) -> str:
    """What one replica carries."""
    words = [f"{capacity.get('kvCacheTokens', 0):,} KV tokens fit"]
    if "kvTokens" in capacity:
        words.append(f"{capacity['kvTokens']:,} seen before requests waited")
    if "promptTokensPerSecond" in capacity:
        words.append(f"{capacity['promptTokensPerSecond']:,} prompt tokens/s")
    return ", ".join(words)


def _cost(cost: Raw) -> str:
    tokens = f", {cost['perMillionTokens']} for a million tokens" if "perMillionTokens" in cost else ""
    return f"{cost.get('perHour', UNKNOWN)} an hour{tokens}"


def _conditions(server: Raw, now: float) -> RenderableType:
    table = _table("CONDITION", "STATUS", "REASON", "SINCE", "MESSAGE")
    for item in conditions(server):
        kind, status = item.get("type"), item.get("status")
        shown = safe(status) if kind in _NEUTRAL else state(status, status, good="False" if _bad(kind) else "True")
        since = safe(age(item.get("lastTransitionTime"), now))
        table.add_row(safe(kind), shown, safe(item.get("reason")), since, safe(item.get("message")))
    return table


def _bad(kind: object) -> bool:
    return kind in _BAD_WHEN_TRUE


def _replicas(pods: Sequence[Raw], newest: str | None, now: float) -> RenderableType:
    table = _table("POD", "STATE", "RESTARTS", "NODE", "REVISION", "AGE", "WHY")
    for raw in sorted(pods, key=lambda item: str(part(item, "metadata").get("creationTimestamp"))):
        view = view_pod(raw)
        word = "terminating" if view.terminating else "ready" if view.ready else "not ready"
        restarts = sum(int(item.get("restartCount", 0)) for item in part(raw, "status").get("containerStatuses") or ())
        table.add_row(
            safe(view.name),
            state("Unknown" if view.terminating else str(view.ready), word),
            safe(restarts),
            safe(part(raw, "spec").get("nodeName", UNKNOWN)),
            safe("newest" if view.revision == newest else "older"),
            safe(age(view.created, now)),
            safe(f"{view.problem.reason}: {view.problem.message}" if view.problem else ""),
        )
    return table


def newest_revision(server: Raw, children: Sequence[Raw]) -> str | None:
    """The revision that the Deployment goes to, or the LeaderWorkerSet."""
    name = str(part(server, "metadata").get("name"))
    workload = view_workload(None, {slot(raw, name): raw for raw in children if raw.get("kind") != "Pod"}, (), ())
    return workload.revision if workload else None


def _events(events: Sequence[Raw], now: float) -> RenderableType:
    table = _table("LAST", "TYPE", "REASON", "COUNT", "MESSAGE")
    for raw in sorted(events, key=_last_seen)[-LATEST_EVENTS:]:
        kind, count = raw.get("type"), part(raw, "series").get("count") or raw.get("count") or 1
        shown = safe(kind, "yellow" if kind == "Warning" else "")
        message = raw.get("message") or raw.get("note") or ""
        table.add_row(safe(age(_last_seen(raw), now)), shown, safe(raw.get("reason")), safe(count), safe(message))
    return table


def _last_seen(raw: Raw) -> str:
    series = part(raw, "series").get("lastObservedTime")
    return str(series or raw.get("lastTimestamp") or raw.get("eventTime") or "")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column not in ("MESSAGE", "WHY"), overflow="fold")
    return table
