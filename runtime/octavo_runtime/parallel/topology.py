"""Which rank is on which node, as numbers.

--tensor-parallel-size 4 --nodes 2
node 0, the leader    rank 0, which is the engine, and rank 1
node 1                ranks 2 and 3
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig

_HOST: Final = re.compile(r"[A-Za-z0-9:][A-Za-z0-9._:-]*")  # a DNS name, an IPv4 or an IPv6 address


@dataclass(frozen=True, slots=True)
class Topology:
    """`size` ranks on `nodes` nodes, equally many on each, one node's side by side."""

    size: int
    nodes: int = 1

    @property
    def ranks_per_node(self) -> int:
        return self.size // self.nodes

    def ranks_of(self, node: int) -> range:
        first = node * self.ranks_per_node
        return range(first, first + self.ranks_per_node)

    def local_index(self, rank: int) -> int:
        """Its place among the ranks of its node, which is also its GPU there."""
        return rank % self.ranks_per_node


def topology_of(config: ServeConfig) -> Topology:
    return Topology(config.tensor_parallel_size, config.nodes)


def contradiction(config: ServeConfig) -> str | None:
    """What is wrong with the flags about nodes, by flag and value; None when nothing is.

    With one node an address says nothing and is let pass: a pod template may always have it.
    """
    if config.node_rank >= config.nodes:
        allowed = f"0 to {config.nodes - 1}" if config.nodes > 1 else "0"
        return f"--node-rank {config.node_rank}: with --nodes {config.nodes} it must be {allowed}"
    if config.nodes == 1:
        return None
    if config.tensor_parallel_size % config.nodes:
        return f"--tensor-parallel-size {config.tensor_parallel_size} is not a multiple of --nodes {config.nodes}"
    return _bad_address(config)


def _bad_address(config: ServeConfig) -> str | None:
    if not config.leader_address:
        return f"--nodes {config.nodes} needs --leader-address, the host name or IP address of node 0"
    if not _HOST.fullmatch(config.leader_address):
        return f"--leader-address {config.leader_address!r} is neither a host name nor an IP address"
    if config.port in {config.leader_port, config.leader_port + 1}:
        taken = f"{config.leader_port} and {config.leader_port + 1}"
        return f"--port {config.port}: --leader-port {config.leader_port} takes the ports {taken}"
    return None
