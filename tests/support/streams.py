"""Byte streams to a server's doors, by libraries that the server does not use: asyncio's streams, aiohttp's client."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import aiohttp

from chatcore.address import parse_address
from chatcore.websocket import MESSAGE_BYTES
from support.certificates import HOST, client_context

DEADLINE_S = 10.0
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
OpenPort = Callable[[int, ssl.SSLContext | None], Awaitable[Streams]]


class Reader(Protocol):
    async def read(self, n: int, /) -> bytes:
        """b"": the end."""


class Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...
    def close(self) -> None: ...
    async def wait_closed(self) -> None: ...


class WebSocketStream:
    """Reader and Writer in one. `write` makes binary messages that are as long as any server takes."""

    def __init__(self, session: aiohttp.ClientSession, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self.websocket = websocket
        self._outbound: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while (data := await self._outbound.get()) is not None:
            try:
                await self.websocket.send_bytes(data)
            except ConnectionError:  # as a socket: the reader notices
                return

    async def read(self, _n: int, /) -> bytes:
        message = await self.websocket.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            data: bytes = message.data
            return data
        assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSING), message
        return b""

    def write(self, data: bytes, /) -> None:
        for start in range(0, len(data), MESSAGE_BYTES):
            self._outbound.put_nowait(data[start : start + MESSAGE_BYTES])

    def close(self) -> None:
        self._outbound.put_nowait(None)

    async def wait_closed(self) -> None:
        await self._sending
        await self.websocket.close()
        await self._session.close()


async def open_websocket(uri: str, origin: str | None = None) -> WebSocketStream:
    """Raises aiohttp.ClientError."""
    session = aiohttp.ClientSession()
    try:
        websocket = await session.ws_connect(uri, ssl=client_context(), max_msg_size=0, origin=origin)
    except BaseException:
        await session.close()
        raise
    return WebSocketStream(session, websocket)


async def open_stream(uri: str) -> tuple[Reader, Writer]:
    """To a door: tcp://, tls://, ws:// or wss://."""
    address = parse_address(uri)
    if address.is_websocket:
        stream = await open_websocket(uri)
        return stream, stream
    return await asyncio.open_connection(
        address.host, address.port, ssl=client_context() if address.is_encrypted else None
    )


@contextlib.asynccontextmanager
async def aborted_at_the_end() -> AsyncIterator[OpenPort]:
    """Opens connections to ports of this machine that have not ended when the test has."""
    writers: list[asyncio.StreamWriter] = []

    async def open_port(port: int, context: ssl.SSLContext | None) -> Streams:
        reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
        writers.append(writer)
        return reader, writer

    yield open_port
    for writer in writers:
        writer.transport.abort()  # closing may wait for what nobody reads
        with contextlib.suppress(OSError):
            await asyncio.wait_for(writer.wait_closed(), DEADLINE_S)
