"""A run's shares of the card's ceiling over the bytes that each shape moves: a page without script or network."""

from __future__ import annotations

import math
from collections import defaultdict
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _TOP = 900, 360, 56, 24
_COLOURS: Final = {"decode": "#0b6e4f", "prefill": "#2d5d9f", "mixed": "#c1440e"}
_LINES: Final = (0.0, 0.25, 0.5, 0.75, 0.85, 0.95, 1.0)  # with the goals of decode among them
_STYLE: Final = (
    "body{font:14px sans-serif;margin:24px;color:#222;background:#fff}svg{display:block}text{font-size:12px;fill:#444}"
)
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def page(run: Mapping[str, Any]) -> str:
    """Of a run as `document` gives it. Raises `ValueError` when it has no result."""
    results: Sequence[Mapping[str, Any]] = run["results"]
    if not results:
        raise ValueError("results is empty; expected at least one shape")
    scale = _Scale([result["bytes_moved"] for result in results])
    lines = "".join(_line(share) for share in _LINES)
    ticks = "".join(_tick(scale, exponent) for exponent in range(scale.low, scale.high + 1, scale.step))
    points = "".join(_point(scale, result) for result in results)
    title = f"Octavo's attention on {escape(run['machine']['card'])}"
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    picture = f'<svg width="{_LEFT + _WIDTH + 16}" height="{_TOP + _HEIGHT + 24}">{lines}{ticks}{points}</svg>'
    return f"{head}<h1>{title}</h1><p>{_legend(results)}</p>{picture}</html>\n"


class _Scale:
    """From bytes, by powers of two, to places across the page."""

    def __init__(self, sizes: Sequence[float]) -> None:
        self.low = math.floor(math.log2(min(sizes)))
        self.high = max(math.ceil(math.log2(max(sizes))), self.low + 1)
        self.step = max(1, (self.high - self.low) // 10)

    def x(self, size: float) -> float:
        return _LEFT + _WIDTH * (math.log2(size) - self.low) / (self.high - self.low)


def _y(share: float) -> float:
    return _TOP + _HEIGHT * (1 - min(share, 1.0))


def _line(share: float) -> str:
    y = _y(share)
    path = f'<path stroke="#ddd" d="M{_LEFT} {y:.1f}H{_LEFT + _WIDTH}"/>'
    return f'{path}<text x="8" y="{y + 4:.1f}">{share:.0%}</text>'


def _tick(scale: _Scale, exponent: int) -> str:
    unit = min(exponent // 10, len(_UNITS) - 1)
    return (
        f'<text x="{scale.x(2.0**exponent):.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">'
        f"{1 << (exponent - 10 * unit)} {_UNITS[unit]}</text>"
    )


def _point(scale: _Scale, result: Mapping[str, Any]) -> str:
    """Its name and figures appear where the pointer rests on it."""
    share, microseconds = result["share_of_ceiling"], result["timings"]["triton"]["median"] * 1e6
    told = f"{result['shape']}: {share:.1%}, {microseconds:.1f} µs"
    return (
        f'<circle cx="{scale.x(result["bytes_moved"]):.1f}" cy="{_y(share):.1f}" r="4" fill-opacity="0.7" '
        f'fill="{_COLOURS[result["kind"]]}"><title>{escape(told)}</title></circle>'
    )


def _legend(results: Sequence[Mapping[str, Any]]) -> str:
    shares = defaultdict(list)
    for result in results:
        shares[result["kind"]].append(result["share_of_ceiling"])
    return " &nbsp; ".join(
        f'<b style="color:{_COLOURS[kind]}">{kind}</b> {len(found)} shapes, {min(found):.1%} to {max(found):.1%}'
        for kind, found in shares.items()
    )
