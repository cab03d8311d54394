"""Rank 0 prepares the place where the ranks find each other, for one node or, once all have come, for several.

Without torch, whose import takes seconds: the other nodes' ranks begin theirs at the same time as rank 0.
"""

from __future__ import annotations

import os
import secrets
import socket
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple

from octavo_runtime.model.identity import fingerprint
from octavo_runtime.parallel.gathering import Gathering, listen_for_nodes
from octavo_runtime.parallel.handshake import TOKEN_VARIABLE, Doorkeeper, terms_of
from octavo_runtime.parallel.interfaces import LOOPBACK, interface_of, is_literal, plain
from octavo_runtime.parallel.messages import Meeting
from octavo_runtime.parallel.remote import RemoteNode

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.spec import ModelInfo


class Called(NamedTuple):
    """All nodes are there, and their ranks on their way."""

    room: socket.socket  # listens where the ranks will meet
    meeting: Meeting
    interface: str | None  # the network interface of this node that the others reach
    nodes: list[RemoteNode]


def call_together(config: ServeConfig, info: ModelInfo, beat: Callable[[], object]) -> Called:
    """Wait for the other nodes, if there are to be any. `beat` is called every second. Raises `StartError`."""
    incarnation = secrets.token_hex(8)
    if config.nodes == 1:
        room = socket.create_server((LOOPBACK, 0))  # which cannot be reached from outside
        return Called(room, Meeting(LOOPBACK, room.getsockname()[1], incarnation), "lo", [])
    terms = terms_of(config, version("octavo-runtime"), fingerprint(info))
    room = listen_for_nodes(config, config.leader_port + 1)
    with listen_for_nodes(config, config.leader_port) as door:
        gathering = Gathering(door, Doorkeeper(terms, config.nodes, os.environ.get(TOKEN_VARIABLE, "")))
        there = gathering.wait(config.group_timeout, beat)
    address = config.leader_address or ""
    meeting = Meeting(address if is_literal(address) else LOOPBACK, config.leader_port + 1, incarnation)
    gathering.welcome(meeting)
    nodes = [RemoteNode(number, candidate.connection) for number, candidate in sorted(there.items())]
    reached_at = plain(there[1].connection.getsockname()[0])
    return Called(room, meeting, interface_of(reached_at), nodes)
