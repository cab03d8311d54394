"""A node's way into its group: find the leader, show that it belongs there, wait until all have come."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import msgspec

from octavo_runtime.errors import EngineFailed, InvalidArgument, start_error
from octavo_runtime.parallel import frames
from octavo_runtime.parallel.handshake import (
    NONCE_SIZE,
    PROTOCOL,
    TOKEN_VARIABLE,
    Challenge,
    FromLeader,
    NotNow,
    Welcome,
    is_genuine,
    make_hello,
    terms_of,
)
from octavo_runtime.parallel.interfaces import interface_of, plain
from octavo_runtime.parallel.messages import Meeting, Refused

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.parallel.handshake import Terms

logger = logging.getLogger(__name__)

_CONNECT_WAIT: Final = 5.0  # seconds for a connection: the name may lead to a pod that is gone
_RETRY_EVERY: Final = 1.0
_LOG_EVERY: Final = 10.0


class NotYetError(Exception):
    """The leader is not there, or does not take us in now. It may later."""


@dataclass(frozen=True, slots=True)
class Link:
    """A connection to the leader of a group that is complete."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    meeting: Meeting
    interface: str | None  # by which this node reaches the leader

    def send(self, message: msgspec.Struct) -> None:
        self.writer.write(frames.frame(msgspec.msgpack.encode(message)))


async def join_group(config: ServeConfig, model: str) -> Link:
    """Try until --group-timeout is over. `model` is a fingerprint. Raises `StartError`."""
    terms = terms_of(config, version("octavo-runtime"), model)
    began = time.monotonic()
    logged = began - _LOG_EVERY
    while True:
        try:
            return await _try(config, terms, began + config.group_timeout)
        except NotYetError as error:
            reason = str(error)
        now = time.monotonic()
        if now + _RETRY_EVERY > began + config.group_timeout:
            raise EngineFailed(
                f"{_leader(config)} did not take this node in within {config.group_timeout:g} s: {reason}"
            )
        if now - logged >= _LOG_EVERY:
            logged = now
            logger.info("%s: %s; trying again", _leader(config), reason)
        await asyncio.sleep(_RETRY_EVERY)


async def _try(config: ServeConfig, terms: Terms, deadline: float) -> Link:
    """Raises `NotYetError` for what may pass, `StartError` for what does not."""
    reader, writer = await _connect(config)
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            welcome = await _greet(config, terms, reader, writer)
    except (OSError, EOFError, TimeoutError, msgspec.MsgspecError) as error:
        writer.close()
        raise NotYetError(_describe(error)) from error
    except BaseException:
        writer.close()
        raise
    peer, own = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
    meeting = msgspec.structs.replace(welcome.meeting, address=plain(peer[0]))
    return Link(reader, writer, meeting, interface_of(own[0]))


async def _connect(config: ServeConfig) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        async with asyncio.timeout(_CONNECT_WAIT):
            reader, writer = await asyncio.open_connection(config.leader_address, config.leader_port)
    except (OSError, TimeoutError, UnicodeError) as error:  # UnicodeError: of a name that is none
        raise NotYetError(_describe(error)) from error
    frames.watch_peer(writer.get_extra_info("socket"))
    return reader, writer


async def _greet(
    config: ServeConfig, terms: Terms, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Welcome:
    challenge = await _hear(reader)
    if not isinstance(challenge, Challenge):
        raise NotYetError("it does not speak as a leader does")
    if challenge.protocol != PROTOCOL:
        raise InvalidArgument(f"{_leader(config)} speaks protocol {challenge.protocol}, this node {PROTOCOL}")
    token = os.environ.get(TOKEN_VARIABLE, "")
    hello = make_hello(terms, config.node_rank, challenge, secrets.token_bytes(NONCE_SIZE), token)
    writer.write(frames.frame(msgspec.msgpack.encode(hello)))
    logger.info("at %s; waiting until all %d nodes are there", _leader(config), config.nodes)
    match answer := await _hear(reader):
        case Welcome() if is_genuine(answer, hello, token):
            return answer
        case Refused(reason, message):
            raise start_error(reason, f"{_leader(config)} refuses this node: {message}")
        case NotNow(message):
            raise NotYetError(message)
    raise InvalidArgument(f"{_leader(config)} has not proved that it knows {TOKEN_VARIABLE}")


async def _hear(reader: asyncio.StreamReader) -> FromLeader:
    message: FromLeader = msgspec.msgpack.decode(await frames.read(reader, frames.HANDSHAKE_LIMIT), type=FromLeader)
    return message


def _leader(config: ServeConfig) -> str:
    return f"the leader at {config.leader_address} port {config.leader_port}"


def _describe(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case EOFError():
            return "it closed the connection"
    return str(error)
