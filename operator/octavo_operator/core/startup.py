"""How far a replica's start is, in its own words, and how long starts take, from the pods that made it.

created ──scheduling──> on a node ──pulling──> container runs ──loading──> ready
the scheduler            image, volumes             fetch, weights, warm-up: /startupz says how far
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

from octavo_operator.core.clock import from_timestamp
from octavo_operator.core.observed import PodView
from octavo_operator.core.status_model import Startup

LONGEST_STARTUP_SECONDS: Final = 900.0
PHASES: Final = {
    "process": "starting its processes",
    "fetch": "fetching the model",
    "weights": "loading the weights",
    "warmup": "warming up",
    "tokenizer": "loading the tokenizer",
}
"""The phases of the runtime's /startupz, in their order (tests/contract holds them equal), in words."""
_LEARNED_PHASES: Final = ("fetch", "weights", "warmup")
_STEP: Final = 5
"""Percent: a finer one would write the status for nothing."""
_LONGEST_LEFT: Final = 10 * 86400


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a start is: the phase, how much of the phase is done, and the seconds that are left of it if it says so."""

    phase: str
    percent: int
    seconds_left: int | None = None

    @property
    def is_fetched(self) -> bool:
        """Whether a phase was reached that needs the model's files."""
        order = list(PHASES)
        return order.index(self.phase) > order.index("fetch")

    def __str__(self) -> str:
        return f"{PHASES[self.phase]}, {self.percent} %" if self.percent else PHASES[self.phase]


def parse_progress(text: str) -> Progress | None:
    """The progress in an answer of /startupz; None where it is none, or nothing is left to do."""
    try:
        raw = json.loads(text)
        phase, share, left = str(raw["phase"]), float(raw["progress"]), raw.get("seconds_left")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if phase not in PHASES or not 0 <= share <= 1:
        return None
    seconds = round(left) if isinstance(left, int | float) and 0 <= left <= _LONGEST_LEFT else None
    return Progress(phase, _STEP * int(100 * share / _STEP), seconds)


def furthest(found: Iterable[Progress]) -> Progress | None:
    """The one that will be done first; None without any."""
    order = list(PHASES)
    return max(found, key=lambda item: (order.index(item.phase), item.percent), default=None)


def startup_p90(pods: Iterable[PodView]) -> float | None:
    """Seconds from creation to readiness that nine of ten replicas kept to; None while none is ready.

    A replica that lost its readiness and found it again shows a later time; what cannot be a start is left out.
    """
    starts = sorted(_total(pod) for pod in pods if _started(pod))
    return starts[math.ceil(0.9 * len(starts)) - 1] if starts else None


def describe_startup(
    pods: tuple[PodView, ...],
    progress: Progress | None,
    previous: Startup | None,
    phases: Mapping[str, int] | None = None,
) -> Startup | None:
    """The status' part on starts. What was learned stays when the replicas that it was learned from are gone.

    `phases` are the seconds that each took, as far as this process has seen it (course.py).
    """
    starts = [pod for pod in pods if _started(pod)]
    learned = _learned(starts) if starts else _only_learned(previous)
    if learned is not None:
        learned = learned.model_copy(update=_phases(phases or {}, previous))
    if progress is None:
        return learned
    now = {"phase": progress.phase, "progress_percent": progress.percent, "eta_seconds": progress.seconds_left}
    return (learned or Startup()).model_copy(update=now)


def _learned(starts: list[PodView]) -> Startup:
    seconds = sorted(map(_total, starts))
    return Startup(
        p50_seconds=round(seconds[math.ceil(0.5 * len(seconds)) - 1]),
        p90_seconds=round(seconds[math.ceil(0.9 * len(seconds)) - 1]),
        scheduling_seconds=_median(pod.scheduled_at - from_timestamp(pod.created) for pod in starts if pod.started_at),
        pulling_seconds=_median(pod.started_at - pod.scheduled_at for pod in starts if pod.started_at),
        loading_seconds=_median(pod.ready_since - pod.started_at for pod in starts if pod.started_at),
    )


def _phases(seen: Mapping[str, int], previous: Startup | None) -> dict[str, int | None]:
    fields = {phase: f"{phase}_seconds" for phase in _LEARNED_PHASES}
    return {field: seen.get(phase, getattr(previous, field, None)) for phase, field in fields.items()}


def _only_learned(previous: Startup | None) -> Startup | None:
    if previous is None or previous.p50_seconds is None:
        return None
    return previous.model_copy(update={"phase": None, "progress_percent": None, "eta_seconds": None})


def _median(seconds: Iterable[float]) -> int | None:
    listed = [max(0.0, value) for value in seconds]
    return round(median(listed)) if listed else None


def _started(pod: PodView) -> bool:
    return pod.ready and bool(pod.created) and 0 <= _total(pod) <= LONGEST_STARTUP_SECONDS


def _total(pod: PodView) -> float:
    return pod.ready_since - from_timestamp(pod.created)
