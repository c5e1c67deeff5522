"""What doors read before and around the protocol's bytes: PROXY headers and WebSocket.

Never an error that has no name; of a PROXY header not one byte too many; and what a WebSocket carries into the hub is
what a client put into its binary messages.
"""

import asyncio
import ipaddress
import socket
import struct

from websockets.frames import Frame, Opcode

from chatcore_ext.constants import FrameType
from chatcore_ext.frame import encode_frame, encode_hello
from chatcore_ext.hub import EVENT_HELLO
from chatcore_server.doors.proxy_protocol import SIGNATURE, ProxyHeaderError, read_header
from chatcore_server.doors.websocket import FREE_FRAMES, WebSocketDoor, WebSocketLink
from chatcore_server.settings import LimitSettings, WebSocketSettings
from fuzz.reading import Reader
from support.hub_world import MemoryTransport, World

_loop: asyncio.AbstractEventLoop | None = None
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def one_input(data: bytes) -> None:
    read = Reader(data)
    aspect = read.one_of([_proxy_header, _websocket_noise, _websocket])
    aspect(read)


# ---- PROXY protocol --------------------------------------------------------------------------------------------------


def _loop_of_its_own() -> asyncio.AbstractEventLoop:
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
    return _loop


def _proxy_header(read: Reader) -> None:
    data = read.rest()
    if is_built := data[:1] > b"\x80":
        size = min(len(data) - 1, 60)
        data = SIGNATURE + b"\x21" + data[1:2] + struct.pack("!H", size) + data[2:]
    server, client = socket.socketpair()
    with server, client:
        server.setblocking(False)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        try:
            source = _loop_of_its_own().run_until_complete(read_header(server))
        except (ProxyHeaderError, EOFError):
            return
        if source:
            assert str(ipaddress.ip_address(source)) == source
        left = server.recv(1 << 16)
    (size,) = struct.unpack("!H", data[14:16])
    assert left == data[16 + size :], "the header's bytes, and no other"
    assert is_built or data.startswith(SIGNATURE)


# ---- WebSocket -------------------------------------------------------------------------------------------------------


class _Browser:
    """One connection through the WebSocket door, and the bytes that its server side has written."""

    def __init__(self, world: World) -> None:
        door = WebSocketDoor(world.hub, lambda: None, WebSocketSettings(), LimitSettings())
        self.world = world
        self.transport = _Transport()
        self.link: WebSocketLink = door.new_link("192.0.2.1")
        self.link.connection_made(self.transport)  # type: ignore[arg-type]

    def send(self, data: bytes) -> None:
        if not self.transport.ending:
            self.link.data_received(data)
        self.world.pump()

    def hang_up(self) -> None:
        self.link.connection_lost(None)
        self.world.pass_time(60_000)
        assert self.world.hub.counters()["connections"] == 0


class _Transport(MemoryTransport):
    """As uvloop's; after `abort` and `close` it takes nothing more and says nothing of it."""

    def write(self, data: bytes) -> None:
        if not self.ending:
            super().write(data)

    def pause_reading(self) -> None:
        self.ending = True  # nothing more is sent to it


def _websocket_noise(read: Reader) -> None:
    with World() as world:
        browser = _Browser(world)
        if read.below(2):
            browser.send(HANDSHAKE + b"\r\n")
        while read:
            browser.send(read.text())
        browser.hang_up()


def _websocket(read: Reader) -> None:
    """Whole messages, cut and fragmented as a client may before its login: the hub sees their payloads one after the
    other."""
    with World(frame_burst=10_000) as world:
        browser = _Browser(world)
        browser.send(HANDSHAKE + b"\r\n")
        options = b"\x80" + read.text()
        stream = encode_hello(1, options) + encode_frame(FrameType.FRAME_PING, b"12345678")
        frames = b"".join(_messages(read, stream))
        while frames:
            size = read.number() or 4096
            browser.send(frames[:size])
            frames = frames[size:]
        assert [event[3] for event in world.events if event[0] == EVENT_HELLO] == [options]
        browser.hang_up()


def _messages(read: Reader, stream: bytes) -> list[bytes]:
    frames: list[bytes] = []
    opcode = Opcode.BINARY
    while stream:
        size = read.number() or 4096 if len(frames) < FREE_FRAMES - 3 else len(stream)
        piece, stream = stream[:size], stream[size:]
        is_last = not stream or bool(read.below(2))
        frames.append(Frame(opcode, piece, is_last).serialize(mask=True))
        opcode = Opcode.BINARY if is_last else Opcode.CONT
        if read.below(8) == 1:
            frames.append(Frame(Opcode.PING, b"?").serialize(mask=True))
    return frames
