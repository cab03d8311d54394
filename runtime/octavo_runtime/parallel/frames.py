"""Messages on a TCP connection: each is preceded by its length, four bytes, most significant first."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

HANDSHAKE_LIMIT: Final = 64 << 10  # bytes of a message of somebody who may be anybody
ANSWER_LIMIT: Final = 1 << 20  # of a node's answer
STEP_LIMIT: Final = 256 << 20  # of a step; one of 100,000 tokens is 2 MB

_HEADER: Final = struct.Struct(">I")
_SILENCE: Final = 20  # seconds after which the kernel gives up a peer that is gone without a word


class FrameTooLargeError(OSError):
    """What has come is no message of ours."""


def watch_peer(connection: socket.socket) -> None:
    """Have the kernel ask every five seconds whether the other machine is there, and send what is small at once."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE // 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _SILENCE // 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENCE * 1000)


def frame(message: bytes) -> bytes:
    return _HEADER.pack(len(message)) + message


def receive(connection: socket.socket, limit: int, deadline: float | None = None) -> bytes:
    """The next message. Raises `EOFError` at the end, `TimeoutError` at `deadline` (time.monotonic()), `OSError`."""
    return bytes(_receive(connection, _size(_receive(connection, _HEADER.size, deadline), limit), deadline))


async def read(reader: asyncio.StreamReader, limit: int) -> bytes:
    """The same for asyncio. Raises `EOFError` (its `IncompleteReadError`) or `OSError`."""
    return await reader.readexactly(_size(await reader.readexactly(_HEADER.size), limit))


def _size(header: bytes | bytearray, limit: int) -> int:
    (size,) = _HEADER.unpack(header)
    if size > limit:
        raise FrameTooLargeError(f"a message of {size} bytes; {limit} are the most")
    return int(size)


def _receive(connection: socket.socket, size: int, deadline: float | None) -> bytearray:
    data = bytearray(size)
    rest = memoryview(data)
    while rest:
        if deadline is not None:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
        count = connection.recv_into(rest)
        if not count:
            raise EOFError("the connection was closed")
        rest = rest[count:]
    return data
