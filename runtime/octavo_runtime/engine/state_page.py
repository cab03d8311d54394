"""What the engine is doing right now, in memory that both processes see.

The engine writes after every step and every idle tick; probes, metrics and admission read. Nobody waits for anybody, so
the numbers are there also when the engine hangs. Two slots are written in turn:

    slot 0   | sequence 8 | state | crc |        the reader takes the valid slot with the higher sequence
    slot 1   | sequence 9 | sta...               being written: its checksum does not match, slot 0 counts

A writer that is stopped in the middle of a write spoils one slot and leaves the other, so a reader needs no lock, never
sees half a state, and never waits for the writer (a seqlock with one copy would spin for ever on a stopped writer).
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from enum import IntEnum
from typing import Final, NamedTuple


class Phase(IntEnum):
    """What the engine does on its way to readiness. The names are the values of the label `phase`."""

    PROCESS = 0  # the process starts and imports its libraries
    WEIGHTS = 1
    WARMUP = 2  # KV cache, kernels, first steps
    READY = 3


# The fields that only grow while an engine lives. /metrics shows them over all engines of the process.
TOTALS: Final = (
    "steps",
    "preemptions",
    "prompt_tokens",
    "generation_tokens",
    "prefix_queries",
    "prefix_hits",
    "spec_draft_tokens",
    "spec_accepted_tokens",
)


class EngineState(NamedTuple):
    """One reading of the page."""

    phase: Phase = Phase.PROCESS
    progress: float = 0.0  # of the phase, 0 to 1
    beat: float = 0.0  # time.monotonic() of this writing
    steps: int = 0
    running: int = 0
    waiting: int = 0
    waiting_tokens: int = 0
    kv_tokens_used: int = 0
    kv_tokens_capacity: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_queries: int = 0  # prompt tokens looked up in the prefix cache
    prefix_hits: int = 0  # those found there
    spec_draft_tokens: int = 0  # tokens guessed ahead
    spec_accepted_tokens: int = 0  # those that were right
    # Seconds spent in each phase before READY, 0 while it is not over.
    process_seconds: float = 0.0
    weights_seconds: float = 0.0
    warmup_seconds: float = 0.0

    def plus_totals(self, past: EngineState) -> EngineState:
        """The state with what engines before this one have counted, so that totals never go back."""
        return self._replace(**{name: getattr(self, name) + getattr(past, name) for name in TOTALS})

    @property
    def kv_usage(self) -> float:
        """Share of the KV cache that live sequences hold, 0 to 1."""
        return self.kv_tokens_used / self.kv_tokens_capacity if self.kv_tokens_capacity else 0.0


_BODY: Final = struct.Struct("<QBddQIIQQQQQQQQQQddd")  # sequence, then the fields of EngineState
_CRC: Final = struct.Struct("<I")
_SLOT_SIZE: Final = 256
_READ_ATTEMPTS: Final = 100


class StatePage:
    """Two slots in an anonymous shared file. One process writes, any number of threads and processes read."""

    def __init__(self, fd: int) -> None:
        """Map the page behind `fd`, which stays the caller's to close. A new page starts with the initial state."""
        self._memory = mmap.mmap(fd, 2 * _SLOT_SIZE)
        self._sequence = 0
        if any(self._memory[:]):
            self._sequence, _ = self._read()
        else:
            self.write(EngineState())

    @staticmethod
    def create_fd() -> int:
        """A file without a name, which is gone with the last process that has it open."""
        fd = os.memfd_create("octavo-state", os.MFD_CLOEXEC)
        os.ftruncate(fd, 2 * _SLOT_SIZE)
        return fd

    def write(self, state: EngineState) -> None:
        self._sequence += 1
        body = _BODY.pack(self._sequence, *state)
        record = body + _CRC.pack(zlib.crc32(body))
        start = (self._sequence % 2) * _SLOT_SIZE
        self._memory[start : start + len(record)] = record

    def read(self) -> EngineState:
        """The newest whole state."""
        _, state = self._read()
        return state

    def close(self) -> None:
        self._memory.close()

    def _read(self) -> tuple[int, EngineState]:
        # A read can meet both slots half written only when two writes overtake it; the next attempt does not.
        for _ in range(_READ_ATTEMPTS):
            bodies = [body for slot in (0, 1) if (body := self._valid_body(slot)) is not None]
            if bodies:
                sequence, phase, *rest = max(_BODY.unpack(body) for body in bodies)
                return sequence, EngineState(Phase(phase), *rest)
        raise AssertionError("both slots of the state page are damaged")

    def _valid_body(self, slot: int) -> bytes | None:
        start = slot * _SLOT_SIZE
        record = self._memory[start : start + _BODY.size + _CRC.size]
        body, (crc,) = record[: _BODY.size], _CRC.unpack_from(record, _BODY.size)
        return body if any(body) and zlib.crc32(body) == crc else None
