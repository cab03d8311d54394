"""Leader election on a Lease, as client-go does it, with one thing more: a moment after which no write may leave.

Who holds the Lease is told by the object alone; when it expires is told by nobody's wall clock. Each candidate notes,
on its own monotonic clock, when it first saw the record that is there now, and takes the Lease over when that record
has not changed for the Lease's duration:

    leader       send renewal ──────────────── lead until ─┐      ┌─ duration: may be taken over
                 │<────────── 2/3 duration ────────────────>│      │
                 │                    last write sent ──────┘──────┤
                 │                                 its answer or its timeout (4/15 duration)
    standby          └─ first seen ────────────────────────────────┴─ take over, at the earliest

A renewal counts from the moment at which it was *sent*, and a standby counts from a later one. So a write that is sent
before `lead_until` has arrived or timed out before anybody else leads, as long as the clocks run at rates that differ
by less than 3 %. Compare and swap by resourceVersion decides between two that take over at once.

Source: k8s.io/client-go/tools/leaderelection/leaderelection.go (15 s, 10 s, 2 s).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

Raw = dict[str, Any]

NEVER: Final = -math.inf


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds, all of them parts of the Lease's duration: 15 gives client-go's 15, 10 and 2."""

    duration: float

    @property
    def renew_deadline(self) -> float:
        """A leader whose last renewal is older than this leads no more."""
        return self.duration * 2 / 3

    @property
    def retry(self) -> float:
        """Between two looks at the Lease."""
        return self.duration * 2 / 15

    @property
    def request(self) -> float:
        """What a write may take at most; less than the rest between the deadline and the end of the Lease."""
        return self.duration * 4 / 15


@dataclass(frozen=True, slots=True)
class Record:
    """The spec of a Lease. An empty holder has released it."""

    holder: str
    duration: float
    acquired: str
    renewed: str
    transitions: int

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Self:
        """What a raw Lease says; a Lease with an empty spec belongs to nobody."""
        spec = raw.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration=float(spec.get("leaseDurationSeconds") or 0),
            acquired=spec.get("acquireTime") or "",
            renewed=spec.get("renewTime") or "",
            transitions=int(spec.get("leaseTransitions") or 0),
        )

    def spec(self) -> Raw:
        """The spec of a Lease; its duration is in whole seconds, at least one."""
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": max(1, math.ceil(self.duration)),
            "acquireTime": self.acquired,
            "renewTime": self.renewed,
            "leaseTransitions": self.transitions,
        }


@dataclass(frozen=True, slots=True)
class Candidate:
    """What one process knows of the Lease. `now` is always its own monotonic clock."""

    identity: str
    timing: Timing
    record: Record | None = None
    version: str = ""
    seen_at: float = NEVER
    """When `record` was seen for the first time."""
    lead_until: float = NEVER
    """A write may be sent before this moment."""

    def observe(self, record: Record | None, version: str, now: float) -> Self:
        """After a look at the Lease; None where there is none. Somebody else's record ends the own lead at once."""
        seen_at = self.seen_at if version == self.version and record is not None else now
        mine = record is not None and record.holder == self.identity
        return replace(
            self, record=record, version=version, seen_at=seen_at, lead_until=self.lead_until if mine else NEVER
        )

    @property
    def expiry(self) -> float:
        """When somebody else's Lease may be taken over; NEVER where there is none."""
        if self.record is None or self.record.holder in ("", self.identity):
            return NEVER
        return self.seen_at + max(self.record.duration, self.timing.duration)

    def pause(self, now: float) -> float:
        """Seconds until the next look: at the latest when the Lease expires."""
        rest = self.expiry - now
        return min(self.timing.retry, rest) if rest > 0 else self.timing.retry

    def leads(self, now: float) -> bool:
        """Whether a write may be sent now."""
        return now < self.lead_until

    def wish(self, wall: str, now: float) -> Record | None:
        """The record to write, over the version that was seen; None while the Lease is somebody else's."""
        before = self.record
        if before is not None and before.holder == self.identity:
            return replace(before, duration=self.timing.duration, renewed=wall)
        if now < self.expiry:
            return None
        transitions = before.transitions + 1 if before is not None else 0
        return Record(self.identity, self.timing.duration, wall, wall, transitions)

    def won(self, record: Record, version: str, sent_at: float, now: float) -> Self:
        """After the API server took `record`, which was sent at `sent_at`."""
        lead_until = sent_at + self.timing.renew_deadline
        return replace(self, record=record, version=version, seen_at=now, lead_until=lead_until)

    def release(self, wall: str) -> Record | None:
        """The record that gives the Lease back; None where it is not ours. Valid once the last write is answered."""
        if self.record is None or self.record.holder != self.identity:
            return None
        return replace(self.record, holder="", duration=1, renewed=wall)
