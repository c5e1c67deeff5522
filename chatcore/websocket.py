"""A WebSocket (RFC 6455) between a transport and one of the client's connections: the byte stream in binary messages.

The frames are the websockets library's, without I/O. Knows nothing of the chat protocol and never reconnects.
"""

import asyncio
from typing import cast

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

MESSAGE_BYTES = 4096  # that every server takes in one message; docs/protocol.md, "Doors"
CLOSE_TIMEOUT_S = 1.0
_MAX_INBOUND_BYTES = 1 << 24  # more than the server holds for a client that does not read


class WebSocketAdapter(asyncio.Protocol):
    """To a transport it is the protocol, to a protocol of the client the transport. Loop thread only.

    `opened` becomes None when the protocol has been told of its connection, or the error that prevented it.
    """

    def __init__(self, protocol: asyncio.Protocol, uri: str) -> None:
        self._inner = protocol
        self._websocket = ClientProtocol(parse_uri(uri), max_size=_MAX_INBOUND_BYTES)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[OSError | None] = self._loop.create_future()

    # ---- What the transport tells ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit it
        self._websocket.send_request(self._websocket.connect())
        self._send_queued()

    def data_received(self, data: bytes) -> None:
        self._websocket.receive_data(data)
        if not self.opened.done():
            self._shake_hands()
        for event in self._websocket.events_received():
            if isinstance(event, Frame):
                self._take(event)
        self._send_queued()
        if self._websocket.parser_exc is not None and self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> None:
        self._websocket.receive_eof()  # and the transport closes itself
        self._websocket.events_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._is_open:
            self._inner.connection_lost(error)
        elif not self.opened.done():
            self.opened.set_result(ConnectionResetError("closed before the WebSocket was open"))

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    @property
    def _is_open(self) -> bool:
        return self.opened.done() and not self.opened.cancelled() and self.opened.result() is None

    def _shake_hands(self) -> None:
        refusal = self._websocket.handshake_exc
        if refusal is not None:
            self.opened.set_result(ConnectionRefusedError(f"no WebSocket: {refusal}"))
            self.abort()
        elif self._websocket.state is State.OPEN:
            self.opened.set_result(None)
            self._inner.connection_made(cast(asyncio.BaseTransport, self))  # a transport by shape

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.BINARY or frame.opcode is Opcode.CONT:
            self._inner.data_received(bytes(frame.data))
        elif frame.opcode is Opcode.TEXT:
            self._websocket.fail(CloseCode.UNSUPPORTED_DATA, "the protocol is binary")

    # ---- What the client's protocol does with it ---------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        if self._websocket.state is not State.OPEN:
            return
        for start in range(0, len(data), MESSAGE_BYTES):
            self._websocket.send_binary(data[start : start + MESSAGE_BYTES])
        self._send_queued()

    def close(self) -> None:
        """The server answers and ends the connection; if it does not, it is dropped."""
        if self._websocket.state is not State.OPEN:
            self.abort()
            return
        self._websocket.send_close(CloseCode.NORMAL_CLOSURE)
        self._send_queued()
        self._loop.call_later(CLOSE_TIMEOUT_S, self.abort)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def _send_queued(self) -> None:
        pieces = self._websocket.data_to_send()
        if self._transport is None or not pieces:
            return
        data = b"".join(pieces)
        if data:
            self._transport.write(data)
        if not pieces[-1]:  # an empty piece stands for the end of our side
            self._transport.close()
