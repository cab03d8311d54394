"""Durations and quantities, the two notations of a spec that are not plain numbers; and rounding for a status."""

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import Final

_DURATION: Final = re.compile(r"(?=.)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_QUANTITY: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?\d{1,2})?", re.ASCII)
_SUFFIXES: Final = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    **{letter: Fraction(10 ** (3 * power)) for power, letter in enumerate(("", "k", "M", "G", "T", "P", "E"))},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", start=1)},
}


def parse_duration(text: str) -> int:
    """Seconds in a duration of whole hours, minutes and seconds such as 90s, 5m or 1h30m. ValueError otherwise."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no duration in hours, minutes and seconds such as 90s, 5m or 1h30m")
    hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return hours * 3600 + minutes * 60 + seconds


def parse_quantity(value: str | int) -> Fraction:
    """The exact number in a non-negative Kubernetes quantity such as 500m, 2 or 1.5Gi. ValueError otherwise."""
    match = _QUANTITY.fullmatch(str(value))
    if match is None:
        raise ValueError(f"{value!r} is no quantity such as 500m, 2 or 256Mi")
    number, suffix = match.group(1), match.group(2) or ""
    if suffix and suffix not in _SUFFIXES:
        return Fraction(number) * Fraction(10) ** int(suffix[1:])
    return Fraction(number) * _SUFFIXES[suffix]


def same_quantity(left: str | int, right: str | int) -> bool:
    """Whether both are quantities and mean the same number, as 1024Mi and 1Gi do."""
    try:
        return parse_quantity(left) == parse_quantity(right)
    except ValueError:
        return False


def two_digits(value: float) -> int:
    """To two significant digits: 7 stays 7, 1234 becomes 1200."""
    number = round(value)
    grain = 10 ** max(0, math.floor(math.log10(number)) - 1) if number else 1
    return round(number / grain) * grain


def in_digits(value: float, digits: int) -> str:
    """A number with so many significant digits, written without an exponent: a CRD has no floats."""
    return format(Decimal(f"{value:.{digits}g}").normalize(), "f")
