"""Over which times the samples of a replica are looked at, by the pace at which they come."""

from dataclasses import dataclass
from typing import Final

WINDOW_SECONDS: Final = 10.0
"""Five scrapes at the default period: long enough to even out one burst, short enough to follow a ramp."""
RATE_SECONDS: Final = 20.0
"""A prompt is counted when its last token is computed, so a shorter window would see prompts come in lumps."""
LATENCY_SECONDS: Final = 60.0
STEADY_SECONDS: Final = 40.0


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds: until a sample is stale, and of the windows of means and of rates. Direct samples come every 2 s."""

    fresh: float
    mean: float
    rate: float


DIRECT: Final = Pace(WINDOW_SECONDS, WINDOW_SECONDS, RATE_SECONDS)
RESTING: Final = Pace(fresh=80.0, mean=40.0, rate=80.0)
"""Of replicas that nothing is decided on: their load is only shown, and asked for every 30 s."""
