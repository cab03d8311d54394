"""How things are said in a terminal: ages, states with colours, text that cannot steer it."""

from collections.abc import Mapping
from typing import Any, Final

from rich.text import Text

from octavo_operator.core.clock import from_timestamp

UNKNOWN: Final = "-"
_UNITS: Final = (("d", 86400), ("h", 3600), ("m", 60))
_COLORS: Final = {"True": "green", "False": "red", "Unknown": "yellow"}


def safe(value: object, style: str = "") -> Text:
    """Text from the cluster as it is: no markup, and no control characters, which would steer a terminal."""
    shown = "".join(char if char.isprintable() else " " for char in str(value))
    return Text(shown, style)


def age(timestamp: object, now: float) -> str:
    """How long ago, in one unit as kubectl has it: 40s, 12m, 3h, 5d."""
    try:
        seconds = max(0, round(now - from_timestamp(str(timestamp))))
    except ValueError:
        return UNKNOWN
    for unit, size in _UNITS:
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def state(status: object, text: object, *, good: str = "True") -> Text:
    """A condition's words in the colour of whether that is well."""
    color = _COLORS["Unknown"] if status not in ("True", "False") else _COLORS["True" if status == good else "False"]
    return safe(text, color)


def condition(raw: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The condition of that type of an object, {} where it has none."""
    return next((item for item in conditions(raw) if item.get("type") == kind), {})


def conditions(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All conditions of an object."""
    return list(part(raw, "status").get("conditions") or ())


def part(raw: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """The mapping at `path`, {} where it is not."""
    for key in path:
        raw = raw.get(key) or {}
    return raw
