"""Node 0's open door until all other nodes are there.

Nobody is welcomed before all have come, and then the door is shut: a node that comes anew, or too late, finds no group
that others have begun without it, but the next engine's.
"""

from __future__ import annotations

import logging
import secrets
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from octavo_runtime.errors import EngineFailed, InvalidArgument
from octavo_runtime.parallel import frames
from octavo_runtime.parallel.handshake import NONCE_SIZE, PROTOCOL, Challenge, Hello
from octavo_runtime.parallel.interfaces import is_literal, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.parallel.handshake import Doorkeeper
    from octavo_runtime.parallel.messages import Meeting

logger = logging.getLogger(__name__)

_TICK: Final = 1.0  # seconds between two signs of life while nobody comes
_LOG_EVERY: Final = 10.0
_HANDSHAKE_WAIT: Final = 10.0  # seconds for a peer to say what it wants
_MOST_STRANGERS: Final = 64  # that may be asked at once; one more is sent away


def listen_for_nodes(config: ServeConfig, port: int) -> socket.socket:
    """A listening socket at --leader-address where that is an IP address, else at all addresses of this machine.

    A name is not looked up: it may still be the address of the pod that was the leader before. Raises `InvalidArgument`
    when the port is taken or the address is not ours.
    """
    address = config.leader_address or ""
    try:
        if is_literal(address):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return socket.create_server((address, port), family=family)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(("", port))
    except OSError as error:
        at = f"--leader-address {address} --leader-port {config.leader_port}"
        raise InvalidArgument(f"{at}: port {port}: {error.strerror or error}") from error


class Candidate(NamedTuple):
    """A node that may be let in."""

    connection: socket.socket
    hello: Hello


class Gathering:
    """Use from one thread; each peer is asked in a thread of its own, so that one who is silent delays nobody."""

    def __init__(self, listener: socket.socket, doorkeeper: Doorkeeper) -> None:
        self._listener = listener
        self._doorkeeper = doorkeeper
        self._lock = threading.Lock()
        self._there: dict[int, Candidate] = {}
        self._strangers: set[socket.socket] = set()
        self._bell, self._rope = socket.socketpair()
        self._refusal = ""  # the last one

    def wait(self, patience: float, beat: Callable[[], object]) -> dict[int, Candidate]:
        """All other nodes by their number. `beat` is called at least every second. Raises `EngineFailed`."""
        deadline = time.monotonic() + patience
        try:
            self._wait(deadline, patience, beat)
        except BaseException:
            self._send_away()
            raise
        finally:
            self._bell.close()
            self._rope.close()
        return self._there

    def _wait(self, deadline: float, patience: float, beat: Callable[[], object]) -> None:
        logged = time.monotonic()
        while missing := self._missing():
            beat()
            who, now = f"{_list(missing)} of {self._doorkeeper.nodes}", time.monotonic()
            if now > deadline:
                raise EngineFailed(f"{who} did not join within {patience:g} s{self._refusal}")
            if now - logged > _LOG_EVERY:
                logged = now
                logger.info("waiting for %s", who)
            self._take_what_comes()

    def welcome(self, meeting: Meeting) -> None:
        """Let all in. Raises `EngineFailed` when one has gone meanwhile: the others' ranks wait for it by then."""
        for number, candidate in self._there.items():
            try:
                _say(candidate.connection, self._doorkeeper.welcome(candidate.hello, meeting))
            except OSError as error:
                self._send_away()
                raise EngineFailed(
                    f"{name_of(number, candidate.connection)} was lost when all were there: {error}"
                ) from error

    def _missing(self) -> list[int]:
        with self._lock:
            return [number for number in range(1, self._doorkeeper.nodes) if number not in self._there]

    def _take_what_comes(self) -> None:
        with self._lock:
            waiting = {candidate.connection: number for number, candidate in self._there.items()}
        ready, _, _ = select.select([self._listener, self._bell, *waiting], [], [], _TICK)
        for source in ready:
            if source is self._listener:
                self._admit()
            elif source is self._bell:
                self._bell.recv(64)
            else:  # it has nothing to say before it is welcomed: this is its end
                self._forget(waiting[source])

    def _admit(self) -> None:
        connection, _ = self._listener.accept()
        with self._lock:
            if len(self._strangers) >= _MOST_STRANGERS:
                connection.close()
                return
            self._strangers.add(connection)
        threading.Thread(target=self._ask, args=[connection], name="handshake", daemon=True).start()

    def _ask(self, connection: socket.socket) -> None:
        try:
            frames.watch_peer(connection)
            self._greet(connection)
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            logger.warning("%s is no node of ours: %s", _peer(connection), error)
            connection.close()
        finally:
            with self._lock:
                self._strangers.discard(connection)

    def _greet(self, connection: socket.socket) -> None:
        challenge = Challenge(PROTOCOL, secrets.token_bytes(NONCE_SIZE))
        connection.settimeout(_HANDSHAKE_WAIT)
        _say(connection, challenge)
        words = frames.receive(connection, frames.HANDSHAKE_LIMIT, time.monotonic() + _HANDSHAKE_WAIT)
        hello = msgspec.msgpack.decode(words, type=Hello)
        with self._lock:
            no = self._doorkeeper.judge(hello, challenge, self._there)
            if no is None:
                connection.settimeout(None)
                self._there[hello.node_rank] = Candidate(connection, hello)
                logger.info("%s is there", name_of(hello.node_rank, connection))
                self._rope.send(b"!")
                return
            self._refusal = f"; refused last: {_peer(connection)}: {no.message}"
        logger.warning("refused %s: %s", _peer(connection), no.message)
        _say(connection, no)
        connection.close()

    def _forget(self, number: int) -> None:
        with self._lock:
            candidate = self._there.pop(number)
        logger.warning("%s has gone again", name_of(number, candidate.connection))
        candidate.connection.close()

    def _send_away(self) -> None:
        with self._lock:
            for candidate in self._there.values():
                candidate.connection.close()


def name_of(number: int, connection: socket.socket) -> str:
    return f"node {number} ({_peer(connection)})"


def _peer(connection: socket.socket) -> str:
    try:
        return plain(connection.getpeername()[0])
    except OSError:
        return "a peer that has gone"


def _say(connection: socket.socket, message: msgspec.Struct) -> None:
    connection.sendall(frames.frame(msgspec.msgpack.encode(message)))


def _list(numbers: list[int]) -> str:
    return f"node{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
