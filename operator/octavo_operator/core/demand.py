"""What each signal asks for, in replicas: the load, divided by what one replica should carry.

    candidate              demand                                            one replica
    ─────────              ──────                                            ───────────
    kvUtilizationPercent   KV tokens in use + waiting tokens                 min(capacity, learned) * target
    waitingPerReplica      waiting requests                                  target
    prefillTokens          prompt tokens/s that arrive + waiting / patience  learned tokens/s * 0.8
    ttftP95, itlP95        ready replicas * p95 / limit                      at most twice what the others ask for
    queueWait              the same
    forecast               the first and the third, grown on as until now    over the start-up time of a replica;
                                                                             what waits already does not grow
    held                   requests held at the activator, their tokens      maxNumSeqs, or 64; as the first

Waiting tokens count for the KV cache: they will be held there. But a queue says only that a load is too high, and not
by how much: it grows as long as nobody helps, and stays in the replica where it is. So a queue asks for no more than
the third line: replicas for what arrives, and for the queue to be gone within the time that replicas stay in any case,
two start-ups. Until the limit of one was seen, what one has computed without a queue stands for it, whole and not 0.8
of it. Where nothing was seen at all a queue asks for what it divides to.

Requests held at the activator count as waiting; while no replica is ready they are a candidate of their own. An unknown
replica adds what it would carry if it were full. Sources: llm-d WVA V2 (tokens, learned supply), Dynamo planner
(predicted latency below 0.8 of the limit before a step down), HPA (relative tolerance).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from octavo_operator.core.memory import STARTUPS_TO_WAIT, Recalled
from octavo_operator.core.pace import LATENCY_SECONDS, WINDOW_SECONDS
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.window import Signals

TOLERANCE: Final = 0.1
PREFILL_SHARE: Final = 0.8
BACKLOG_SECONDS: Final = 30.0
"""Shortest time in which the waiting prompts should be computed, beside those that arrive."""
LEAST_RATE: Final = 1.0
"""Prompt tokens per second; a replica that computes fewer hangs."""
SLO_SHARE: Final = 0.8
"""A latency below this share of its limit leaves room for fewer replicas."""
MOST_LATENCY_FACTOR: Final = 2.0

SIGNAL_KV: Final = "kvUtilizationPercent"
SIGNAL_WAITING: Final = "waitingPerReplica"
SIGNAL_PREFILL: Final = "prefillTokens"
SIGNAL_TTFT: Final = "ttftP95"
SIGNAL_ITL: Final = "itlP95"
SIGNAL_QUEUE_WAIT: Final = "queueWait"
SIGNAL_FORECAST: Final = "forecast"
SIGNAL_HELD: Final = "held"

DEFAULT_MAX_NUM_SEQS: Final = 64
"""The runtime's own (tests/contract holds both equal)."""


@dataclass(frozen=True, slots=True)
class View:
    """What the candidates are computed from. `current` is the number wanted until now."""

    signals: Signals
    policy: ScalingPolicy
    current: int
    recalled: Recalled

    @property
    def capacity(self) -> float:
        """KV tokens of one replica."""
        return self.signals.kv_capacity / self.signals.known

    @property
    def carried(self) -> float:
        """KV tokens that one replica holds before requests begin to wait."""
        learned = self.recalled.kv_tokens
        return self.capacity if learned is None else min(self.capacity, learned)

    @property
    def kv_demand(self) -> float:
        """KV tokens in use, and those that come in as soon as there is room."""
        return self.signals.kv_used + self.signals.waiting_tokens + self.signals.held_tokens

    @property
    def waiting(self) -> float:
        """Requests that wait, in the replicas or before them."""
        return self.signals.waiting + self.signals.held

    @property
    def counts_queue(self) -> bool:
        """Whether what arrives and what waits is known in tokens, and not in requests alone."""
        signals = self.signals
        return signals.arrival_rate is not None and signals.waiting_tokens + signals.held_tokens > 0

    @property
    def patience(self) -> float:
        """Seconds for the queue: help comes after one start-up, and stays for another one at least."""
        return max(BACKLOG_SECONDS, STARTUPS_TO_WAIT * (self.signals.startup_p90 or 0.0))

    @property
    def arriving(self) -> float:
        """Prompt tokens per second that come within a minute; while a queue is there, with as much of what the last
        10 s brought beyond it as is more than chance.
        """
        signals = self.signals
        steady, newest = signals.arrival_rate, signals.newest_rate
        if steady is None or newest is None:
            return signals.prompt_rate
        if signals.waiting < max(1, signals.ready) or newest <= steady:
            return steady
        return steady + max(0.0, newest - steady - self._chance(steady) / (newest - steady))

    def _chance(self, rate: float) -> float:
        """Variance of a rate over 10 s, where prompts come independently and are exponential around those that wait.

        The fewer and the longer they are, the more of a difference is a lump of them, which is what makes them wait.
        Source: James and Stein's estimator, for one mean that is drawn towards another.
        """
        return 2 * self.signals.waiting_tokens / self.signals.waiting * rate / WINDOW_SECONDS

    @property
    def prefill_demand(self) -> float:
        """Prompt tokens per second to compute. What is held goes to the replicas that come, and at once."""
        signals = self.signals
        return self.arriving + signals.waiting_tokens / self.patience + signals.held_tokens / BACKLOG_SECONDS

    @property
    def prefill_supply(self) -> float | None:
        """Prompt tokens per second that one replica should compute; None while its limit was never seen."""
        rate = self.recalled.prompt_rate
        return rate * PREFILL_SHARE if rate and rate >= LEAST_RATE else None

    @property
    def least_supply(self) -> float | None:
        """The same; until the limit was seen, what one has computed without a queue: so much it carries at least."""
        proven = self.recalled.proven_rate
        return self.prefill_supply or (proven if proven and proven >= LEAST_RATE else None)


def candidates(view: View, *, unknown_full: bool) -> dict[str, int]:
    """What each signal alone asks for; without a single sample, what is there."""
    extra = view.signals.unknown if unknown_full else 0
    if view.signals.ready == 0 and view.signals.held:
        return {SIGNAL_HELD: max(view.current, _to_wake(view))}
    if view.signals.known == 0:
        return dict.fromkeys(_targets(view.policy), view.current)
    demands = _load(view, extra)
    demands |= _latency(view, _explained(demands))
    if (ahead := _forecast(view, extra)) is not None:
        demands[SIGNAL_FORECAST] = ahead
    return {signal: tolerant(demand, view.current) for signal, demand in demands.items()}


def _to_wake(view: View) -> int:
    """Replicas for the held requests; what one carries is not measured now, so it is what is known of it."""
    policy, recalled = view.policy, view.recalled
    demand = view.signals.held / (policy.max_num_seqs or DEFAULT_MAX_NUM_SEQS)
    known = [tokens for tokens in (recalled.capacity, recalled.kv_tokens) if tokens]
    if known:
        demand = max(demand, view.signals.held_tokens / (min(known) * policy.supply_share))
    return max(1, math.ceil(demand - 1e-9))


def tolerant(demand: float, current: int) -> int:
    """Whole replicas for the demand; `current` where that is within 10 % of it."""
    if current and abs(demand / current - 1) <= TOLERANCE:
        return current
    return max(1, math.ceil(demand - 1e-9))


def _targets(policy: ScalingPolicy) -> Iterable[str]:
    if policy.kv_target is not None:
        yield SIGNAL_KV
    if policy.waiting_target is not None:
        yield SIGNAL_WAITING


def _load(view: View, extra: int) -> dict[str, float]:
    policy, demands = view.policy, dict[str, float]()
    flow = view.prefill_demand / view.prefill_supply if view.prefill_supply else None
    most = view.prefill_demand / view.least_supply if view.least_supply and view.counts_queue else math.inf
    if policy.kv_target is not None:
        share = view.carried * policy.kv_target
        demands[SIGNAL_KV] = _queue(view.kv_demand / share, view.signals.kv_used / share, most)
        demands[SIGNAL_KV] += extra / policy.kv_target
    if policy.waiting_target is not None:
        demands[SIGNAL_WAITING] = _queue(view.waiting / policy.waiting_target, view.signals.ready, most) + extra
    if flow is not None:
        demands[SIGNAL_PREFILL] = flow + extra / PREFILL_SHARE
    return demands


def _queue(full: float, without: float, flow: float) -> float:
    """What a queue asks for, but no more than the flow explains; `without` it, or as there are, in any case."""
    return min(full, max(without, flow))


def _explained(demands: dict[str, float]) -> float:
    """Replicas that the load can explain; what is slow with more of them is not slow for want of replicas."""
    return MOST_LATENCY_FACTOR * max(1.0, *demands.values())


def _latency(view: View, most: float) -> dict[str, float]:
    signals, policy = view.signals, view.policy
    seen = {
        SIGNAL_TTFT: (signals.ttft_p95, policy.ttft_p95),
        SIGNAL_ITL: (signals.itl_p95, policy.itl_p95),
        SIGNAL_QUEUE_WAIT: (signals.queue_wait_p95, policy.queue_wait_p95),
    }
    return {
        signal: min(most, _by_latency(view, value / limit))
        for signal, (value, limit) in seen.items()
        if value is not None and limit is not None
    }


def _by_latency(view: View, ratio: float) -> float:
    """Replicas with which the latency, taken to grow as the load of each, keeps to its limit; fewer only with room."""
    if ratio <= 1:
        return view.signals.ready * min(1.0, ratio / SLO_SHARE)
    if _settled(view):
        return view.signals.ready * min(ratio, MOST_LATENCY_FACTOR)
    return float(view.current)


def _settled(view: View) -> bool:
    """Whether the latencies were measured with the replicas that are there now, not before the last were added."""
    added = view.recalled.added_ago
    return view.signals.ready >= view.current and (added is None or added >= LATENCY_SECONDS)


def _forecast(view: View, extra: int) -> float | None:
    """What the load asks for once it has grown; what waits already does not grow, it is computed or waits longer."""
    factor, signals = view.recalled.growth, view.signals
    if factor <= 1:
        return None
    grown = replace(
        signals,
        kv_used=signals.kv_used * factor,
        prompt_rate=signals.prompt_rate * factor,
        arrival_rate=signals.arrival_rate and signals.arrival_rate * factor,
        newest_rate=signals.newest_rate and signals.newest_rate * factor,
    )
    demands = _load(replace(view, signals=grown), extra)
    ahead = [demands[signal] for signal in (SIGNAL_KV, SIGNAL_PREFILL) if signal in demands]
    return max(ahead, default=None)


def obstacle(view: View, survivors: int) -> str | None:
    """Why `survivors` replicas would not carry the load, or None when they would. Unknown replicas count as full."""
    signals, policy = view.signals, view.policy
    used = view.kv_demand + signals.unknown * view.carried
    if used > survivors * view.carried * policy.supply_share:
        return f"{used:.0f} KV tokens in use do not fit into {survivors} replicas at {policy.supply_share:.0%}"
    requests = signals.running + view.waiting + signals.unknown * (policy.max_num_seqs or 0)
    if policy.max_num_seqs is not None and requests > survivors * policy.max_num_seqs:
        return f"{requests:.0f} requests do not fit into {survivors} replicas that run {policy.max_num_seqs} each"
    supply = view.prefill_supply
    if supply is not None and view.prefill_demand + signals.unknown * supply > survivors * supply:
        return f"{view.prefill_demand:.0f} prompt tokens/s are more than {survivors} replicas compute"
    return None
