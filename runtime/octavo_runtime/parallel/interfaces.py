"""Addresses of this machine."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
_SIOCGIFADDR: Final = 0x8915  # netdevice(7): the address of the interface that is named
_REQUEST: Final = struct.Struct("16s24s")  # struct ifreq: a name, and room for a sockaddr


def plain(address: str) -> str:
    """Without the IPv6 form in which a socket of both families names an IPv4 address, and without a scope."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return str(mapped or parsed)


def is_literal(address: str) -> bool:
    """Whether it is an IP address and no name."""
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def interface_of(address: str) -> str | None:
    """The name of the network interface that has `address`; None where the kernel does not say."""
    parsed = ipaddress.ip_address(plain(address))
    if parsed.is_loopback:
        return "lo"
    if isinstance(parsed, ipaddress.IPv6Address):
        return _of_ipv6(parsed)
    return next((name for _, name in socket.if_nameindex() if _has(name, parsed)), None)


def _has(name: str, address: ipaddress.IPv4Address) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, _REQUEST.pack(name.encode(), b""))
        except OSError:  # it has no IPv4 address
            return False
    return answer[20:24] == address.packed


def _of_ipv6(address: ipaddress.IPv6Address) -> str | None:
    table = Path("/proc/net/if_inet6")
    if not table.exists():
        return None
    rows = (line.split() for line in table.read_text().splitlines())  # address, index, prefix, scope, flags, name
    return next((row[5] for row in rows if row[0] == address.packed.hex()), None)
