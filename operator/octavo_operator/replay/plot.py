"""Outcomes as one HTML page: the load, the replicas and the late requests over time, drawn as SVG.

    arrivals       requests per second of the trace
    replicas       wanted, per scaler
    late requests  per second, at the time of their arrival, per scaler

The page needs nothing else: no script, no font, no network.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from octavo_operator.replay.run import Outcome
from octavo_operator.replay.trace import Arrival

_WIDTH, _HEIGHT, _LEFT, _TOP = 960, 150, 56, 24
_BINS: Final = 120
_COLOURS: Final = ("#0b6e4f", "#c1440e", "#2d5d9f", "#8a5a9e", "#7a6a00", "#444444")
_STYLE: Final = (
    "body{font:14px sans-serif;margin:24px;color:#222;background:#fff}svg{display:block}text{font-size:12px;fill:#444}"
)

Points = Sequence[tuple[float, float]]
"""(seconds, value); each value holds until the next one."""


@dataclass(frozen=True, slots=True)
class _Curve:
    colour: str
    points: Points


def page(outcomes: Sequence[Outcome], trace: Sequence[Arrival]) -> str:
    """The whole page."""
    end = trace[-1].time or 1.0
    colours = [_COLOURS[number % len(_COLOURS)] for number in range(len(outcomes))]
    load = [_Curve(_COLOURS[-1], _per_second([arrival.time for arrival in trace], end))]
    named = list(zip(colours, outcomes, strict=True))
    replicas = [_Curve(colour, [(time, float(size)) for time, size in outcome.replicas]) for colour, outcome in named]
    late = [_Curve(colour, _per_second(outcome.late, end)) for colour, outcome in named]
    panels = (
        _panel("arrivals, requests/s", load, end),
        _panel("replicas", replicas, end),
        _panel("late requests/s", late, end),
    )
    legend = " &nbsp; ".join(
        f'<b style="color:{colour}">{escape(outcome.scaler)}</b> {outcome.violations / outcome.requests:.1%} late, '
        f"{outcome.replica_hours:.2f} replica-hours"
        for colour, outcome in named
    )
    title = "Octavo replay"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f"{head}<h1>{title}</h1><p>{legend}</p>{''.join(panels)}</html>\n"


def _per_second(times: Sequence[float], end: float) -> Points:
    """How many of the sorted times lie in each of 120 parts, as a rate."""
    edges = [end * part / _BINS for part in range(_BINS + 1)]
    found = [bisect_left(times, edge) for edge in edges[:-1]] + [len(times)]
    return [(edges[part], (found[part + 1] - found[part]) * _BINS / end) for part in range(_BINS)]


def _panel(title: str, curves: Sequence[_Curve], end: float) -> str:
    """One picture; every curve is a step function, and all share the scale."""
    highest = max((value for curve in curves for _, value in curve.points), default=0.0) or 1.0
    lines = "".join(
        f'<path fill="none" stroke="{curve.colour}" stroke-width="1.5" d="{_steps(curve.points, end, highest)}"/>'
        for curve in curves
    )
    bottom, right = _TOP + _HEIGHT, _LEFT + _WIDTH
    axes = f'<path fill="none" stroke="#bbb" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>'
    texts = (
        f'<text x="{_LEFT}" y="14">{title}</text><text x="4" y="{_TOP + 10}">{highest:.3g}</text>'
        f'<text x="4" y="{bottom}">0</text><text x="{right - 50}" y="{bottom + 16}">{end:.0f} s</text>'
    )
    return f'<svg width="{right + 16}" height="{bottom + 24}">{axes}{lines}{texts}</svg>'


def _steps(points: Points, end: float, highest: float) -> str:
    """An SVG path; what lies after the end is left out."""
    places = [
        (_LEFT + _WIDTH * time / end, _TOP + _HEIGHT * (1 - value / highest)) for time, value in points if time <= end
    ]
    moves = "".join(f"H{x:.1f}V{y:.1f}" for x, y in places[1:])
    return f"M{places[0][0]:.1f} {places[0][1]:.1f}{moves}H{_LEFT + _WIDTH}"
