"""Who is next: preempted sequences, then the tenant that has been served least, then its most urgent request.

Fair share after Sheng et al., 2024 (virtual token counters): a tenant's counter grows by each token that is computed
for it, and the one with the lowest counter goes first. Who comes back after a pause starts no lower than those who are
there, so that nobody can save up service and then shut the others out.

Within a tenant a request ranks as if it had arrived `aging` seconds later for each level of its priority (lower goes
first, as in vLLM). That order does not change with time, and everybody is the most urgent one in the end. Priority does
not count between tenants: the one who always says "urgent" would have everything.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from octavo_runtime.core.sequence import Sequence

_IDLE_TENANTS: Final = 4096  # whose counters are remembered


@dataclass(slots=True)
class _Tenant:
    served: int  # virtual counter: tokens computed, and what others had when this one came
    live: int = 0  # sequences, waiting or running
    queue: list[tuple[float, int, Sequence]] = field(default_factory=list)  # sorted by (rank, sequence id)


class WaitingQueue:
    """The sequences that wait. Knows of the running ones only how many each tenant has."""

    def __init__(self, aging: float) -> None:
        """`aging`: seconds of waiting that are worth one level of priority."""
        self._aging = aging
        self._tenants: dict[str, _Tenant] = {}  # the one that was idle longest comes first
        self._preempted: deque[Sequence] = deque()
        self._length = 0
        self._floor = 0  # counter of the tenant that left last

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._preempted
        for tenant in self._tenants.values():
            for _, _, sequence in tenant.queue:
                yield sequence

    @property
    def contended(self) -> bool:
        """Whether the counters decide anything."""
        return self._length > 0 and sum(tenant.live > 0 for tenant in self._tenants.values()) > 1

    def add(self, sequence: Sequence) -> None:
        """A new sequence."""
        tenant = self._tenants.pop(sequence.tenant, None) or _Tenant(0)
        if tenant.live == 0:
            others = [other.served for other in self._tenants.values() if other.live]
            tenant.served = max(tenant.served, min(others, default=self._floor))
        tenant.live += 1
        self._tenants[sequence.tenant] = tenant
        self._forget_idle()
        self._insert(tenant, sequence)

    def take(self) -> Sequence | None:
        """Remove and return the next sequence."""
        if self._length == 0:
            return None
        self._length -= 1
        if self._preempted:
            return self._preempted.popleft()
        tenant = min((tenant for tenant in self._tenants.values() if tenant.queue), key=_served)
        return tenant.queue.pop(0)[2]

    def put_back(self, sequence: Sequence) -> None:
        """A sequence that was taken waits on; one that ran before goes first again."""
        if sequence.admitted:
            self._preempted.appendleft(sequence)
            self._length += 1
        else:
            self._insert(self._tenants[sequence.tenant], sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands."""
        if sequence.admitted:
            self._preempted.remove(sequence)
        else:
            queue = self._tenants[sequence.tenant].queue
            index = bisect_left(queue, (self._rank(sequence), sequence.seq_id))
            assert queue[index][2] is sequence, f"sequence {sequence.seq_id} does not wait"
            del queue[index]
        self._length -= 1

    def charge(self, sequence: Sequence, num_tokens: int) -> None:
        """`num_tokens` were computed for the tenant of `sequence`."""
        self._tenants[sequence.tenant].served += num_tokens

    def leave(self, sequence: Sequence) -> None:
        """A sequence is gone, with all its tokens charged."""
        tenant = self._tenants[sequence.tenant]
        tenant.live -= 1
        if tenant.live == 0:
            self._floor = max(self._floor, tenant.served)
            self._tenants[sequence.tenant] = self._tenants.pop(sequence.tenant)  # the last to be forgotten

    def served(self, tenant: str) -> int:
        """A tenant's counter."""
        return self._tenants[tenant].served

    def check_integrity(self, num_live: int) -> None:
        """Raise `AssertionError` when the books do not agree; `num_live` sequences wait or run."""
        assert self._length == sum(1 for _ in self), "the length drifted"
        assert num_live == sum(tenant.live for tenant in self._tenants.values()), "a tenant's sequences are miscounted"
        for tenant in self._tenants.values():
            assert tenant.queue == sorted(tenant.queue, key=_order), "a tenant's queue is out of order"
        assert all(sequence.admitted for sequence in self._preempted), "a new sequence among the preempted"

    def _insert(self, tenant: _Tenant, sequence: Sequence) -> None:
        insort(tenant.queue, (self._rank(sequence), sequence.seq_id, sequence), key=_order)
        self._length += 1

    def _rank(self, sequence: Sequence) -> float:
        return sequence.arrived_at + sequence.priority * self._aging

    def _forget_idle(self) -> None:
        if len(self._tenants) > _IDLE_TENANTS:
            oldest = next((name for name, tenant in self._tenants.items() if tenant.live == 0), None)
            if oldest is not None:
                del self._tenants[oldest]


def _served(tenant: _Tenant) -> int:
    return tenant.served


def _order(entry: tuple[float, int, Sequence]) -> tuple[float, int]:
    return entry[:2]
