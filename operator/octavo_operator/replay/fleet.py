"""A fleet of replicas in simulated time: they start, take requests by least outstanding, drain, and cost.

wanted ──startup──> ready ──taken away──> draining ──its requests end──> gone        each costs from start to end
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from octavo_operator.core.exposition import Sample
from octavo_operator.replay.replica import FirstToken, Machine, SimReplica
from octavo_operator.replay.trace import Arrival


@dataclass
class Fleet:
    """`startup` is in seconds. Requests that find no ready replica are held until one is."""

    machine: Machine
    startup: float
    now: float = 0.0
    ready: dict[str, SimReplica] = field(default_factory=dict)
    ready_since: dict[str, float] = field(default_factory=dict)
    starting: list[float] = field(default_factory=list)
    draining: list[SimReplica] = field(default_factory=list)
    held: list[tuple[int, Arrival]] = field(default_factory=list)
    first_tokens: list[FirstToken] = field(default_factory=list)
    replica_seconds: float = 0.0
    _born: int = 0

    @property
    def size(self) -> int:
        """Replicas that are wanted: ready or on their way."""
        return len(self.ready) + len(self.starting)

    @property
    def busy(self) -> bool:
        """Whether any request is not answered yet."""
        replicas = [*self.ready.values(), *self.draining]
        return bool(self.held) or any(replica.outstanding for replica in replicas)

    def begin(self, replicas: int) -> None:
        """So many replicas are ready at once, as at the start of a trace."""
        for _ in range(replicas):
            self._become_ready(self.now)

    def scale(self, wanted: int) -> None:
        """Starts replicas, or takes away: first those that start, then the ready ones with the fewest requests."""
        while self.size > wanted and self.starting:
            self.starting.pop()
        while self.size > wanted:
            name = min(self.ready, key=lambda uid: self.ready[uid].outstanding)
            self.draining.append(self.ready.pop(name))
            del self.ready_since[name]
        self.starting += [self.now + self.startup] * (wanted - self.size)

    def run(self, until: float, arrivals: Iterator[tuple[int, Arrival]]) -> None:
        """Lets time pass; `arrivals` yields those of that time."""
        for number, arrival in arrivals:
            self._pass(arrival.time)
            self._route(number, arrival)
        self._pass(until)

    def samples(self) -> dict[str, Sample]:
        """What a scrape of all ready replicas shows, by uid."""
        return {uid: replica.sample(self.now) for uid, replica in self.ready.items()}

    def _pass(self, until: float) -> None:
        for time in sorted(time for time in self.starting if time <= until):
            self._spend(time)
            self._become_ready(time)
            self.starting.remove(time)
        self._spend(until)
        for replica in (*self.ready.values(), *self.draining):
            replica.advance(until)
        self.draining = [replica for replica in self.draining if replica.outstanding]

    def _spend(self, until: float) -> None:
        self.replica_seconds += (until - self.now) * (self.size + len(self.draining))
        self.now = until

    def _become_ready(self, time: float) -> None:
        uid = f"replica-{self._born}"
        self._born += 1
        self.ready[uid] = SimReplica(self.machine, time, self.first_tokens)
        self.ready_since[uid] = time
        held, self.held = self.held, []
        for number, arrival in held:
            self._route(number, arrival)

    def _route(self, number: int, arrival: Arrival) -> None:
        if not self.ready:
            self.held.append((number, arrival))
            return
        min(self.ready.values(), key=lambda replica: replica.outstanding).submit(number, arrival)
