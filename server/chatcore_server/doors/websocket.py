"""A connection of the hub that comes in over WebSocket (RFC 6455): binary messages whose payloads are the byte stream.

The frames are the websockets library's, without I/O; here they are tied to a transport and to the hub. Never reads a
frame of the chat protocol, and never keeps bytes that the hub could hold under its own bound.
"""

import asyncio
import http
import logging
from collections.abc import Callable, Sequence
from typing import cast

from websockets.exceptions import InvalidOrigin, PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Origin

from chatcore_ext.constants import EXCESS_FACTOR, HEADER_SIZE, TRANSPORT_HIGH_WATER, TRANSPORT_LOW_WATER
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.hub import Hub
from chatcore_ext.token_bucket import TokenBucket
from chatcore_server.buckets import monotonic_ms
from chatcore_server.settings import MAX_BURST, LimitSettings, WebSocketSettings

MIN_MESSAGE_BYTES = 4096  # that every client may send in one message, whatever limits.frame_bytes is
_MAX_HANDSHAKE_BYTES = 16_384  # of the HTTP request: a browser's cookies for the site fit
_MAX_PONGS_UNSENT = 16  # to a client that asks for them and does not read
FREE_FRAMES = 64  # of the WebSocket, and all that there are before the login: a HELLO in small fragments fits
_PIECE_BYTES = 512  # of input that are parsed at once: the 85 frames that fit are parsed before one is counted
_HAS_PAYLOAD = (Opcode.BINARY, Opcode.CONT)
# What the library would tell of each connection is told by the counters.
_silent = logging.getLogger("chatcore.websocket")
_silent.setLevel(logging.CRITICAL)


class WebSocketDoor:
    """What the connections of one door have in common."""

    def __init__(
        self, hub: Hub, wake: Callable[[], object], settings: WebSocketSettings, limits: LimitSettings
    ) -> None:
        self.hub = hub
        self.wake = wake
        self.path = settings.path
        self.max_message_bytes = max(limits.frame_bytes + HEADER_SIZE, MIN_MESSAGE_BYTES)
        self.take_settings(settings, limits)

    def take_settings(self, settings: WebSocketSettings, limits: LimitSettings) -> None:
        """For those who come in from now on."""
        # As many as there may be frames of the chat protocol before the hub closes the connection: one message for
        # each, or each in a few fragments, never comes to this.
        self.frames_per_second = limits.frames_per_second * (1 + EXCESS_FACTOR)
        self.frame_burst = min(limits.frame_burst * (1 + EXCESS_FACTOR), MAX_BURST)
        self.origins = _allowed(settings.origins)

    def new_link(self, peer_address: str) -> "WebSocketLink":
        return WebSocketLink(self, peer_address)


def _allowed(origins: Sequence[str]) -> list[Origin | None] | None:
    """None among them: who names no origin is no browser. None instead of them: all."""
    return None if "*" in origins else [None, *map(Origin, origins)]


class WebSocketLink(asyncio.Protocol):
    """To a transport it is the protocol, to the hub the transport (write, close, abort). Loop thread only.

    In the hub it is a connection from `open` or connection_made on, so the time for HELLO and the limit of connections
    hold for those that never shake hands.
    """

    def __init__(self, door: WebSocketDoor, peer_address: str) -> None:
        self.peer_address = peer_address
        self._door = door
        self._hub = door.hub
        self._protocol = ServerProtocol(origins=door.origins, max_size=door.max_message_bytes, logger=_silent)
        self._transport: asyncio.Transport | None = None
        self._give_up: Callable[[], object] | None = None  # on the transport that is to come
        self._handle = 0
        self._is_open = False
        self._is_closed = False
        self._is_paused = False
        self._n_handshake_bytes = 0
        self._n_pongs_unsent = 0
        self._n_free_frames = FREE_FRAMES
        self._bucket: TokenBucket | None = None  # for those after them
        self._is_flooding = False

    @property
    def connection(self) -> int:
        return self._handle

    def open(self, give_up: Callable[[], object] | None = None) -> bool:
        """As TransportLink.open."""
        self._is_open = True
        self._give_up = give_up
        self._handle = self._hub.open_transport(self, self.peer_address)
        self._door.wake()
        return self._hub.is_known(self._handle)

    # ---- What the transport tells ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit it
        self._give_up = None
        if self._is_closed or not (self._is_open or self.open()):
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(TRANSPORT_HIGH_WATER, TRANSPORT_LOW_WATER)

    def data_received(self, data: bytes) -> None:
        protocol = self._protocol
        if protocol.state is State.CONNECTING and not self._is_handshake_small(len(data)):
            return
        for start in range(0, len(data), _PIECE_BYTES):
            protocol.receive_data(data[start : start + _PIECE_BYTES])
            for event in protocol.events_received():
                if isinstance(event, Frame):
                    self._take(event)
                elif isinstance(event, Request):
                    self._answer(event)
            if self._is_flooding:
                break
        self._send_queued()
        if protocol.parser_exc is not None:
            is_too_large = isinstance(protocol.parser_exc, PayloadTooBig)
            self._end(ErrorCode.ERROR_FRAME_TOO_LARGE if is_too_large else ErrorCode.ERROR_MALFORMED_FRAME)
        elif protocol.handshake_exc is not None:
            self._end(ErrorCode.ERROR_BAD_REQUEST)
        self._door.wake()

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = self._give_up = None
        self._is_closed = True
        self._hub.close_transport(self._handle)
        self._door.wake()

    def pause_writing(self) -> None:
        self._is_paused = True
        self._hub.set_writable(self._handle, False)

    def resume_writing(self) -> None:
        self._is_paused = False
        self._n_pongs_unsent = 0
        self._hub.set_writable(self._handle, True)
        self._door.wake()

    # ---- What the hub does with it -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_binary(data)
            self._send_queued()

    def close(self) -> None:
        """The peer has LINGER_MS to answer and to hang up; then the hub aborts."""
        self._is_closed = True
        if self._transport is None:
            self._wait_no_longer()
        elif self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)  # why, CLOSE has said
            self._send_queued()
        elif self._protocol.state is State.CONNECTING and not self._protocol.eof_sent:
            self._transport.close()

    def abort(self) -> None:
        self._is_closed = True
        if self._transport is None:
            self._wait_no_longer()
        else:
            self._transport.abort()

    def _wait_no_longer(self) -> None:
        give_up, self._give_up = self._give_up, None
        if give_up is not None:
            give_up()

    # ---- Shaking hands -----------------------------------------------------------------------------------------------

    def _is_handshake_small(self, n_bytes: int) -> bool:
        self._n_handshake_bytes += n_bytes
        if self._n_handshake_bytes <= _MAX_HANDSHAKE_BYTES:
            return True
        if not self._is_closed:
            self._end(ErrorCode.ERROR_FRAME_TOO_LARGE)
        return False

    def _answer(self, request: Request) -> None:
        protocol = self._protocol
        if request.path.partition("?")[0] != self._door.path:
            protocol.send_response(protocol.reject(http.HTTPStatus.NOT_FOUND, "There is nothing here.\n"))
            self._end(ErrorCode.ERROR_BAD_REQUEST)
            return
        protocol.send_response(protocol.accept(request))
        if isinstance(protocol.handshake_exc, InvalidOrigin):
            self._end(ErrorCode.ERROR_NOT_ALLOWED)

    # ---- Frames ------------------------------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> None:
        if not self._take_token() or self._is_closed:
            return
        if frame.opcode in _HAS_PAYLOAD and frame.data:
            self._hub.receive(self._handle, frame.data)
        elif frame.opcode is Opcode.TEXT:
            self._protocol.fail(CloseCode.UNSUPPORTED_DATA, "malformed_frame: the protocol is binary")
            self._end(ErrorCode.ERROR_MALFORMED_FRAME)
        elif frame.opcode is Opcode.PING and self._is_paused:
            self._n_pongs_unsent += 1
            if self._n_pongs_unsent > _MAX_PONGS_UNSENT:
                self._end(ErrorCode.ERROR_SLOW_RECEIVER)

    def _take_token(self) -> bool:
        """For one frame, which costs much more than its bytes: the hub's limits know only whole frames of the chat
        protocol. False: it is one too many, and nothing more is read; a connection that is closing may not flood
        either."""
        if self._n_free_frames:
            self._n_free_frames -= 1
            return True
        now = monotonic_ms()
        wait = 0
        if self._bucket is None and self._hub.is_ready(self._handle):
            self._bucket = TokenBucket(self._door.frames_per_second, self._door.frame_burst, now)
        if self._bucket is not None:
            wait = self._bucket.take(now)
            if wait == 0:
                return True
        if not self._is_flooding:
            self._is_flooding = True
            if self._transport is not None:
                self._transport.pause_reading()
            self._end(ErrorCode.ERROR_RATE_LIMITED, wait)
        return False

    # ---- Sending -----------------------------------------------------------------------------------------------------

    def _send_queued(self) -> None:
        """What the protocol has to send; an empty piece stands for the end of our side."""
        transport = self._transport
        for data in self._protocol.data_to_send():
            if transport is None:
                return
            if data:
                transport.write(data)
            elif transport.can_write_eof():
                transport.write_eof()
            else:
                transport.close()

    def _end(self, code: ErrorCode, retry_after_ms: int = 0) -> None:
        """Of the connection, for the hub (the first code counts); what is to be said of it in WebSocket's own words is
        queued already."""
        self._send_queued()
        self._hub.close_connection(self._handle, code, retry_after_ms=retry_after_ms)
