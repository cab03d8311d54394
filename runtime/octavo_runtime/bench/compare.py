"""Results as tables: one run for people, two runs side by side with ratios. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

# What must be the same for two runs to have had the same load.
_LOAD: Final = ("prompts_digest", "num_prompts", "rate", "concurrency", "temperature", "ignore_eos")
_DOUBTFUL: Final = 0.01  # share of late or failed requests above which a run needs a word of warning
_LATENCIES: Final = ("ttft", "itl", "tpot", "e2e")


class Metric(NamedTuple):
    """One figure of a result. `path` leads to it; `better` is "higher" or "lower"."""

    title: str
    path: tuple[str, ...]
    better: str
    scale: float = 1.0
    unit: str = ""


def _latency(name: str, percent: int) -> Metric:
    return Metric(f"{name.upper()} p{percent}", (f"{name}_s", f"p{percent}"), "lower", 1000.0, "ms")


METRICS: Final = (
    Metric("requests/s", ("requests_per_s",), "higher"),
    Metric("output tokens/s", ("output_tokens_per_s",), "higher"),
    Metric("total tokens/s", ("total_tokens_per_s",), "higher"),
    *(_latency(name, percent) for name in _LATENCIES for percent in (50, 90, 95, 99)),
    Metric("$ per million output tokens", ("cost_per_million_output_tokens",), "lower"),
)


def value_of(metric: Metric, run: dict[str, Any]) -> float | None:
    found: Any = run["results"]
    for key in metric.path:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found) * metric.scale


def comparison(a: dict[str, Any], b: dict[str, Any], *, markdown: bool) -> str:
    """A table of both runs' figures and their ratios, what they were, and where their loads differ."""
    rows = [_ratio_row(metric, a, b) for metric in METRICS]
    rows += [[title, f"{a['results'][key]}", f"{b['results'][key]}", "", ""] for title, key in _COUNTS]
    rows.append(["errors", _errors(a), _errors(b), "", ""])
    table = _table(["", "A", "B", "B / A", "better is"], rows, markdown=markdown)
    legend = [f"A: {describe(a)}", f"B: {describe(b)}"]
    mark = "- " if markdown else ""
    notes = legend + [f"not the same load: {difference}" for difference in load_differences(a, b)]
    notes += [f"{side}: {doubt}" for side, run in (("A", a), ("B", b)) for doubt in doubts(run)]
    return table + "\n\n" + "\n".join(mark + note for note in notes)


_COUNTS: Final = (("completed", "completed"), ("cut streams", "cut_streams"), ("late arrivals", "late_arrivals"))


def describe(run: dict[str, Any]) -> str:
    """What ran where, on one line."""
    settings, machine, versions = run["settings"], run["machine"], run["versions"]
    gpus = f", {len(machine['gpus'])} x {machine['gpus'][0]}" if machine["gpus"] else ""
    return (
        f"{run['bench']} {settings['target']}, {_load_words(settings)}, seed {run['seed']}; {machine['cpu']}, "
        f"{machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB{gpus}; octavo {versions['octavo']}, "
        f"torch {versions['torch']}, {run['time']}"
    )


def load_differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    pairs = [(key, a["settings"].get(key), b["settings"].get(key)) for key in _LOAD]
    return [f"{key} is {left} in A and {right} in B" for key, left, right in pairs if left != right]


def doubts(run: dict[str, Any]) -> list[str]:
    """Why the figures of `run` may not be what they seem."""
    results = run["results"]
    allowed = results["requests"] * _DOUBTFUL
    failed = results["requests"] - results["completed"]
    found = []
    if results["late_arrivals"] > allowed:
        found.append(f"{results['late_arrivals']} requests were sent late: the client, not the server, was the limit")
    if failed > allowed:
        found.append(f"{failed} of {results['requests']} requests failed, and count in no latency")
    return found


def summary(run: dict[str, Any]) -> str:
    """One run for people."""
    results = run["results"]
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    latencies = [
        [f"{name.upper()} ms", *(f"{results[f'{name}_s'][column] * 1000:.4g}" for column in columns)]
        for name in _LATENCIES
        if results[f"{name}_s"] is not None
    ]
    cost = results["cost_per_million_output_tokens"]
    rows = [
        ["requests", f"{results['completed']} of {results['requests']} complete in {results['duration_s']:.2f} s"],
        ["requests/s", _shown(results["requests_per_s"])],
        ["output tokens/s", f"{_shown(results['output_tokens_per_s'])} ({results['output_tokens']} tokens)"],
        ["total tokens/s", f"{_shown(results['total_tokens_per_s'])} ({results['input_tokens']} tokens in)"],
        *([["$ per million output tokens", _shown(cost)]] if cost is not None else []),
        ["errors", f"{_errors(run)}; {results['cut_streams']} cut streams"],
        ["late arrivals", f"{results['late_arrivals']}, at most {results['max_lateness_s'] * 1000:.1f} ms"],
    ]
    facts = "\n".join(f"{name:<29}{value}" for name, value in rows)
    return f"{describe(run)}\n{facts}\n" + _table(["", *columns], latencies, markdown=False)


def _load_words(settings: dict[str, Any]) -> str:
    if settings["rate"] is not None:
        return f"{settings['rate']:g} requests/s"
    if settings["concurrency"] is not None:
        return f"{settings['concurrency']} clients"
    return "all at once"


def _ratio_row(metric: Metric, a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    left, right = value_of(metric, a), value_of(metric, b)
    ratio = f"{right / left:.3g}" if left and right is not None else "-"
    return [metric.title, _shown(left, metric.unit), _shown(right, metric.unit), ratio, metric.better]


def _shown(value: float | None, unit: str = "") -> str:
    if value is None:
        return "-"
    return f"{value:.4g} {unit}".rstrip() if value < 1000 else f"{value:.0f} {unit}".rstrip()


def _errors(run: dict[str, Any]) -> str:
    errors: dict[str, int] = run["results"]["errors"]
    return ", ".join(f"{number} {kind}" for kind, number in errors.items()) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Aligned columns; the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join(padded) + " |" if markdown else "  ".join(padded).rstrip()

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [line(head)] if any(head) else []
    lines += ["| " + " | ".join(rule) + " |"] if markdown else []
    return "\n".join([*lines, *map(line, rows)])
