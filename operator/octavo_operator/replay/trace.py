"""Traces: requests with their time and size, from a CSV file or from a generator.

time,prompt_tokens,output_tokens
0.0,512,128
"""

import csv
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from octavo_operator.core.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request: seconds since the start of the trace, tokens of its prompt and of its answer."""

    time: float
    prompt_tokens: int
    output_tokens: int


_COLUMNS: Final = ("time", "prompt_tokens", "output_tokens")


def read_csv(lines: Iterable[str], name: str) -> list[Arrival]:
    """The arrivals in a CSV file with a header, by time. SettingsError names the line that does not fit."""
    arrivals = []
    reader = csv.DictReader(lines)
    if missing := [column for column in _COLUMNS if column not in (reader.fieldnames or _COLUMNS)]:
        raise SettingsError(f"{name}, line 1: no column {', '.join(missing)} in {', '.join(reader.fieldnames or ())}")
    for row in reader:
        try:
            arrival = Arrival(float(row["time"]), int(row["prompt_tokens"]), int(row["output_tokens"]))
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"{name}, line {reader.line_num}: no numbers: {row}") from error
        if not (0 <= arrival.time < math.inf and arrival.prompt_tokens >= 1 and arrival.output_tokens >= 1):
            raise SettingsError(f"{name}, line {reader.line_num}: a negative time, or no tokens: {row}")
        arrivals.append(arrival)
    if not arrivals:
        raise SettingsError(f"{name}: no requests in it")
    return sorted(arrivals, key=lambda arrival: arrival.time)


@dataclass(frozen=True, slots=True)
class Shape:
    """Requests per second as a share of the peak, by share of the duration; mean tokens of prompts and answers."""

    load: Callable[[float], float]
    prompt_tokens: int = 400
    output_tokens: int = 120


def _diurnal(share: float) -> float:
    return 0.1 + 0.9 * math.sin(math.pi * share) ** 2


def _burst(share: float) -> float:
    return 1.0 if 0.3 <= share < 0.45 else 0.15


def _flapping(share: float) -> float:
    return 1.0 if int(share * 10) % 2 else 0.2


_WORKDAY: Final = ((0, 0.1), (7, 0.1), (9, 0.9), (12, 1.0), (13, 0.6), (14, 1.0), (17, 0.8), (19, 0.2), (24, 0.1))
"""Hours of a day, and the load at them."""


def _workday(share: float) -> float:
    """From midnight to midnight: a steep morning, fewer at noon, a quiet evening."""
    hour = 24 * share
    (start, before), (end, after) = next(part for part in pairwise(_WORKDAY) if hour <= part[1][0])
    return before + (after - before) * (hour - start) / (end - start)


def _outage(share: float) -> float:
    """Nobody gets through for a while; then they all come again, beside those who would have come then."""
    if 0.4 <= share < 0.46:
        return 0.0
    return 0.4 if share < 0.4 else 0.4 + 0.6 * math.exp((0.46 - share) / 0.04)


SHAPES: Final = {
    "diurnal": Shape(_diurnal),
    "burst": Shape(_burst),
    "workday": Shape(_workday),
    "outage": Shape(_outage),
    "ramp": Shape(lambda share: 0.05 + 0.95 * share),
    "flapping": Shape(_flapping),
    "prefill-heavy": Shape(_diurnal, prompt_tokens=1800, output_tokens=15),
    "long-context": Shape(_diurnal, prompt_tokens=3000, output_tokens=300),
}


def generate(shape: str, *, duration: float, peak: float, seed: int) -> list[Arrival]:
    """Arrivals of a Poisson process that follows a shape, `peak` requests per second at its highest.

    Sizes are exponential around the shape's means, cut at four times those. The same seed gives the same trace.
    """
    form, dice, time = SHAPES[shape], random.Random(seed), 0.0  # noqa: S311  nothing is kept secret by it
    arrivals = []
    while (time := time + dice.expovariate(peak)) < duration:
        if dice.random() < form.load(time / duration):
            sizes = (draw_size(dice, mean) for mean in (form.prompt_tokens, form.output_tokens))
            arrivals.append(Arrival(time, *sizes))
    return arrivals


def draw_size(dice: random.Random, mean: float) -> int:
    """Tokens of one prompt or answer, around a mean."""
    return max(1, min(round(4 * mean), round(dice.expovariate(1 / mean))))
