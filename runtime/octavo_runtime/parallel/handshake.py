"""How a node gets into a group: what is said, and what the leader thinks of it. No sockets, no clock.

    leader                         node
      Challenge(nonce)      ──>
                            <──    Hello(terms, nonce, proof)      proof: by the group's token
      Refused | NotNow      ──>                                    or, when all nodes are there:
      Welcome(meeting, proof) ──>

Everything that decides which numbers a rank computes must be the same on both sides, and which model it is. The token
is never sent: each side proves that it has it by a digest over the other's random bytes (HMAC, RFC 2104).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from octavo_runtime.parallel.messages import Meeting, Refused

if TYPE_CHECKING:
    from collections.abc import Container

    from octavo_runtime.config import ServeConfig

PROTOCOL: Final = 1  # of the messages between nodes
NONCE_SIZE: Final = 32  # random bytes
TOKEN_VARIABLE: Final = "OCTAVO_GROUP_TOKEN"  # noqa: S105  where the token is; the same on all nodes, or on none
_SAME: Final = (
    "tensor_parallel_size",
    "nodes",
    "max_model_len",
    "dtype",
    "kv_cache_dtype",
    "block_size",
    "attention_backend",
)


class Challenge(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The leader's first words."""

    protocol: int
    nonce: bytes


class Terms(msgspec.Struct, frozen=True, array_like=True):
    """What must be the same on all nodes."""

    version: str  # of this software
    leader: str  # --leader-address: whose group it is
    flags: dict[str, str]
    model: str  # its fingerprint


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A node asks to be let in."""

    terms: Terms
    node_rank: int
    nonce: bytes
    proof: bytes


class NotNow(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The node is to try again: this may pass."""

    message: str


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All nodes are there."""

    meeting: Meeting  # its address is empty: it is where the node has reached the leader
    proof: bytes


FromLeader = Challenge | NotNow | Refused | Welcome


def terms_of(config: ServeConfig, version: str, model: str) -> Terms:
    flags = {name: str(getattr(config, name)) for name in _SAME}
    return Terms(version, config.leader_address or "", flags, model)


def make_hello(terms: Terms, node_rank: int, challenge: Challenge, nonce: bytes, token: str) -> Hello:
    return Hello(terms, node_rank, nonce, _node_proof(token, challenge.nonce, nonce, terms, node_rank))


@dataclass(frozen=True, slots=True)
class Doorkeeper:
    """Knows who may come into the leader's group."""

    terms: Terms  # the leader's own
    nodes: int
    token: str

    def judge(self, hello: Hello, challenge: Challenge, taken: Container[int]) -> Refused | NotNow | None:
        """What to say to `hello`; None: welcome, once all are there. `taken`: nodes that are there already."""
        rank = hello.node_rank
        proof = _node_proof(self.token, challenge.nonce, hello.nonce, hello.terms, rank)
        if not hmac.compare_digest(proof, hello.proof):
            return _refuse(f"{TOKEN_VARIABLE} is not the leader's")
        if hello.terms.leader != self.terms.leader:  # the address was another pod's, and DNS has not heard yet
            return NotNow(f"--leader-address {hello.terms.leader}: this is the leader of {self.terms.leader}")
        if (difference := _difference(hello.terms, self.terms)) is not None:
            return _refuse(difference)
        if not 0 < rank < self.nodes:
            return _refuse(f"--node-rank {rank}: with --nodes {self.nodes} the leader waits for 1 to {self.nodes - 1}")
        return NotNow(f"--node-rank {rank} is there already") if rank in taken else None

    def welcome(self, hello: Hello, meeting: Meeting) -> Welcome:
        return Welcome(meeting, _leader_proof(self.token, hello.nonce, meeting))


def is_genuine(welcome: Welcome, hello: Hello, token: str) -> bool:
    """Whether it comes from a leader that has the token, and answers this `hello`."""
    return hmac.compare_digest(_leader_proof(token, hello.nonce, welcome.meeting), welcome.proof)


def _difference(theirs: Terms, ours: Terms) -> str | None:
    if theirs.version != ours.version:
        return f"Octavo {theirs.version} here, {ours.version} at the leader"
    for name, value in ours.flags.items():
        if (other := theirs.flags.get(name)) != value:
            return f"--{name.replace('_', '-')} {other} here, {value} at the leader"
    if theirs.model != ours.model:
        return f"MODEL: another one here ({theirs.model[:12]}) than at the leader ({ours.model[:12]})"
    return None


def _refuse(message: str) -> Refused:
    return Refused("InvalidArgument", message)


def _node_proof(token: str, leader_nonce: bytes, node_nonce: bytes, terms: Terms, node_rank: int) -> bytes:
    return _digest(token, b"node", leader_nonce, node_nonce, msgspec.msgpack.encode((terms, node_rank)))


def _leader_proof(token: str, node_nonce: bytes, meeting: Meeting) -> bytes:
    return _digest(token, b"leader", node_nonce, msgspec.msgpack.encode(meeting))


def _digest(token: str, *parts: bytes) -> bytes:
    return hmac.digest(token.encode(), msgspec.msgpack.encode(parts), hashlib.sha256)
