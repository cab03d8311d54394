"""Charts made of characters."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"


def bar(value: float, full: float, width: int) -> str:
    """A bar of `width` characters at `full`; at least one character for what is more than 0."""
    if value <= 0 or full <= 0:
        return ""
    return "█" * max(1, round(width * min(value, full) / full))


def steps(points: Sequence[tuple[float, int]], until: float, width: int, height: int) -> list[str]:
    """A number over time, from the first point to `until`, as `height` lines of `width` characters, the top one first.

    A point is (time, number from then on), in order of time. A column shows the highest number of its time, so a short
    peak is not lost.
    """
    top = max((number for _, number in points), default=0)
    if not points or top <= 0:
        return []
    eighths = [round(8 * height * number / top) for number in _columns(points, until, width)]
    return ["".join(_EIGHTHS[min(8, max(0, level - 8 * row))] for level in eighths) for row in reversed(range(height))]


def _columns(points: Sequence[tuple[float, int]], until: float, width: int) -> list[int]:
    start = points[0][0]
    each = max(until - start, 1e-9) / width
    columns = [0] * width
    for (time, number), (end, _) in pairwise([*points, (until, 0)]):
        first, last = int((time - start) / each), int((end - start) / each)
        for column in range(min(width - 1, first), min(width - 1, last) + 1):
            columns[column] = max(columns[column], number)
    return columns
