"""A hub with peers in one process: socketpairs or transports in memory, and time moves when a test says so."""

import select
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self

from chatcore_ext.constants import FrameType
from chatcore_ext.frame import FrameParser, decode_deliver, encode_frame, encode_hello
from chatcore_ext.hub import EVENT_HELLO, Event, Hub
from chatcore_ext.log_view import LogView
from chatcore_ext.record import encode_record
from chatcore_ext.transport_link import TransportLink

MAX_SERVER_BODY = 2**24 - 1
RECORD_MESSAGE = 1
RECORD_CONTROL = 2

Frame = tuple[int, bytes]
Deliver = tuple[int, int, int, int, int, int, bytes, bytes]


class Peer(Protocol):
    """A client's end of one connection."""

    handle: int

    def send(self, data: bytes) -> None: ...
    def receive(self) -> bytes:
        """What has arrived and was not received yet."""

    def close(self) -> None: ...
    @property
    def closed(self) -> bool:
        """The server has ended the connection, and everything before was received."""


class SocketPeer:
    def __init__(self, hub: Hub, *, send_buffer: int | None = None, address: str = "") -> None:
        server, self.socket = socket.socketpair()
        if send_buffer is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        self.socket.setblocking(False)
        self.closed = False
        self.handle = hub.adopt(server.detach(), address)

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, limit: int = 1 << 30) -> bytes:
        chunks = []
        try:
            while limit > 0 and (chunk := self.socket.recv(min(limit, 65536))):
                chunks.append(chunk)
                limit -= len(chunk)
            self.closed = self.closed or limit > 0
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.closed = True
        return b"".join(chunks)

    def close(self) -> None:
        self.socket.close()


class MemoryTransport:
    """As much of asyncio.Transport as a link uses. Like a real one it is lost only after `close` has returned."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.writes = 0
        self.ending = False
        self.broken: Exception | None = None

    def write(self, data: bytes) -> None:
        assert type(data) is bytes
        assert data
        assert not self.ending, "written to after close"
        if self.broken is not None:
            raise self.broken
        self.written += data
        self.writes += 1

    def close(self) -> None:
        self.ending = True

    def abort(self) -> None:
        self.ending = True

    def can_write_eof(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        assert 0 < low < high


class TransportPeer:
    def __init__(self, hub: Hub, *, wake: Callable[[], None] = lambda: None, address: str = "") -> None:
        self.transport = MemoryTransport()
        self.link = TransportLink(hub, wake, address)
        self.link.connection_made(self.transport)
        self.handle = self.link.connection
        self.lost = False

    def send(self, data: bytes) -> None:
        while data:
            buffer = self.link.get_buffer(-1)
            part = data[: len(buffer)]
            buffer[: len(part)] = part
            self.link.buffer_updated(len(part))
            data = data[len(part) :]

    def receive(self) -> bytes:
        data = bytes(self.transport.written)
        self.transport.written.clear()
        return data

    def close(self) -> None:
        if not self.lost:
            self.lost = True
            self.link.connection_lost(None)

    @property
    def closed(self) -> bool:
        return self.transport.ending


PEER_KINDS: dict[str, Callable[[Hub], Peer]] = {"socket": SocketPeer, "transport": TransportPeer}


class World:
    """A hub, its log view, and the events that it has told so far."""

    def __init__(self, peer_kind: str = "socket", **limits: Any) -> None:
        self.peer_kind = PEER_KINDS[peer_kind]
        self.view = LogView()
        self.events: list[Event] = []
        self.directs: list[tuple[bytes, list[int]]] = []
        self.controls: list[tuple[bytes, int, int, bytes]] = []
        self.peers: list[Peer] = []
        self.parsers: dict[int, FrameParser] = {}
        self.hub = Hub(
            self.view,
            on_direct=lambda channel, connections: self.directs.append((channel, connections)),
            on_control=lambda *control: self.controls.append(control),
            **limits,
        )
        self.offset = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.hub.close()
        for peer in self.peers:
            peer.close()

    # --- turns ---

    def pump(self) -> None:
        """Turns until nothing is left to do."""
        poll = select.poll()
        poll.register(self.hub.fileno(), select.POLLIN)
        for _ in range(10_000):
            self.events += self.hub.take_events()
            if self.hub.dirty:
                self.hub.flush()
            elif poll.poll(0):
                self.events += self.hub.run_burst()
            else:
                self.events += self.hub.take_events()
                self.hub.check_invariants()
                return
        raise AssertionError("the hub never comes to rest")

    def pass_time(self, milliseconds: int) -> None:
        self.hub.advance_clock(milliseconds)
        self.events += self.hub.tick()
        self.pump()

    def take(self, kind: int) -> list[tuple[Any, ...]]:
        """The events of this kind since the last call, without it."""
        self.pump()
        taken = [tuple(event[1:]) for event in self.events if event[0] == kind]
        self.events = [event for event in self.events if event[0] != kind]
        return taken

    # --- peers ---

    def open(self) -> Peer:
        peer = self.peer_kind(self.hub)
        self.peers.append(peer)
        return peer

    def greet(self) -> Peer:
        """A peer whose HELLO was told."""
        peer = self.open()
        peer.send(encode_hello(1, b"\x80"))
        assert self.take(EVENT_HELLO) == [(peer.handle, 1, b"\x80")]
        return peer

    def login(self, player: bytes, session: int) -> Peer:
        peer = self.greet()
        assert self.hub.attach(peer.handle, session, player) >= 1
        return peer

    def join(self, peer: Peer, channel: bytes, *, may_send: bool = True) -> int:
        generation = self.hub.begin_join(peer.handle, channel)
        assert generation > 0
        number = self.hub.complete_join(peer.handle, channel, generation, may_send)
        assert number > 0
        return number

    def frames(self, peer: Peer) -> list[Frame]:
        """The frames that the peer has got since the last call."""
        self.pump()
        parser = self.parsers.setdefault(id(peer), FrameParser(MAX_SERVER_BODY))
        frames = []
        while data := peer.receive():
            frames += parser.feed(data)
            self.pump()  # the kernel has room again
        return frames

    def delivered(self, peer: Peer) -> list[Deliver]:
        return [decode_deliver(body) for kind, body in self.frames(peer) if kind == FrameType.FRAME_DELIVER]

    # --- the log ---

    def record(self, channel: bytes, sender: bytes, body: bytes, *, session: int = 99, seq: int | None = None) -> Any:
        """The next record of partition 0; its seq is its offset unless given."""
        self.offset += 1
        value = encode_record(RECORD_MESSAGE, session, seq or self.offset, 1000, sender, body)
        return self.offset, 2000 + self.offset, channel, value

    def say(self, channel: bytes, sender: bytes, body: bytes) -> int:
        """A message comes through the log; its id."""
        self.hub.deliver(0, [self.record(channel, sender, body)])
        return self.offset


def encode_ping(payload: bytes = b"12345678") -> bytes:
    return encode_frame(FrameType.FRAME_PING, payload)


def error_of(body: bytes) -> tuple[int, int, int]:
    """(code, flags, retry after) of an error body."""
    code, flags, retry_after = struct.unpack_from(">HBI", body)
    return code, flags, retry_after
