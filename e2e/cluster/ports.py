"""Free ports on loopback, kept free.

The kernel gives out the ports of connections and of `bind(0)` from one range, thousands of them while tests run side by
side. So a port that is only known to be free now may be taken before the server that is told of it has started, or
while it is stopped for a test. Here each port stays bound, without listening, until this process ends: the kernel then
gives it to nobody, connections to it are refused, and a server that sets SO_REUSEADDR, as all of ours do, can listen.
"""

import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """Ports that are this process's, for servers that it starts."""
    return [_hold(0) for _ in range(count)]


def neighbouring_ports() -> int:
    """The first of two ports that follow each other; both are this process's."""
    while True:
        first = _hold(0)
        with contextlib.suppress(OSError, OverflowError):
            _hold(first + 1)
            return first


def _hold(port: int) -> int:
    """Binds for good; raises OSError where anybody else has the port, listening or not."""
    holder = socket.socket()
    try:
        holder.bind(("127.0.0.1", port))
    except BaseException:
        holder.close()
        raise
    held: int = holder.getsockname()[1]
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # not before: one that others share is not ours
    holder.detach()
    return held
