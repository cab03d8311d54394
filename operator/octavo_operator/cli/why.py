"""`kubectl octavo why NAME`: the last scaling decision, what each signal asked for, what held it back, and the replicas
over time. The decision is made again from its record, by the operator's own code.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from octavo_operator.cli.chart import bar, steps
from octavo_operator.cli.words import UNKNOWN, age, condition, part, safe, state
from octavo_operator.core.autoscale import Inputs, judge
from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.names import Condition
from octavo_operator.core.record import from_record
from octavo_operator.core.status_model import LastDecision, PastDecision, Scaling

Raw = Mapping[str, Any]

_SHOWN: Final = (
    Condition.READY,
    Condition.SCALING_ACTIVE,
    Condition.SCALING_LIMITED,
    Condition.METRICS_FRESH,
    Condition.CONTENDED,
)
BAR_WIDTH: Final = 32
CHART_WIDTH: Final = 64
CHART_HEIGHT: Final = 6


def why(server: Raw, now: float) -> RenderableType:
    """Why a ModelServer has as many replicas as it has."""
    parts: list[RenderableType] = [_present(server)]
    scaling = _scaling(server)
    last = scaling.last_decision
    if last is None:
        parts.append(Text("\nThe number of replicas was never changed by a decision."))
        return Group(*parts)
    parts += [Text(f"\nLast decision, {age(last.time, now)} ago", "bold"), _sentence(last)]
    inputs = _recorded(last)
    if last.candidates:
        parts += [Text("\nReplicas that each signal asked for", "bold"), _candidates(last, inputs)]
    if last.inputs is not None:
        parts += [Text("\nMade from", "bold"), _inputs(last)]
    parts += [Text(), _again(last, inputs)]
    parts += _history([*scaling.history, last], now)
    return Group(*parts)


def _scaling(server: Raw) -> Scaling:
    try:
        return Scaling.model_validate(part(server, "status").get("scaling") or {})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        raise ValueError(f"status.scaling.{place}: {first['msg']}: was it written by another version?") from error


def _present(server: Raw) -> RenderableType:
    status = part(server, "status")
    name = f"{part(server, 'metadata').get('namespace')}/{part(server, 'metadata').get('name')}"
    table = Table.grid(padding=(0, 2))
    wanted, serve = status.get("desiredReplicas", UNKNOWN), status.get("readyReplicas", 0)
    table.add_row(safe(name, "bold"), safe(f"{wanted} replicas wanted, {serve} serve"))
    for kind in _SHOWN:
        found = condition(server, kind)
        if found:
            color = "" if kind in (Condition.SCALING_ACTIVE, Condition.SCALING_LIMITED) else found.get("status")
            good = "False" if kind == Condition.CONTENDED else "True"
            reason = state(color, found.get("reason"), good=good) if color else safe(found.get("reason"))
            table.add_row(safe(kind), Text.assemble(reason, ": ", safe(found.get("message"))))
    return table


def _sentence(last: LastDecision) -> Text:
    verb = "advised" if last.mode == "Advisory" else "done"
    head = f"{last.from_} → {last.to} replicas ({verb}), {last.reason}: "
    line = Text.assemble(safe(head, "cyan"), safe(last.message))
    if last.limited_by:
        line.append_text(Text.assemble("\nHeld back by ", safe(last.limited_by, "yellow")))
    return line


def _candidates(last: LastDecision, inputs: Inputs | None) -> RenderableType:
    bounds = [inputs.policy.max_replicas] if inputs else []
    full = max([item.replicas for item in last.candidates] + [last.to, last.from_, *bounds])
    table = Table.grid(padding=(0, 2))
    for item in sorted(last.candidates, key=lambda candidate: -candidate.replicas):
        table.add_row(safe(item.signal), safe(item.replicas), Text(bar(item.replicas, full, BAR_WIDTH), "cyan"))
    table.add_row(Text("decided", "bold"), safe(last.to, "bold"), Text(bar(last.to, full, BAR_WIDTH), "green"))
    if inputs is not None:
        policy = inputs.policy
        scheduled = f", the minimum by schedule {policy.scheduled_by}" if policy.scheduled_by else ""
        budget = f", the budget allows for {policy.affordable}" if policy.affordable is not None else ""
        table.add_row("bounds", "", safe(f"{policy.min_replicas} to {policy.max_replicas}{scheduled}{budget}"))
    return table


def _inputs(last: LastDecision) -> RenderableType:
    made_from = last.inputs
    assert made_from is not None
    table = Table.grid(padding=(0, 2))
    unknown = f", {made_from.unknown_replicas} of them without a fresh sample" if made_from.unknown_replicas else ""
    table.add_row("replicas", safe(f"{made_from.ready_replicas} ready{unknown}"))
    used, capacity = made_from.kv_tokens_in_use, made_from.kv_tokens_capacity
    table.add_row("KV cache", safe(f"{made_from.kv_utilization_percent}%, {used:,} of {capacity:,} tokens"))
    held = f", {made_from.held} held by the activator" if made_from.held else ""
    waiting = f"{made_from.running} running, {made_from.waiting} waiting ({made_from.waiting_tokens:,} tokens){held}"
    table.add_row("requests", safe(waiting))
    table.add_row("prompts", safe(f"{made_from.prompt_tokens_per_second:,} tokens/s"))
    for label, milliseconds in (
        ("TTFT p95", made_from.ttft_p95_milliseconds),
        ("ITL p95", made_from.itl_p95_milliseconds),
        ("queue p95", made_from.queue_wait_p95_milliseconds),
    ):
        if milliseconds is not None:
            table.add_row(label, safe(f"{milliseconds:,} ms"))
    return table


def _recorded(last: LastDecision) -> Inputs | None:
    try:
        return from_record(last.record) if last.record else None
    except ValueError:
        return None


def _again(last: LastDecision, inputs: Inputs | None) -> Text:
    if inputs is None:
        return Text("Its record is missing or of another version: it cannot be made again.", "yellow")
    verdict = judge(inputs)
    if (verdict.replicas, verdict.reason) == (last.to, last.reason):
        return safe(f"Made again from its record: {verdict.replicas} replicas, {verdict.reason}, as then.", "green")
    words = f"{verdict.replicas} replicas, {verdict.reason}: {verdict.message}"
    return safe(f"Made again from its record by this version: {words}. It decides otherwise.", "yellow")


def _history(decisions: Sequence[PastDecision], now: float) -> list[RenderableType]:
    points = [(from_timestamp(item.time), item.to) for item in decisions if item.mode == "Active"]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("AGO", "FROM", "TO", "REASON", "MESSAGE"):
        table.add_column(column, no_wrap=column != "MESSAGE", overflow="fold")
    for item in reversed(decisions):
        numbers = (safe(item.from_), safe(item.to))
        table.add_row(safe(age(item.time, now)), *numbers, safe(item.reason), safe(item.message))
    return [*_chart(points, now), Text(), table]


def _chart(points: list[tuple[float, int]], now: float) -> list[RenderableType]:
    lines = steps(points, now, CHART_WIDTH, CHART_HEIGHT)
    if not lines:
        return []
    top, width = max(number for _, number in points), CHART_WIDTH
    labels = [f"{top:>4} "] + ["     "] * (len(lines) - 1)
    began = f"{_span(now - points[0][0])} ago"
    axis = f"     {began}{'now':>{width - len(began)}}"
    chart = "\n".join(label + line for label, line in zip(labels, lines, strict=True))
    return [Text("\nReplicas wanted over time", "bold"), Text(chart, "cyan"), Text(axis, "dim")]


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min" if minutes else "1 min"
