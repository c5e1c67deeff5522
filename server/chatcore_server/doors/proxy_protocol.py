"""The header of the PROXY protocol, version 2: whose connection a load balancer passes on.

https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, section 2.2. Version 1 (text) is not spoken. Reads exactly
the header's bytes, so that what follows is still in the socket.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct("!12sBBH")  # signature, version and command, family, bytes that follow
# Bytes that may follow: addresses take 36, the rest are vectors of type, length and value (host name, certificate).
_MAX_REST = 4096
_LOCAL, _PROXY = 0x20, 0x21
_FAMILY_BYTES = {0x11: 4, 0x12: 4, 0x21: 16, 0x22: 16}  # each of the two addresses; then two ports
_LARGEST_OTHER = 0x32  # unspecified and Unix sockets: nobody's address

Address = IPv4Address | IPv6Address


class ProxyHeaderError(Exception):
    """What came is no header of this protocol. The text says why."""


class TrustedProxies:
    """Who may say whose connection it is."""

    def __init__(self, networks: Sequence[str]) -> None:
        """Raises ValueError unless each is an address or a network in CIDR notation."""
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]

    def __contains__(self, address: str) -> bool:
        """An IPv4 address that came in over an IPv6 socket is an IPv4 address."""
        return any(_plain(ip_address(address)) in network for network in self._networks)


def _plain(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


async def read_header(sock: socket.socket) -> str:
    """The client's address; "" = the proxy speaks for itself (a health check) or does not say.

    Raises ProxyHeaderError, EOFError or OSError.
    """
    signature, command, family, size = _FIXED.unpack(await _read_exactly(sock, _FIXED.size))
    if signature != SIGNATURE:
        raise ProxyHeaderError("no signature")
    if command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError(f"version and command {command:#x}")
    if size > _MAX_REST:
        raise ProxyHeaderError(f"{size} bytes of addresses")
    rest = await _read_exactly(sock, size)
    return parse_source(family, rest) if command == _PROXY else ""


def parse_source(family: int, rest: bytes) -> str:
    """The source address in what follows the fixed part. Raises ProxyHeaderError."""
    size = _FAMILY_BYTES.get(family)
    if size is None:
        if family > _LARGEST_OTHER:
            raise ProxyHeaderError(f"family {family:#x}")
        return ""
    if len(rest) < 2 * size + 4:
        raise ProxyHeaderError("the addresses are cut off")
    return str(_plain(ip_address(rest[:size])))


async def _read_exactly(sock: socket.socket, size: int) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        piece = await loop.sock_recv(sock, size - len(data))
        if not piece:
            raise EOFError("the connection ended within the header")
        data += piece
    return data
