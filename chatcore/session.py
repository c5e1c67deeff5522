"""A client's session with the server, sans I/O: bytes in, events out; calls in, bytes out.

Holds no socket, no clock and no loop: its owner moves the bytes and tells the time (ms, monotonic) at each call.
Survives its connections: numbers, resends and order go on over any number of reconnects (docs/protocol.md).
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from chatcore import events, operations
from chatcore.channel_book import FIRST_DELAY_MS, Answer, ChannelBook
from chatcore.errors import (
    BodyTooLarge,
    ChatError,
    NotJoined,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    connection_ended,
    error_from_body,
    server_silent,
)
from chatcore.operations import Entry, Hello, Operation, Welcome, encode_body
from chatcore.outbox import Outbox, PendingSend
from chatcore_ext.constants import (
    DEFAULT_HELLO_TIMEOUT_MS,
    DEFAULT_MAX_FRAME_SIZE,
    HELLO_PREFIX_SIZE,
    MAX_SIGNAL_BODY_SIZE,
    PROTOCOL_VERSION,
    FrameType,
    SendFlag,
)
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import (
    FrameError,
    FrameParser,
    decode_ack,
    decode_deliver,
    decode_gap,
    decode_goaway,
    decode_refused,
    decode_reply,
    decode_signal,
    encode_frame,
    encode_hello,
    encode_request,
    encode_send,
    encode_signal,
)

HELLO_MAP_SIZE = 32  # bytes, ample, of MessagePack around HELLO's `channels`

_decode_welcome = msgspec.msgpack.Decoder(Welcome).decode
_decode_join_reply = msgspec.msgpack.Decoder(operations.JoinReply).decode
_decode_refresh_reply = msgspec.msgpack.Decoder(operations.RefreshReply).decode


class ClientSession:
    """One session of one player.

    Obligations of the owner, on every connection:

    - call `connect` once it is open, `disconnected` once it is gone;
    - send what `data_to_send` returns after every call of any method, in order, nothing in between;
    - pass everything received to `receive`, and call `tick` at `next_deadline_ms`;
    - close the connection when `closing` is true;
    - handle all events that these methods return.
    """

    def __init__(self, *, client: str = "") -> None:
        self.player = ""
        self.session_id = 0
        self.epoch = ""
        self.ready = False
        self.closing = False
        self.limits: operations.Limits | None = None
        self._client = client
        self._ticket = b""
        self._ticket_ms = 0
        self._outbox = Outbox()
        self._book = ChannelBook(self)
        self._requests: dict[int, Answer] = {}
        self._next_request = 1
        self._resend_due: dict[int, int] = {}
        self._is_window_blocked = False
        self._parser = FrameParser()
        self._output: list[bytes] = []
        self._events: list[events.SessionEvent] = []
        self._heartbeat_ms = 0
        self._grace_ms = 0
        self._last_sent_ms = 0
        self._give_up_ms: int | None = None
        self._close_error: ChatError | None = None
        self._handlers: dict[int, Callable[[bytes, int], None]] = {
            FrameType.FRAME_WELCOME: self._on_welcome,
            FrameType.FRAME_PING: self._on_ping,
            FrameType.FRAME_GOAWAY: self._on_goaway,
            FrameType.FRAME_CLOSE: self._on_close,
            FrameType.FRAME_ACK: self._on_ack,
            FrameType.FRAME_REFUSED: self._on_refused,
            FrameType.FRAME_DELIVER: self._on_deliver,
            FrameType.FRAME_SIGNAL: self._on_signal,
            FrameType.FRAME_GAP: self._on_gap,
            FrameType.FRAME_REPLY: self._on_reply,
            FrameType.FRAME_FAILED: self._on_failed,
            FrameType.FRAME_EVENT: self._on_event,
        }

    # The connection

    def connect(self, now_ms: int, token: str = "") -> None:
        """A new connection is open: say hello. Needs a token unless `has_ticket`; with both, the ticket goes first."""
        self._parser = FrameParser()
        self._output.clear()
        self.closing = False
        self._close_error = None
        hello = Hello(token=token, ticket=self._ticket, client=self._client)
        limit = self.limits.frame_bytes if self.limits else DEFAULT_MAX_FRAME_SIZE
        hello.channels = self._book.places(limit - HELLO_PREFIX_SIZE - len(encode_body(hello)) - HELLO_MAP_SIZE)
        self._write(encode_hello(PROTOCOL_VERSION, encode_body(hello)), now_ms)
        self._give_up_ms = now_ms + 2 * DEFAULT_HELLO_TIMEOUT_MS

    def receive(self, data: bytes, now_ms: int) -> list[events.SessionEvent]:
        """Take in what the connection gave. Never raises for what a server sends: a broken stream sets `closing`."""
        try:
            frames = self._parser.feed(data)
        except FrameError as error:
            frames = error.frames
            self._broken(ProtocolError(str(error), code=error.code))
        if self.ready:
            self._give_up_ms = None
        for frame_type, body in frames:
            self._receive_frame(frame_type, body, now_ms)
        return self._take_events()

    def disconnected(self, now_ms: int) -> list[events.SessionEvent]:
        """The connection is gone. Requests without answer fail; sends without answer wait for the next connection."""
        self.ready = False
        self._output.clear()
        self._resend_due.clear()
        self._give_up_ms = None
        requests, self._requests = self._requests, {}
        for answer in requests.values():
            answer(connection_ended(), now_ms)
        self._book.disconnected()
        self._outbox.connection_lost()
        self.emit(events.ConnectionClosed(self._close_error))
        return self._take_events()

    def data_to_send(self) -> bytes:
        """What must go out now; each byte is returned once."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def next_deadline_ms(self) -> int | None:
        """When `tick` must be called at the latest, None while there is nothing to wait for."""
        deadlines = list(self._resend_due.values())
        for deadline in (self._book.next_due_ms, self._give_up_ms):
            if deadline is not None:
                deadlines.append(deadline)
        if self.ready:
            deadlines.append(self._last_sent_ms + self._heartbeat_ms)
        return min(deadlines, default=None)

    def tick(self, now_ms: int) -> list[events.SessionEvent]:
        """Do what time asks for: heartbeat, giving up a silent connection, delayed syncs and resends."""
        if self._give_up_ms is not None and now_ms >= self._give_up_ms:
            self._broken(server_silent())
        elif self.ready:
            self._tick_ready(now_ms)
        return self._take_events()

    def excuse_silence(self) -> None:
        """The owner does not read at the moment: that nothing comes is not the server's fault."""
        if self.ready:
            self._give_up_ms = None

    @property
    def has_ticket(self) -> bool:
        return bool(self._ticket)

    def forget_ticket(self) -> None:
        """The server refused it: the next connection logs in by token."""
        self._ticket = b""

    @property
    def is_idle(self) -> bool:
        """True: no send and no request waits for its answer from this connection."""
        return not self._outbox.n_on_wire and not self._requests

    # Calls

    @property
    def send_window_full(self) -> bool:
        """True: `send` would break the window; wait for an answer."""
        return self._outbox.is_full

    def send(self, channel: str, body: bytes, now_ms: int, *, accepted: bool = False) -> int:
        """Send a message, now or on the next connection. Returns a handle; one Acknowledged or SendFailed follows.

        Raises NotJoined, BodyTooLarge, and Overloaded while `send_window_full`.
        """
        if channel not in self._book:
            raise NotJoined(f"join {channel} before sending to it")
        if self.limits and len(body) > self.limits.body_bytes:
            raise BodyTooLarge(f"a message has at most {self.limits.body_bytes} bytes, not {len(body)}")
        if self._outbox.is_full:
            raise Overloaded("too many sends without an answer")
        send = self._outbox.add(channel, body, SendFlag.SEND_ACCEPTED if accepted else 0)
        self._transmit(send, now_ms)
        return send.handle

    def signal(self, channel: str, kind: int, body: bytes, now_ms: int) -> None:
        """Send a signal if the channel is joined on this connection; otherwise it is dropped, as signals may be."""
        if len(body) > MAX_SIGNAL_BODY_SIZE:
            raise BodyTooLarge(f"a signal has at most {MAX_SIGNAL_BODY_SIZE} bytes, not {len(body)}")
        number = self._book.number(channel)
        if self.ready and number:
            self._write(encode_signal(number, kind, b"", body), now_ms)

    def request(self, operation: Operation, body: Struct, now_ms: int) -> int:
        """Send a request; Replied or RequestFailed with the returned id follows. Needs `ready`."""
        request_id = self._next_request
        channel = getattr(body, "channel", "")
        leaves = operation in (Operation.LEAVE, Operation.LEAVE_GROUP)

        def answered(answer: bytes | ChatError, now: int) -> None:
            if isinstance(answer, ChatError):
                self.emit(events.RequestFailed(request_id, answer))
                return
            if operation == Operation.JOIN:
                self._book.joined(_decode_join_reply(answer), now)
            elif operation == Operation.REFRESH:
                self._keep_ticket(_decode_refresh_reply(answer))
            elif leaves:
                self._book.forget(channel)  # a join before it was answered in the meantime
            self.emit(events.Replied(request_id, answer))

        self.request_quietly(operation, body, answered, now_ms)
        if leaves:
            self._leave(channel)
        return request_id

    @property
    def channels(self) -> list[str]:
        """The channels that the session is in, or will be in again after a reconnect."""
        return self._book.names()

    # What the channel book asks for

    def request_quietly(self, operation: Operation, body: Struct, answer: Answer, now_ms: int) -> None:
        """Send a request whose answer, or the connection's end, goes to `answer` instead of into an event."""
        request_id = self._next_request
        self._next_request = request_id % 0xFFFFFFFF + 1
        self._requests[request_id] = answer
        self._write(encode_request(request_id, operation, encode_body(body)), now_ms)

    def emit(self, event: events.SessionEvent) -> None:
        self._events.append(event)

    def channel_entered(self, channel: str, now_ms: int) -> None:
        """Sends that waited for the channel go out, in their order."""
        for send in self._outbox:
            if send.channel == channel:
                self._transmit(send, now_ms)

    def channel_lost(self, channel: str, error: ChatError) -> None:
        self.emit(events.ChannelLost(channel, error))
        self._give_up_waiting(channel, error)

    # Frames

    def _receive_frame(self, frame_type: int, body: bytes, now_ms: int) -> None:
        handler = self._handlers.get(frame_type)
        if handler is None or not (self.ready or frame_type in (FrameType.FRAME_WELCOME, FrameType.FRAME_CLOSE)):
            return
        try:
            handler(body, now_ms)
        except (FrameError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._broken(ProtocolError(f"the server's frame of type {frame_type} is malformed: {error}"))

    def _on_welcome(self, body: bytes, now_ms: int) -> None:
        welcome = _decode_welcome(body)
        first = welcome.epoch != self.epoch
        is_new_epoch = first and self.epoch != ""
        self.ready = True
        self._give_up_ms = None
        self.player = welcome.player
        self.session_id = welcome.session
        self.limits = welcome.limits
        self.epoch = welcome.epoch
        self._keep_ticket(welcome)
        self._heartbeat_ms = welcome.heartbeat_ms
        self._grace_ms = welcome.heartbeat_grace_ms
        self._outbox.window = welcome.limits.unacked_sends
        self.emit(
            events.Connected(welcome.player, welcome.session, welcome.resumed, welcome.conversations, welcome.limits)
        )
        if is_new_epoch:
            self.emit(events.EpochChanged(welcome.epoch))
        if not welcome.resumed:
            for send in self._outbox.restart():
                self._report_unknown(send)
        self._book.connected(welcome, first=first, now_ms=now_ms)
        for send in self._outbox:
            if send.channel not in self._book:
                self._give_up_unsent(send, NotJoined(f"{send.channel} was left"))

    def _on_ping(self, body: bytes, now_ms: int) -> None:
        self._write(encode_frame(FrameType.FRAME_PONG, body), now_ms)

    def _on_goaway(self, body: bytes, now_ms: int) -> None:
        self.emit(events.Draining(*decode_goaway(body)))

    def _on_close(self, body: bytes, now_ms: int) -> None:
        self._broken(error_from_body(body))

    def _on_ack(self, body: bytes, now_ms: int) -> None:
        seq, id, time = decode_ack(body)
        send = self._answered(seq)
        if send is not None:
            self.emit(events.Acknowledged(send.handle, id, time))
            self._unblock(now_ms)

    def _on_refused(self, body: bytes, now_ms: int) -> None:
        seq, error_body = decode_refused(body)
        error = error_from_body(error_body)
        send = self._outbox.get(seq)
        if send is None:
            return
        # A certain refusal speaks of the copy that it answers: it says nothing about those before.
        is_certain = not error.uncertain and send.copies == 1
        if is_certain and error.code == ErrorCode.ERROR_SHUTTING_DOWN:
            self._outbox.postpone(send)
        elif is_certain:
            self._give_up_send(send, error)
        elif error.retry:
            self._resend_due[seq] = now_ms + max(error.retry_after_ms, FIRST_DELAY_MS)
        else:
            self._give_up_send(send, None)
        self._unblock(now_ms)

    def _on_deliver(self, body: bytes, now_ms: int) -> None:
        number, flags, id, prev, hash, time, sender, message = decode_deliver(body)
        self._book.deliver(number, Entry(id, prev, hash, time, flags, sender.decode(), message), now_ms)

    def _on_signal(self, body: bytes, now_ms: int) -> None:
        number, kind, sender, signal = decode_signal(body)
        channel = self._book.name(number)
        if channel is not None:
            self.emit(events.Signal(channel, kind, sender.decode(), signal))

    def _on_gap(self, body: bytes, now_ms: int) -> None:
        self._book.gap(*decode_gap(body), now_ms)

    def _on_reply(self, body: bytes, now_ms: int) -> None:
        request_id, reply = decode_reply(body)
        self._finish_request(request_id, reply, now_ms)

    def _on_failed(self, body: bytes, now_ms: int) -> None:
        request_id, error = decode_reply(body)
        self._finish_request(request_id, error_from_body(error), now_ms)

    def _on_event(self, body: bytes, now_ms: int) -> None:
        try:
            event = operations.decode_event(body)
        except msgspec.ValidationError:
            return  # an event of a later version
        if isinstance(event, operations.TicketEvent):
            self._keep_ticket(event)
            return
        if isinstance(event, operations.TokenExpiringEvent):
            self.emit(events.TokenExpiring(event.in_ms))
            return
        if isinstance(event, operations.OpenedEvent):
            self._book.opened(event, now_ms)
        elif isinstance(event, operations.ClosedEvent):
            self._leave(event.channel)
        self.emit(event)

    # Sends

    def _leave(self, channel: str) -> None:
        self._book.forget(channel)
        self._give_up_waiting(channel, NotJoined(f"{channel} was left"))

    def _give_up_waiting(self, channel: str, error: ChatError) -> None:
        """Sends that wait to go out. Those that are out get their answer on this connection."""
        for send in self._outbox:
            if send.channel == channel and not send.on_wire:
                self._give_up_unsent(send, error)

    def _give_up_unsent(self, send: PendingSend, error: ChatError) -> None:
        """It failed by `error` if it never was on a connection."""
        self._give_up_send(send, error if send.copies == 0 else None)

    def _transmit(self, send: PendingSend, now_ms: int) -> None:
        """Put the send on the wire, once per connection, unless its time is over or its channel has no number yet."""
        number = self._book.number(send.channel)
        if send.on_wire or send.is_waiting or not number or not self.ready:
            return
        if not self._outbox.may_go(send):
            self._is_window_blocked = True
            return
        flags = send.flags
        if send.first_sent_ms is None:
            send.first_sent_ms = now_ms
        elif now_ms - send.first_sent_ms > self._ticket_ms:
            self._give_up_send(send, None)
            return
        else:
            flags |= SendFlag.SEND_RESEND
        send.on_wire = True
        send.copies += 1
        self._write(encode_send(send.seq, number, flags, send.body), now_ms)

    def _answered(self, seq: int) -> PendingSend | None:
        self._resend_due.pop(seq, None)
        return self._outbox.answered(seq)

    def _unblock(self, now_ms: int) -> None:
        """An answer may have opened the window for sends that it had kept back."""
        if self._is_window_blocked:
            self._is_window_blocked = False
            for send in self._outbox:
                self._transmit(send, now_ms)

    def _give_up_send(self, send: PendingSend, error: ChatError | None) -> None:
        """It will not be sent again. `error`: why it is certainly not in the log; None: nobody knows."""
        self._answered(send.seq)
        if error is not None:
            self.emit(events.SendFailed(send.handle, error))
        else:
            self._report_unknown(send)

    def _report_unknown(self, send: PendingSend) -> None:
        error = OutcomeUnknown("the connection ended before the answer came, and it may no longer be asked for")
        self.emit(events.SendFailed(send.handle, error))

    # Small parts

    def _keep_ticket(self, told: operations.Welcome | operations.TicketEvent | operations.RefreshReply) -> None:
        self._ticket, self._ticket_ms = told.ticket, told.ticket_ms

    def _tick_ready(self, now_ms: int) -> None:
        self._book.tick(now_ms)
        for seq in [seq for seq, due in self._resend_due.items() if due <= now_ms]:
            del self._resend_due[seq]
            send = self._outbox.get(seq)
            if send is not None:
                send.on_wire = False
                if send.channel in self._book:
                    self._transmit(send, now_ms)
                else:
                    self._give_up_send(send, None)
        if now_ms - self._last_sent_ms >= self._heartbeat_ms:
            self._write(encode_frame(FrameType.FRAME_PING, now_ms.to_bytes(8, "big")), now_ms)
            if self._give_up_ms is None:
                self._give_up_ms = now_ms + self._heartbeat_ms + self._grace_ms

    def _finish_request(self, request_id: int, answer: bytes | ChatError, now_ms: int) -> None:
        callback = self._requests.pop(request_id, None)
        if callback is not None:
            callback(answer, now_ms)

    def _broken(self, error: ChatError) -> None:
        self.closing = True
        if self._close_error is None:
            self._close_error = error

    def _write(self, frame: bytes, now_ms: int) -> None:
        self._output.append(frame)
        self._last_sent_ms = now_ms

    def _take_events(self) -> list[events.SessionEvent]:
        taken, self._events = self._events, []
        return taken
