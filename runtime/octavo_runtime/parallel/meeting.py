"""Rank 0 prepares the place where the ranks find each other, for one node or, once all have come, for several.

Without torch, whose import takes seconds: all ranks begin theirs at the same time as rank 0.
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
from octavo_runtime.parallel.interfaces import LOOPBACK, interface_of, is_literal
from octavo_runtime.parallel.messages import Meeting
from octavo_runtime.parallel.rank_process import RankProcess
from octavo_runtime.parallel.remote import RemoteNode
from octavo_runtime.parallel.topology import topology_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.spec import ModelInfo


class Called(NamedTuple):
    """All nodes are there, and all ranks on their way."""

    room: socket.socket  # listens where the ranks will meet
    meeting: Meeting
    interface: str | None  # the network interface of this node that the others reach
    members: list[RankProcess | RemoteNode]  # the other ranks of this node, and the other nodes


def call_together(config: ServeConfig, info: ModelInfo, beat: Callable[[], object]) -> Called:
    """Start this node's other ranks, after waiting for the other nodes if there are to be any.

    To be called in the main thread. `beat` is called every second while nodes are missing. Raises `StartError`.
    """
    incarnation = secrets.token_hex(8)
    nodes: dict[int, RemoteNode] = {}
    interface: str | None = "lo"
    if config.nodes == 1:
        room = socket.create_server((LOOPBACK, 0))  # which cannot be reached from outside
        meeting = Meeting(LOOPBACK, room.getsockname()[1], incarnation)
    else:
        room = listen_for_nodes(config, config.leader_port + 1)
        meeting = Meeting(_own_address(config), config.leader_port + 1, incarnation)
        connections = _gather(config, info, meeting, beat)
        nodes = {number: RemoteNode(number, connection) for number, connection in connections.items()}
        interface = interface_of(connections[1].getsockname()[0])
    local = [RankProcess(config, rank, meeting, interface) for rank in topology_of(config).ranks_of(0) if rank]
    return Called(room, meeting, interface, [*local, *nodes.values()])


def _gather(
    config: ServeConfig, info: ModelInfo, meeting: Meeting, beat: Callable[[], object]
) -> dict[int, socket.socket]:
    """Connections to the other nodes, once all have been let in."""
    terms = terms_of(config, version("octavo-runtime"), fingerprint(info))
    doorkeeper = Doorkeeper(terms, config.nodes, os.environ.get(TOKEN_VARIABLE, ""))
    with listen_for_nodes(config, config.leader_port) as door:
        gathering = Gathering(door, doorkeeper)
        there = gathering.wait(config.group_timeout, beat)
    gathering.welcome(meeting)
    return {number: there[number].connection for number in sorted(there)}


def _own_address(config: ServeConfig) -> str:
    """Where this node's ranks reach rank 0; other nodes know where they have reached it."""
    address = config.leader_address or ""
    return address if is_literal(address) else LOOPBACK
