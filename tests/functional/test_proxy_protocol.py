"""Load balancers in front of each door: the header is understood, and nobody gets past it."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio

from support.certificates import HOST, client_context
from support.players import until
from support.raw import RawClient
from support.servers import EVERY_DOOR, LocalServer
from support.streams import Streams, aborted_at_the_end

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("door", EVERY_DOOR)]

StartServer = Callable[..., LocalServer]
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
DEADLINE_S = 10.0


def header(source: str = "203.0.113.9", command: int = 0x21, family: int = 0x11, more: bytes = b"") -> bytes:
    version = socket.AF_INET6 if family >> 4 == 2 else socket.AF_INET
    target = "::1" if version is socket.AF_INET6 else HOST
    rest = socket.inet_pton(version, source) + socket.inet_pton(version, target) + struct.pack("!HH", 40_000, 1) + more
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest)) + rest


@pytest.fixture
def server(start_server: StartServer) -> LocalServer:
    return start_server(proxy_protocol={"trusted": ["127.0.0.0/8"]})


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Callable[[LocalServer], Awaitable[Streams]]]:
    async with aborted_at_the_end() as open_port:

        def connect(server: LocalServer) -> Awaitable[Streams]:
            return open_port(server.server.ports["tcp" if server.door == "transport" else server.door], None)

        yield connect


async def is_spoken(door: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Behind the header the door's own protocol begins."""
    async with asyncio.timeout(DEADLINE_S):
        if door == "websocket":
            writer.write(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 404 " in await reader.readline()
            return
        if door == "tls":
            await writer.start_tls(client_context(), server_hostname=HOST)
        client = RawClient(reader, writer)
        client.hello(token="none")
        assert await client.closed_by() == "bad_token"


@pytest.mark.parametrize(
    "first",
    [
        header(),
        header("2001:db8::7", family=0x21),
        header(more=b"\x02\x00\x04chat"),  # a vector: the name that the client asked for
        header(command=0x20),
        SIGNATURE + b"\x20\x00\x00\x00",
        SIGNATURE + b"\x21\x00\x00\x00",
    ],
    ids=["ipv4", "ipv6", "more", "local", "empty local", "unknown"],
)
async def test_the_protocol_follows_the_header(first: bytes, server: LocalServer, connect: Any) -> None:
    reader, writer = await connect(server)
    writer.write(first)
    await is_spoken(server.door, reader, writer)
    assert server.counted("proxy_headers_refused") == 0


async def test_limits_hold_for_the_address_that_is_said(start_server: StartServer, connect: Any) -> None:
    server = start_server(proxy_protocol={"trusted": ["127.0.0.1"]}, limits={"connections_per_address": 2})
    for source in ["203.0.113.9", "203.0.113.9", "198.51.100.1", "203.0.113.9"]:
        n_seen = n_tried(server)
        _, writer = await connect(server)
        writer.write(header(source))
        await until(lambda: n_tried(server) > n_seen)  # noqa: B023  it is waited for here
    assert server.counted("connections_refused_by_address") == 1
    assert server.counted("connections_accepted") == 3


def n_tried(server: LocalServer) -> int:
    return server.counted("connections_accepted") + server.counted("connections_refused_by_address")


async def test_a_header_in_pieces(server: LocalServer, connect: Any) -> None:
    reader, writer = await connect(server)
    for byte in header():
        writer.write(bytes([byte]))
        await asyncio.sleep(0)
    await is_spoken(server.door, reader, writer)


@pytest.mark.parametrize(
    "first",
    [
        b"PROXY TCP4 203.0.113.9 127.0.0.1 40000 1\r\n",
        b"\0\0\x1c\x01chat" + bytes(24),
        header()[:-1] + b"",
        header(command=0x31),
        header(command=0x22),
        header(family=0x41),
        SIGNATURE + b"\x21\x11\x00\x04" + bytes(4),
        SIGNATURE + b"\x21\x11\xff\xff" + bytes(2000),
    ],
    ids=["version 1", "no header", "cut off", "version 3", "command", "family", "short", "long"],
)
async def test_without_a_header_nobody_gets_in(first: bytes, server: LocalServer, connect: Any) -> None:
    reader, writer = await connect(server)
    writer.write(first)
    if first == header()[:-1]:
        writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    await until(lambda: server.counted("proxy_headers_refused") == 1)
    assert server.counted("connections_accepted") == 0


async def test_only_trusted_addresses_may_say_it(start_server: StartServer, connect: Any) -> None:
    server = start_server(proxy_protocol={"trusted": ["192.0.2.0/24", "::1"]})
    reader, writer = await connect(server)
    writer.write(header())
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert server.counted("proxy_headers_refused") == 1


async def test_a_header_that_does_not_come(start_server: StartServer, connect: Any) -> None:
    server = start_server(proxy_protocol={"trusted": ["127.0.0.1"]}, limits={"hello_timeout": "200ms"})
    reader, writer = await connect(server)
    writer.write(header()[:20])
    async with asyncio.timeout(DEADLINE_S):
        assert await reader.read() == b""
    assert server.counted("proxy_headers_refused") == 1
