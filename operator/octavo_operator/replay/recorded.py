"""Counters of a runtime, as Prometheus kept them -> requests with their time and size, for the replay.

    requests that arrived in a slot    = those that left the queue in it + what the queue grew by
    tokens of a prompt, of an answer   = tokens computed, generated around the slot / requests around it

What a counter cannot say is made up, by a seed: the moment within the slot (evenly), the size of the single request
(exponential around the mean, as in generated traces). What it does not count is missing: requests that were refused;
prompt tokens that came from the prefix cache, which cost no computing but do hold memory; what was counted after a
replica's last scrape. Requests that were held while nothing ran appear when they were let in.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from octavo_operator.replay.trace import Arrival, draw_size

SLOT_SECONDS: Final = 15.0
"""The interval at which a PodMonitor lets Prometheus scrape: what is shorter would come in lumps."""
FEWEST_REQUESTS: Final = 20
"""A mean is of so many requests at least, of the slots around: an answer's tokens come after its request."""

History = Mapping[str, Mapping[float, float]]
"""Values of one metric by pod and time."""


@dataclass(frozen=True, slots=True)
class Recording:
    """Counters of requests that left the queue and of tokens, and the queue itself, at the same `times`."""

    times: Sequence[float]
    started: History
    waiting: History
    prompt_tokens: History
    generation_tokens: History


def arrivals(recording: Recording, seed: int) -> list[Arrival]:
    """The requests, by time since the first of the recording's times."""
    started = added(recording.started, recording.times)
    prompts, answers = (added(each, recording.times) for each in (recording.prompt_tokens, recording.generation_tokens))
    dice, found = random.Random(seed), list[Arrival]()  # noqa: S311  nothing is kept secret by it
    for slot, number in enumerate(_arrived(started, _grown(recording.waiting, recording.times))):
        begin = recording.times[slot] - recording.times[0]
        length = recording.times[slot + 1] - recording.times[slot]
        sizes = [_mean(tokens, started, slot) for tokens in (prompts, answers)]
        moments = sorted(begin + length * dice.random() for _ in range(number))
        found += [Arrival(time, *(draw_size(dice, mean) for mean in sizes)) for time in moments]
    return found


def added(history: History, times: Sequence[float]) -> list[float]:
    """What a counter grew by in each slot, over all pods. One that restarts, or a pod that is new, begins at 0."""
    total = [0.0] * (len(times) - 1)
    for values in history.values():
        last = values.get(times[0], 0.0)
        for slot, time in enumerate(times[1:]):
            value = values.get(time)
            if value is not None:
                total[slot] += value - last if value >= last else value
                last = value
    return total


def _grown(history: History, times: Sequence[float]) -> list[float]:
    """What a gauge changed by in each slot, over all pods."""
    sums = [sum(values.get(time, 0.0) for values in history.values()) for time in times]
    return [after - before for before, after in pairwise(sums)]


def _arrived(started: Sequence[float], grown: Sequence[float]) -> list[int]:
    """Whole requests in each slot; what is less than none, for a scrape came late, is taken from the next ones."""
    owed, numbers = 0.0, list[int]()
    for left, more in zip(started, grown, strict=True):
        owed += left + more
        numbers.append(max(0, round(owed)))
        owed -= numbers[-1]
    return numbers


def _mean(tokens: Sequence[float], requests: Sequence[float], slot: int) -> float:
    """Tokens of a request, of the fewest slots around this one that have enough of them; at least 1."""
    low, high = slot, slot + 1
    while sum(requests[low:high]) < FEWEST_REQUESTS and (low > 0 or high < len(requests)):
        low, high = max(0, low - 1), min(len(requests), high + 1)
    return max(1.0, sum(tokens[low:high]) / max(1.0, sum(requests[low:high])))
