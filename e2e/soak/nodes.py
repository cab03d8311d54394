"""A model over three nodes, of which one after the other is killed: who is told why, and does the group come back?

What a kubelet would do is done here: a node that has ended is started again, with the same command line.
"""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from os import kill
from typing import TYPE_CHECKING

from soak.goals import Goal
from soak.server import Server, poll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NODES = 3  # SmolLM2 has three KV heads
WAIT = 600.0  # seconds; all ranks import torch at the same time
GREEDY = {"prompt": "The lighthouse keeper wrote", "max_tokens": 12, "temperature": 0}
LOST = 2  # exit status of a node whose group has ended


@dataclass(frozen=True, slots=True)
class Kill:
    told: bool  # the stream ended with an error event
    named: bool  # the leader's /readyz said who was lost
    ended: bool  # all other nodes ended by themselves, with the status that says so
    same: bool  # the group that came back gives the same text


class Group:
    """A leader that lives, and other nodes that come and go."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._port = _free_ports()
        self.others = self._start_others()
        leader = self._start(0)
        self.leader = leader.__enter__()  # it is ended by `_start`
        self.text = self.answer()

    def answer(self) -> str:
        poll(self.leader.ready, "the leader is ready", WAIT)
        return str(self.leader.complete(**GREEDY).json()["choices"][0]["text"])

    def come_back(self) -> list[int]:
        """Wait until all other nodes have ended, start them anew; return their exit statuses."""
        statuses = [node.process.wait(60) for node in self.others]
        self.others = self._start_others()
        return statuses

    def _start_others(self) -> list[Server]:
        return [self._start(number) for number in range(1, NODES)]

    def _start(self, number: int) -> Server:
        flags = (
            "--tensor-parallel-size", str(NODES), "--nodes", str(NODES), "--node-rank", str(number),
            "--leader-address", "127.0.0.1", "--leader-port", str(self._port), "--threads", str(NODES),
            "--kv-cache-memory", "64Mi", "--max-engine-restarts", "1000000",
        )  # fmt: skip
        server = Server("torch", *flags)
        self._stack.callback(server.end)
        return server


def run(count: int) -> Iterator[Goal]:
    victims: tuple[Callable[[Group], tuple[int, str]], ...] = (_a_rank, _a_node, _the_engine)
    with ExitStack() as stack:
        group = Group(stack)
        kills = []
        for number in range(count):
            kills.append(_kill(group, *victims[number % len(victims)](group)))
            print(f"{number + 1:6} {kills[-1]}", flush=True)
    name = f"{count} kills in a group of {NODES} nodes"
    for what, met in (
        ("stream ends with an error event", [one.told for one in kills]),
        ("lost one is named on /readyz", [one.named for one in kills]),
        (f"other nodes end with status {LOST}", [one.ended for one in kills]),
        ("same text when all are back", [one.same for one in kills]),
    ):
        yield Goal(f"{name}: {what}", f"{count}", f"{sum(met)}", all(met))


def _a_rank(group: Group) -> tuple[int, str]:
    return group.others[0].children()[0], "node 1 (127.0.0.1): rank 1 of 3 ended with status -9"


def _a_node(group: Group) -> tuple[int, str]:
    return group.others[1].process.pid, "node 2 (127.0.0.1) was lost"


def _the_engine(group: Group) -> tuple[int, str]:
    return group.leader.children()[0], "the engine process ended with status -9"


def _kill(group: Group, victim: int, reason: str) -> Kill:
    last = ""
    body = GREEDY | {"max_tokens": 2000, "ignore_eos": True, "stream": True}
    with group.leader.client.stream("POST", "/v1/completions", json=body, timeout=WAIT) as response:
        for line in response.iter_lines():
            if line and not last:
                kill(victim, signal.SIGKILL)
            last = line or last
    told = last.startswith("data: {") and "error" in json.loads(last.removeprefix("data: "))
    named = poll(lambda: reason in group.leader.client.get("/readyz").text, "the reason", 60)
    statuses = group.come_back()
    ended = all(status in {LOST, -signal.SIGKILL} for status in statuses) and statuses.count(-signal.SIGKILL) <= 1
    return Kill(told, named, ended, group.answer() == group.text)


def _free_ports() -> int:
    """A port that is free, and so is the next one."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
            return port
