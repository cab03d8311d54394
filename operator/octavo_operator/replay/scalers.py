"""Who decides: Octavo's own `decide`, and rivals with the rules of other autoscalers at their defaults.

    octavo    scrape 2 s, decide 5 s and at jumps of a replica's load, the policy of the ModelServer; with scaleToZero
              requests are held while there is no replica, of which the rivals always have one
    hpa       waiting requests per replica (HPA v2, AverageValue): 15 s, tolerance 10 %, down to the most of 300 s,
              up by at most max(2x, +4) in 15 s
    keda      KV percent (KEDA's Prometheus scaler on an HPA): the same; KEDA's pollingInterval is for 0 to 1 alone
    knative   requests in flight per replica: tick 2 s, mean of 60 s, panic at 200 % in 6 s until 60 s without it, down
              to half at most; 70 % of the target is aimed at, which is what a replica runs at once: its slots, or the
              requests of the trace's mean size that its KV cache holds

Sources: kubernetes/pkg/controller/podautoscaler, kedacore/keda docs, knative/serving pkg/autoscaler/scaling.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Final, Protocol

from octavo_operator.core.autoscale import HANDOVER_SECONDS, decide
from octavo_operator.core.demand import tolerant
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.reading import is_news
from octavo_operator.core.window import Signals, Window, aggregate
from octavo_operator.replay.fleet import Fleet
from octavo_operator.replay.replica import Machine
from octavo_operator.replay.trace import Arrival

SCRAPE_SECONDS: Final = 2.0


class Scaler(Protocol):
    """Looks every 2 s; says how many replicas there should be."""

    name: str

    def look(self, fleet: Fleet) -> int:
        """Replicas wanted from now on."""
        ...


@dataclass
class Octavo:
    """The production code: windows, aggregate, decide."""

    policy: ScalingPolicy
    name: str = "octavo"
    period: float = 5.0
    memory: ScalerMemory = field(default_factory=lambda: ScalerMemory(since=0.0))
    reasons: dict[str, int] = field(default_factory=dict)
    _windows: dict[str, Window] = field(default_factory=dict)
    _due: float = 0.0

    def look(self, fleet: Fleet) -> int:
        """Scrapes; decides when it is time, or a load has jumped."""
        before = self._windows
        self._windows = {uid: before.get(uid, Window()).add(sample) for uid, sample in fleet.samples().items()}
        if fleet.now < self._due and not self._jumped(before) and not fleet.held:
            return fleet.size
        self._due = fleet.now + self.period
        signals = aggregate(self._windows, fleet.ready_since, fleet.now, startup_p90=fleet.startup)
        if self.policy.idle_after is not None:
            signals = _with_held(signals, fleet)
        decision = decide(signals, self.policy, fleet.size, self.memory, fleet.now)
        self.memory = decision.memory
        self.reasons[decision.reason] = self.reasons.get(decision.reason, 0) + 1
        return decision.replicas

    def _jumped(self, before: Mapping[str, Window]) -> bool:
        readings = ((before.get(uid, Window()).reading, window.reading) for uid, window in self._windows.items())
        return any(after is not None and is_news(was, after) for was, after in readings)


def _with_held(signals: Signals, fleet: Fleet) -> Signals:
    """The activator is there from the start, and says what is held every 2 s: a wake begins up to that much later."""
    tokens = sum(arrival.prompt_tokens for _, arrival in fleet.held)
    return replace(signals, held=float(len(fleet.held)), held_tokens=float(tokens), activated=HANDOVER_SECONDS)


@dataclass
class _Hpa:
    """The rules of an HPA around a ratio of metric to target."""

    policy: ScalingPolicy
    name: str
    period: float = 15.0
    _due: float = 0.0
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def ratio(self, fleet: Fleet) -> float:
        raise NotImplementedError

    def look(self, fleet: Fleet) -> int:
        """One sync of the controller when it is time."""
        if fleet.now < self._due or not fleet.ready:
            return fleet.size
        self._due = fleet.now + self.period
        wanted = self._bounded(tolerant(self.ratio(fleet) * len(fleet.ready), fleet.size))
        self._wanted.append((fleet.now, wanted))
        while self._wanted[0][0] <= fleet.now - 300:
            self._wanted.popleft()
        if wanted > fleet.size:
            return min(wanted, max(2 * fleet.size, fleet.size + 4))
        return min(fleet.size, max(number for _, number in self._wanted))

    def _bounded(self, wanted: int) -> int:
        return min(self.policy.max_replicas, max(self.policy.min_replicas, wanted))


@dataclass
class HpaOnQueue(_Hpa):
    """Waiting requests per replica."""

    name: str = "hpa-queue"

    def ratio(self, fleet: Fleet) -> float:
        """Mean queue of a replica, as a multiple of the target."""
        waiting = [sample.waiting for sample in fleet.samples().values()]
        return sum(waiting) / len(waiting) / (self.policy.waiting_target or 3)


@dataclass
class KedaOnKv(_Hpa):
    """KV percent."""

    name: str = "keda-kv"

    def ratio(self, fleet: Fleet) -> float:
        """Mean KV use of a replica, as a multiple of the target."""
        used = [sample.kv_used / sample.kv_capacity for sample in fleet.samples().values()]
        return sum(used) / len(used) / self.policy.supply_share


@dataclass
class Knative:
    """Requests in flight, aimed at 70 % of what a replica runs at once."""

    policy: ScalingPolicy
    at_once: float
    name: str = "knative"
    _seen: deque[tuple[float, float]] = field(default_factory=deque)
    _panic_until: float = 0.0

    def look(self, fleet: Fleet) -> int:
        """One tick of the KPA."""
        flying = sum(sample.running + sample.waiting for sample in fleet.samples().values()) + len(fleet.held)
        self._seen.append((fleet.now, flying))
        while self._seen[0][0] <= fleet.now - 60:
            self._seen.popleft()
        target, ready = 0.7 * self.at_once, max(1, len(fleet.ready))
        stable = math.ceil(self._mean(fleet.now - 60) / target)
        panic = math.ceil(self._mean(fleet.now - 6) / target)
        if panic >= 2 * ready:
            self._panic_until = fleet.now + 60
        wanted = max(stable, panic, fleet.size) if fleet.now < self._panic_until else max(stable, fleet.size // 2)
        return min(self.policy.max_replicas, max(self.policy.min_replicas, wanted))

    def _mean(self, since: float) -> float:
        recent = [value for time, value in self._seen if time > since]
        return sum(recent) / len(recent)


def rivals(policy: ScalingPolicy, machine: Machine, trace: Sequence[Arrival]) -> list[Scaler]:
    """All of them, with the bounds and targets of the same policy."""
    return [HpaOnQueue(policy), KedaOnKv(policy), Knative(policy, runs_at_once(machine, trace))]


def runs_at_once(machine: Machine, trace: Sequence[Arrival]) -> float:
    """The concurrency that somebody who knows the load would name: an answer is half there, on the average."""
    size = fmean(arrival.prompt_tokens + arrival.output_tokens / 2 for arrival in trace)
    return min(float(machine.max_num_seqs), max(1.0, machine.kv_tokens / size))
