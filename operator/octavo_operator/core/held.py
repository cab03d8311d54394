"""What the activators say about the requests that they hold, and what the operator makes of it.

{"version": "4f1c-17", "held": 3, "tokens": 512}

`version` changes with every request that comes or goes; whoever asks with the last one it saw is answered when there is
another. `tokens` are those of the prompts, estimated from their bytes. An answer that is not exactly this is none.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LONGEST_LOOK_SECONDS: Final = 10.0
"""An activator with nothing new answers after this time."""
FRESH_SECONDS: Final = 2 * LONGEST_LOOK_SECONDS
_LARGEST: Final = 10**9
_LONGEST_VERSION: Final = 64


@dataclass(frozen=True, slots=True)
class Report:
    """One activator's answer. `time` is the operator's clock; from `since` on it has answered, and nothing came."""

    time: float
    since: float
    version: str
    held: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Held:
    """Requests held by all activators of a ModelServer, their prompts' tokens, and since when none came or went."""

    requests: int
    tokens: int
    seconds: float


def parse_report(text: str, now: float, before: Report | None) -> Report | None:
    """The report in an answer, or None when it is none."""
    try:
        raw = json.loads(text)
        version, held, tokens = raw["version"], raw["held"], raw["tokens"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not (_is_count(held) and _is_count(tokens) and isinstance(version, str) and len(version) <= _LONGEST_VERSION):
        return None
    same = before is not None and before.version == version
    return Report(now, before.since if before and same else now, version, held, tokens)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST


def together(reports: Iterable[Report | None], now: float) -> Held | None:
    """What all of them hold; None unless there are some and each has answered lately."""
    listed = list(reports)
    fresh = [report for report in listed if report is not None and 0 <= now - report.time < FRESH_SECONDS]
    if not fresh or len(fresh) < len(listed):
        return None
    seconds = min(now - report.since for report in fresh)
    return Held(sum(report.held for report in fresh), sum(report.tokens for report in fresh), max(0.0, seconds))
