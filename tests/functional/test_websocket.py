"""The WebSocket door with aiohttp's client, and with bytes that no client sends."""

import asyncio
import base64
import contextlib
import os
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from chatcore import Client, ConnectionLost
from chatcore.websocket import MESSAGE_BYTES
from chatcore_ext.constants import FrameType
from chatcore_ext.frame import encode_frame, encode_hello
from chatcore_server.doors.websocket import FREE_FRAMES
from support.certificates import client_context, write_server_certificate
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer
from support.streams import WebSocketStream, open_websocket

pytestmark = pytest.mark.asyncio

StartServer = Callable[..., LocalServer]
OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]
OpenSocket = Callable[..., Awaitable[WebSocketStream]]
DEADLINE_S = 10.0


@pytest.fixture
def door() -> str:
    return "websocket"


@pytest_asyncio.fixture
async def open_socket() -> AsyncIterator[OpenSocket]:
    streams: list[WebSocketStream] = []

    async def open_one(server: LocalServer, origin: str | None = None) -> WebSocketStream:
        streams.append(await open_websocket(server.uri, origin))
        return streams[-1]

    yield open_one
    for stream in streams:
        stream.close()
        await stream.wait_closed()


async def closed_with(stream: WebSocketStream) -> tuple[int | None, str]:
    """The WebSocket's close code and reason; every message before it is thrown away."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            message = await stream.websocket.receive()
            if message.type is not aiohttp.WSMsgType.BINARY:
                return stream.websocket.close_code, str(message.extra or "")


# ---- The byte stream -------------------------------------------------------------------------------------------------


async def test_messages_may_end_anywhere(server: LocalServer, open_socket: OpenSocket) -> None:
    stream = await open_socket(server)
    ann = RawClient(stream, stream)
    welcome = await ann.login(token=server.token("ann"), channels={"room:x": 0})
    pings = [b"%08d" % number for number in range(40)]
    data = b"".join(encode_frame(FrameType.FRAME_PING, payload) for payload in pings)
    for start in range(0, len(data), 7):
        await stream.websocket.send_bytes(data[start : start + 7])
    assert [(await ann.next(FrameType.FRAME_PONG))[1] for _ in pings] == pings
    ann.send(1, welcome["channels"]["room:x"][0], b"after it")
    assert (await ann.ack())[0] == 1


def masked(head: int, payload: bytes) -> bytes:
    """One frame with its first byte, as a client sends it."""
    mask = os.urandom(4)
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack("!H", len(payload))
    return bytes([head]) + size + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


async def test_many_resends_at_once_fit_the_messages(server: LocalServer) -> None:
    """The client cuts what it has to send, whatever its session gives it at once."""
    ann = await server.login("ann")
    await ann.client.join("room:x")
    await asyncio.gather(*(ann.client.send("room:x", b"%04d" % number + bytes(3000)) for number in range(100)))
    await until(lambda: len(ann.messages("room:x")) == 100)
    assert [message.body[:4] for message in ann.messages("room:x")] == [b"%04d" % number for number in range(100)]


# ---- What is closed --------------------------------------------------------------------------------------------------


async def test_a_text_message(server: LocalServer, open_socket: OpenSocket) -> None:
    stream = await open_socket(server)
    await stream.websocket.send_str("hello")
    assert await closed_with(stream) == (1003, "malformed_frame: the protocol is binary")
    await until(lambda: server.counted("closed_malformed_frame") == 1)


@pytest.mark.parametrize("is_logged_in", [False, True])
async def test_a_message_that_is_too_long(is_logged_in: bool, server: LocalServer, open_socket: OpenSocket) -> None:
    stream = await open_socket(server)
    if is_logged_in:
        await RawClient(stream, stream).login(token=server.token("ann"))
    await stream.websocket.send_bytes(bytes(4101))
    assert (await closed_with(stream))[0] == 1009
    await until(lambda: server.counted("closed_frame_too_large") == 1)
    await until(lambda: server.counted("connections") == 0)


async def test_every_server_takes_messages_of_the_size_that_clients_send(
    start_server: StartServer, open_socket: OpenSocket
) -> None:
    server = start_server(limits={"frame_size": "400B", "body_size": "300B"})
    stream = await open_socket(server)
    ann = RawClient(stream, stream)
    await ann.login(token=server.token("ann"))
    ping = encode_frame(FrameType.FRAME_PING, b"abcdefgh")
    n_pings = MESSAGE_BYTES // len(ping)
    await stream.websocket.send_bytes(ping * n_pings)
    for _ in range(n_pings):
        await ann.next(FrameType.FRAME_PONG)


async def test_errors_of_the_protocol_come_in_its_own_words(server: LocalServer, open_socket: OpenSocket) -> None:
    stream = await open_socket(server)
    ann = RawClient(stream, stream)
    ann.write_frame(FrameType.FRAME_PING, bytes(8))
    assert await ann.closed_by() == "unexpected_frame"
    assert stream.websocket.close_code == 1000


@pytest.mark.parametrize("payload", [b"", b"c"], ids=["empty", "one byte"])
async def test_a_flood_of_messages_before_the_login(payload: bytes, server: LocalServer, knock: Any) -> None:
    peer = await knock(server)
    peer.writer.write(request())
    assert await peer.answer() == 101
    head = encode_hello(1, bytes(4000))[:4]  # of a frame that never becomes whole
    peer.writer.write(masked(0x82, head) + masked(0x82, payload) * 10_000)
    async with asyncio.timeout(DEADLINE_S):
        await peer.reader.readuntil(b"rate_limited")
    assert server.counted("closed_rate_limited") == 1
    assert server.counted("bytes_received") <= len(head) + FREE_FRAMES


async def test_a_hello_in_fragments(server: LocalServer, knock: Any) -> None:
    peer = await knock(server)
    peer.writer.write(request())
    assert await peer.answer() == 101
    hello = encode_hello(1, msgspec.msgpack.encode({"token": server.token("ann")}))
    size = len(hello) // (FREE_FRAMES - 1)
    pieces = [hello[start : start + size] for start in range(0, len(hello), size)]
    pieces[FREE_FRAMES - 1 :] = [b"".join(pieces[FREE_FRAMES - 1 :])]
    peer.writer.write(b"".join(masked(0x02 if i == 0 else 0x00, piece) for i, piece in enumerate(pieces[:-1])))
    peer.writer.write(masked(0x80, pieces[-1]))
    async with asyncio.timeout(DEADLINE_S):
        await peer.reader.readuntil(b"chatcore")  # in WELCOME


@pytest.mark.parametrize("kind", ["ping", "empty", "one byte"])
async def test_a_flood_of_messages(kind: str, start_server: StartServer, open_socket: OpenSocket) -> None:
    server = start_server(limits={"frames_per_second": 1, "frame_burst": 20})
    stream = await open_socket(server)
    ann = RawClient(stream, stream)
    await ann.login(token=server.token("ann"))
    with contextlib.suppress(ConnectionError):
        for i in range(FREE_FRAMES + 20 * 5 + 30):
            if kind == "ping":
                await stream.websocket.ping()
            else:
                # PINGs of the chat protocol, a byte a message: not half of what their own limit takes.
                ping = encode_frame(FrameType.FRAME_PING, bytes(8))
                await stream.websocket.send_bytes(b"" if kind == "empty" else ping[i % 12 :][:1])
    assert await ann.closed_by() == "rate_limited"


async def test_frames_in_fragments_meet_their_own_limit_alone(start_server: StartServer, knock: Any) -> None:
    """One message for each frame, in four fragments, as fast as a client may send at all: none is one too many."""
    server = start_server(limits={"frames_per_second": 1, "frame_burst": 100})
    peer = await knock(server)
    peer.writer.write(request())
    assert await peer.answer() == 101
    peer.writer.write(masked(0x82, encode_hello(1, msgspec.msgpack.encode({"token": server.token("ann")}))))
    async with asyncio.timeout(DEADLINE_S):
        await peer.reader.readuntil(b"chatcore")
        for number in range(100):
            ping = encode_frame(FrameType.FRAME_PING, b"%08d" % number)
            peer.writer.write(masked(0x02, ping[:1]) + masked(0x00, ping[1:6]) + masked(0x00, ping[6:7]))
            peer.writer.write(masked(0x80, ping[7:]))
        await peer.reader.readuntil(b"%08d" % 99)


async def test_who_is_closed_may_not_flood_either(server: LocalServer, knock: Any) -> None:
    """What is still read of it is read no more, whatever it was closed for."""
    peer = await knock(server)
    peer.writer.write(request())
    assert await peer.answer() == 101
    peer.writer.write(masked(0x82, encode_frame(FrameType.FRAME_PING, bytes(8))))
    async with asyncio.timeout(DEADLINE_S):
        await peer.reader.readuntil(b"unexpected_frame")
    pings = masked(0x89, b"") * 10_000
    peer.writer.write(pings)
    assert (await peer.rest()).count(b"\x8a\0") <= FREE_FRAMES + 100  # pongs: those of a piece and no more
    await until(lambda: server.counted("connections_closing") == 0)


# ---- Bytes that no client sends --------------------------------------------------------------------------------------


def request(path: str = "/", method: str = "GET", **headers: str) -> bytes:
    fields = {
        "Host": "chat",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
        "Sec-WebSocket-Version": "13",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


class RawSocket:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> int:
        """The status of the answer to a request."""
        async with asyncio.timeout(DEADLINE_S):
            return int((await self.reader.readuntil(b"\r\n\r\n")).split()[1])

    async def rest(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""


@pytest_asyncio.fixture
async def knock() -> AsyncIterator[Callable[[LocalServer], Awaitable[RawSocket]]]:
    sockets: list[RawSocket] = []

    async def open_one(server: LocalServer) -> RawSocket:
        sockets.append(RawSocket(*await asyncio.open_connection("127.0.0.1", server.server.ports["websocket"])))
        return sockets[-1]

    yield open_one
    for each in sockets:
        each.writer.transport.abort()  # closing may wait for what nobody reads
        with contextlib.suppress(OSError):
            await asyncio.wait_for(each.writer.wait_closed(), DEADLINE_S)


async def test_fragments_and_empty_messages(server: LocalServer, knock: Any) -> None:
    peer = await knock(server)
    peer.writer.write(request())
    assert await peer.answer() == 101
    hello = encode_hello(1, msgspec.msgpack.encode({"token": server.token("ann")}))
    ping = encode_frame(FrameType.FRAME_PING, b"abcdefgh")
    pong = encode_frame(FrameType.FRAME_PONG, b"abcdefgh")
    peer.writer.write(masked(0x02, hello[:5]) + masked(0x80, hello[5:]) + masked(0x82, b""))
    async with asyncio.timeout(DEADLINE_S):
        await peer.reader.readuntil(b"chatcore")  # in WELCOME
        peer.writer.write(masked(0x02, ping[:5]) + masked(0x89, b"in between") + masked(0x00, b""))
        await peer.reader.readuntil(b"\x8a\x0ain between")
        peer.writer.write(masked(0x80, ping[5:]))
        await peer.reader.readuntil(pong)


@pytest.mark.parametrize(
    "frame",
    [
        b"\x82\x02hi",  # not masked
        b"\xc2\x80" + bytes(4),  # a reserved bit: an extension that was not agreed on
        b"\x83\x80" + bytes(4),  # an opcode that does not exist
        b"\x80\x80" + bytes(4),  # the end of a message that never began
        b"\x09\x80" + bytes(4),  # a ping in fragments
    ],
)
async def test_frames_that_break_the_standard(frame: bytes, server: LocalServer, knock: Any) -> None:
    peer = await knock(server)
    peer.writer.write(request())
    assert await peer.answer() == 101
    peer.writer.write(frame)
    head, size, code = struct.unpack("!BBH", (await peer.rest())[:4])
    assert (head, size > 2, code) == (0x88, True, 1002)
    await until(lambda: server.counted("closed_malformed_frame") == 1)
    await until(lambda: server.counted("connections") == 0)


@pytest.mark.parametrize(
    ("asked", "status", "counter"),
    [
        (request("/elsewhere"), 404, "closed_bad_request"),
        (request(method="POST"), 405, "closed_bad_request"),
        (request(Upgrade="h2c"), 426, "closed_bad_request"),
        (request(Sec_WebSocket_Version="8"), 400, "closed_bad_request"),
        (request(Sec_WebSocket_Key="short"), 400, "closed_bad_request"),
        (request(Origin="https://evil.example"), 403, "closed_not_allowed"),
        (b"GET / HTTP/1.1\r\n" + b"X: " + bytes(9000) + b"\r\n", 431, "closed_bad_request"),
    ],
)
async def test_requests_that_open_nothing(
    asked: bytes, status: int, counter: str, server: LocalServer, knock: Any
) -> None:
    peer = await knock(server)
    peer.writer.write(asked)
    assert await peer.answer() == status
    await peer.rest()
    await until(lambda: server.counted(counter) == 1)
    await until(lambda: server.counted("connections") == 0)


async def test_a_query_is_no_path(server: LocalServer, knock: Any) -> None:
    peer = await knock(server)
    peer.writer.write(request("/?page=1"))
    assert await peer.answer() == 101


@pytest.mark.parametrize("junk", [b"\0\0\x1c\x01chat", b"\x16\x03\x01\x02\0\x01", b"hello\r\n\r\n"])
async def test_what_is_no_request(junk: bytes, start_server: StartServer, knock: Any) -> None:
    server = start_server(limits={"hello_timeout": "200ms"})
    peer = await knock(server)
    peer.writer.write(junk)
    await peer.rest()
    await until(lambda: server.counted("connections") == 0)


async def test_a_request_that_never_ends(server: LocalServer, knock: Any) -> None:
    peer = await knock(server)
    peer.writer.write(b"GET / HTTP/1.1\r\n")
    with contextlib.suppress(ConnectionError):
        for number in range(40):
            peer.writer.write(b"X-%d: " % number + b"x" * 1000 + b"\r\n")
            await peer.writer.drain()
    await peer.rest()
    assert server.counted("closed_frame_too_large") == 1
    assert server.counted("connections") == 0


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", request()])
async def test_no_hello_in_time(sent: bytes, start_server: StartServer, knock: Any) -> None:
    server = start_server(limits={"hello_timeout": "200ms"})
    peer = await knock(server)
    peer.writer.write(sent)
    rest = await peer.rest()
    assert (b"hello_timeout" in rest) == (sent == request())
    assert server.counted("closed_hello_timeout") == 1


async def test_who_asks_for_pongs_and_takes_none(start_server: StartServer, knock: Any) -> None:
    server = start_server(limits={"frames_per_second": 1_000_000, "frame_burst": 1_000_000})
    peer = await knock(server)
    peer.writer.write(request())
    assert await peer.answer() == 101
    peer.writer.write(masked(0x82, encode_hello(1, msgspec.msgpack.encode({"token": server.token("ann")}))))
    await asyncio.wait_for(peer.reader.readuntil(b"chatcore"), DEADLINE_S)  # in WELCOME
    peer.writer.transport.pause_reading()
    pings = masked(0x89, bytes(125)) * 500
    while server.counted("closed_slow_receiver") == 0:
        peer.writer.write(pings)
        await asyncio.wait_for(peer.writer.drain(), DEADLINE_S)
    await until(lambda: server.counted("connections") == 0)


# ---- Origins, path, encryption ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origins", "origin", "is_allowed"),
    [
        ([], "https://game.example", False),
        ([], None, True),
        (["https://game.example"], "https://game.example", True),
        (["https://game.example"], "https://game.example.evil", False),
        (["https://game.example"], "http://game.example", False),
        (["https://game.example"], "null", False),
        (["https://game.example"], None, True),
        (["*"], "https://evil.example", True),
    ],
)
async def test_origins(
    origins: list[str], origin: str | None, is_allowed: bool, start_server: StartServer, open_socket: OpenSocket
) -> None:
    server = start_server(websocket={"enabled": True, "port": 0, "origins": origins})
    try:
        await open_socket(server, origin)
    except aiohttp.WSServerHandshakeError as error:
        assert error.status == 403
        assert not is_allowed
    else:
        assert is_allowed


async def test_the_client_says_why_there_is_no_websocket(server: LocalServer) -> None:
    with pytest.raises(ConnectionLost, match="404"):
        await Client(f"{server.uri}/elsewhere", token=server.token("ann")).connect()
    with pytest.raises(ConnectionLost, match="no WebSocket"):
        await Client(f"ws://127.0.0.1:{server.server.http_port}", token=server.token("ann")).connect()


async def test_encrypted_under_a_path(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(
        websocket={"enabled": True, "port": 0, "tls": True, "path": "/chat"},
        tls={"certificate_file": str(write_server_certificate(tmp_path))},
    )
    port = server.server.ports["websocket"]
    assert set(server.server.ports) == {"tcp", "websocket"}
    stream = await open_websocket(f"wss://127.0.0.1:{port}/chat")
    assert (await RawClient(stream, stream).login(token=server.token("ann")))["player"] == "ann"
    stream.close()
    await stream.wait_closed()
    async with Client(f"wss://127.0.0.1:{port}/chat", token=server.token("bob"), ssl=client_context()) as bob:
        await bob.join("room:x")
        assert (await bob.send("room:x", "hello")).id > 0
    with pytest.raises(ConnectionLost, match="verify failed"):
        await Client(
            f"wss://127.0.0.1:{port}/chat", token=server.token("bob"), ssl=ssl.create_default_context()
        ).connect()
