"""A client's session with the server, sans I/O: bytes in, events out; calls in, bytes out.

Holds no socket, no clock and no loop: its owner moves the bytes and tells the time (ms, monotonic) at each call.
Survives its connections: numbers, resends and order go on over any number of reconnects (docs/protocol.md).
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from chatcore import events, operations
from chatcore.channel_track import ChannelTrack, Progress
from chatcore.errors import (
    BodyTooLarge,
    ChatError,
    NotJoined,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    error_from_body,
    error_from_code,
)
from chatcore.names import channel_kind
from chatcore.operations import Entry, Hello, Operation, SyncRequest, Welcome, encode_body
from chatcore.outbox import Outbox, PendingSend
from chatcore_ext.constants import (
    DEFAULT_HELLO_TIMEOUT_MS,
    MAX_SIGNAL_BODY_SIZE,
    PROTOCOL_VERSION,
    FrameType,
    SendFlag,
)
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

SYNC_LIMIT = 500  # entries a page: the most that the protocol allows
FIRST_SYNC_DELAY_MS = 50  # history may lag behind live messages; doubled up to the limit
LAST_SYNC_DELAY_MS = 5000

_decode_welcome = msgspec.msgpack.Decoder(Welcome).decode
_decode_sync_reply = msgspec.msgpack.Decoder(operations.SyncReply).decode
_decode_join_reply = msgspec.msgpack.Decoder(operations.JoinReply).decode


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
        self._tracks: dict[str, ChannelTrack] = {}
        self._by_number: dict[int, ChannelTrack] = {}
        self._direct_heads: dict[str, int] = {}
        self._requests: dict[int, Callable[[bytes | ChatError, int], None] | None] = {}
        self._next_request = 1
        self._sync_due: dict[str, int] = {}
        self._resend_due: dict[int, int] = {}
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
        """A new connection is open: say hello. Needs a token unless `has_ticket`."""
        self._parser = FrameParser()
        self._output.clear()
        self.closing = False
        self._close_error = None
        channels = {track.channel: track.last for track in self._tracks.values() if track.wanted}
        hello = Hello(token=token, ticket=self._ticket, channels=channels, client=self._client)
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
        self._by_number.clear()
        self._sync_due.clear()
        self._resend_due.clear()
        self._give_up_ms = None
        for track in self._tracks.values():
            track.number = 0
            track.stop_sync()
        lost = ChatError("the connection ended before the answer", code=0, name="connection_lost")
        for request_id in list(self._requests):
            self._finish_request(request_id, lost, now_ms)
        self._emit(events.ConnectionClosed(self._close_error))
        return self._take_events()

    def data_to_send(self) -> bytes:
        """What must go out now; each byte is returned once."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def next_deadline_ms(self) -> int | None:
        """When `tick` must be called at the latest, None while there is nothing to wait for."""
        deadlines = [*self._sync_due.values(), *self._resend_due.values()]
        if self._give_up_ms is not None:
            deadlines.append(self._give_up_ms)
        if self.ready:
            deadlines.append(self._last_sent_ms + self._heartbeat_ms)
        return min(deadlines, default=None)

    def tick(self, now_ms: int) -> list[events.SessionEvent]:
        """Do what time asks for: heartbeat, giving up a silent connection, delayed syncs and resends."""
        if self._give_up_ms is not None and now_ms >= self._give_up_ms:
            self._broken(ChatError("the server does not answer", code=0, name="server_silent"))
        elif self.ready:
            self._tick_ready(now_ms)
        return self._take_events()

    @property
    def has_ticket(self) -> bool:
        return bool(self._ticket)

    def forget_ticket(self) -> None:
        """The server refused it: the next connection logs in by token."""
        self._ticket = b""

    # Calls

    @property
    def send_window_full(self) -> bool:
        """True: `send` would break the window; wait for an answer."""
        return self._outbox.is_full

    def send(self, channel: str, body: bytes, now_ms: int, *, accepted: bool = False) -> int:
        """Send a message, now or on the next connection. Returns a handle; one Acknowledged or SendFailed follows.

        Raises NotJoined, BodyTooLarge, and Overloaded while `send_window_full`.
        """
        track = self._tracks.get(channel)
        if track is None or not track.wanted:
            raise NotJoined(f"join {channel} before sending to it")
        if self.limits and len(body) > self.limits.body_bytes:
            raise BodyTooLarge(f"a message has at most {self.limits.body_bytes} bytes, not {len(body)}")
        if self._outbox.is_full:
            raise Overloaded("too many sends without an answer")
        send = self._outbox.add(channel, body, SendFlag.SEND_ACCEPTED if accepted else 0)
        if self.ready and track.number:
            self._transmit(send, track.number, now_ms)
        return send.handle

    def signal(self, channel: str, kind: int, body: bytes, now_ms: int) -> None:
        """Send a signal if the channel is joined on this connection; otherwise it is dropped, as signals may be."""
        if len(body) > MAX_SIGNAL_BODY_SIZE:
            raise BodyTooLarge(f"a signal has at most {MAX_SIGNAL_BODY_SIZE} bytes, not {len(body)}")
        track = self._tracks.get(channel)
        if self.ready and track is not None and track.number:
            self._write(encode_signal(track.number, kind, b"", body), now_ms)

    def request(self, operation: Operation, body: Struct, now_ms: int) -> int:
        """Send a request; Replied or RequestFailed with the returned id follows. Needs `ready`."""
        request_id = self._request(operation, body, None, now_ms)
        if operation == Operation.JOIN and isinstance(body, operations.ChannelRequest):
            self._requests[request_id] = lambda answer, now: self._on_join_answer(request_id, answer, now)
        elif operation in (Operation.LEAVE, Operation.LEAVE_GROUP) and isinstance(body, operations.ChannelRequest):
            self._forget_channel(body.channel)
        return request_id

    @property
    def channels(self) -> list[str]:
        """The channels that the session is in, or will be in again after a reconnect."""
        return [track.channel for track in self._tracks.values() if track.wanted]

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
        self.ready = True
        self._give_up_ms = None
        self.player = welcome.player
        self.session_id = welcome.session
        self.limits = welcome.limits
        self._ticket = welcome.ticket
        self._ticket_ms = welcome.ticket_ms
        self._heartbeat_ms = welcome.heartbeat_ms
        self._grace_ms = welcome.heartbeat_grace_ms
        self._outbox.window = welcome.limits.unacked_sends
        first = self.epoch == ""
        self._emit(
            events.Connected(welcome.player, welcome.session, welcome.resumed, welcome.conversations, welcome.limits)
        )
        if not first and welcome.epoch != self.epoch:
            self._epoch_changed(welcome.epoch)
        self.epoch = welcome.epoch
        if not welcome.resumed:
            self._fail_unknown(self._outbox.restart())
        self._take_channels(welcome, now_ms)
        self._take_directs(welcome, first, now_ms)
        self._resend_all(now_ms)

    def _epoch_changed(self, epoch: str) -> None:
        self._direct_heads.clear()
        for track in self._tracks.values():
            track.anchored = False
        self._emit(events.EpochChanged(epoch))

    def _take_channels(self, welcome: Welcome, now_ms: int) -> None:
        for channel, state in welcome.channels.items():
            track = self._tracks.get(channel)
            if track is not None:
                self._enter(track, state.number)
                self._apply(track, track.compare(state.head, state.hash), now_ms)
        for channel, code in welcome.lost.items():
            if self._tracks.get(channel) is not None:
                self._lose_channel(channel, error_from_code(code, f"{channel} could not be joined again"))
        for track in list(self._tracks.values()):
            if track.wanted and not track.number:
                self._join_quietly(track.channel, now_ms)

    def _take_directs(self, welcome: Welcome, first: bool, now_ms: int) -> None:
        """Private chats that went on while the session was away and that no connection has opened yet."""
        for channel, state in welcome.conversations.items():
            if channel_kind(channel) != "dm":
                continue
            known = self._direct_heads.get(channel, 0)
            self._direct_heads[channel] = state.head
            if not first and state.head > known and channel not in self._tracks:
                track = self._tracks[channel] = ChannelTrack(channel, known, wanted=True)
                self._apply(track, track.compare(state.head, 0), now_ms)
                self._join_quietly(channel, now_ms)

    def _join_quietly(self, channel: str, now_ms: int) -> None:
        request_id = self._request(Operation.JOIN, operations.ChannelRequest(channel), None, now_ms)

        def answered(answer: bytes | ChatError, now: int) -> None:
            if isinstance(answer, bytes):
                self._take_join(_decode_join_reply(answer), now)

        self._requests[request_id] = answered

    def _on_ping(self, body: bytes, now_ms: int) -> None:
        self._write(encode_frame(FrameType.FRAME_PONG, body), now_ms)

    def _on_goaway(self, body: bytes, now_ms: int) -> None:
        self._emit(events.Draining(*decode_goaway(body)))

    def _on_close(self, body: bytes, now_ms: int) -> None:
        self._broken(error_from_body(body))

    def _on_ack(self, body: bytes, now_ms: int) -> None:
        seq, id, time = decode_ack(body)
        send = self._outbox.answered(seq)
        if send is not None:
            self._resend_due.pop(seq, None)
            self._emit(events.Acknowledged(send.handle, id, time))

    def _on_refused(self, body: bytes, now_ms: int) -> None:
        seq, error_body = decode_refused(body)
        error = error_from_body(error_body)
        if error.uncertain and self._outbox.get(seq) is not None:
            self._resend_due[seq] = now_ms + max(error.retry_after_ms, FIRST_SYNC_DELAY_MS)
            return
        send = self._outbox.answered(seq)
        if send is not None:
            self._emit(events.SendFailed(send.handle, error))

    def _on_deliver(self, body: bytes, now_ms: int) -> None:
        number, flags, id, prev, hash, time, sender, message = decode_deliver(body)
        track = self._by_number.get(number)
        if track is not None:
            self._apply(track, track.live(Entry(id, prev, hash, time, flags, sender.decode(), message)), now_ms)

    def _on_signal(self, body: bytes, now_ms: int) -> None:
        number, kind, sender, signal = decode_signal(body)
        track = self._by_number.get(number)
        if track is not None:
            self._emit(events.Signal(track.channel, kind, sender.decode(), signal))

    def _on_gap(self, body: bytes, now_ms: int) -> None:
        number, _, last = decode_gap(body)
        track = self._by_number.get(number)
        if track is not None:
            self._apply(track, track.gap(last), now_ms)

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
            self._ticket, self._ticket_ms = event.ticket, event.ticket_ms
            return
        if isinstance(event, operations.OpenedEvent):
            self._opened(event, now_ms)
        elif isinstance(event, operations.ClosedEvent):
            self._forget_channel(event.channel)
        self._emit(event)

    # Channels

    def _enter(self, track: ChannelTrack, number: int) -> None:
        self._by_number.pop(track.number, None)
        track.number = number
        self._by_number[number] = track

    def _opened(self, event: operations.OpenedEvent, now_ms: int) -> None:
        track = self._tracks.get(event.channel)
        if track is None:
            last = self._direct_heads.get(event.channel, event.head)
            hash = event.hash if last == event.head else 0
            track = self._tracks[event.channel] = ChannelTrack(event.channel, last, hash)
        self._enter(track, event.number)

    def _on_join_answer(self, request_id: int, answer: bytes | ChatError, now_ms: int) -> None:
        if isinstance(answer, ChatError):
            self._emit(events.RequestFailed(request_id, answer))
        else:
            self._take_join(_decode_join_reply(answer), now_ms)
            self._emit(events.Replied(request_id, answer))

    def _take_join(self, reply: operations.JoinReply, now_ms: int) -> None:
        track = self._tracks.get(reply.channel)
        if track is None:
            track = self._tracks[reply.channel] = ChannelTrack(reply.channel, reply.head, reply.hash)
        self._enter(track, reply.number)
        track.wanted = True
        if not track.syncing:
            self._apply(track, track.compare(reply.head, reply.hash), now_ms)
        for send in self._outbox:
            if send.channel == reply.channel and send.first_sent_ms is None:
                self._transmit(send, track.number, now_ms)

    def _forget_channel(self, channel: str) -> None:
        track = self._tracks.pop(channel, None)
        if track is not None:
            self._by_number.pop(track.number, None)
            self._sync_due.pop(channel, None)
            if channel in self._direct_heads:
                self._direct_heads[channel] = track.last

    def _lose_channel(self, channel: str, error: ChatError) -> None:
        self._forget_channel(channel)
        self._emit(events.ChannelLost(channel, error))
        for send in self._outbox:
            if send.channel == channel:
                self._outbox.answered(send.seq)
                was_sent = send.first_sent_ms is not None
                outcome = OutcomeUnknown(f"{channel} can no longer be sent to") if was_sent else error
                self._emit(events.SendFailed(send.handle, outcome))

    def _apply(self, track: ChannelTrack, progress: Progress, now_ms: int) -> None:
        for after, before in progress.truncated:
            self._emit(events.HistoryTruncated(track.channel, after, before))
        for id in progress.mismatches:
            self._emit(events.HashMismatch(track.channel, id))
        for entry in progress.shown:
            self._emit(
                events.Message(
                    track.channel, entry.id, entry.sender, entry.body, entry.time, entry.sender == self.player
                )
            )
        if track.channel in self._direct_heads:
            self._direct_heads[track.channel] = max(track.last, self._direct_heads[track.channel])
        if progress.sync_after is None:
            return
        if progress.delayed:
            delay = min(FIRST_SYNC_DELAY_MS << track.empty_syncs, LAST_SYNC_DELAY_MS)
            self._sync_due[track.channel] = now_ms + delay
        else:
            self._sync(track, now_ms)

    def _sync(self, track: ChannelTrack, now_ms: int) -> None:
        def answered(answer: bytes | ChatError, now: int) -> None:
            if self._tracks.get(track.channel) is not track or not self.ready:
                return
            if isinstance(answer, bytes):
                reply = _decode_sync_reply(answer)
                self._apply(track, track.synced(reply.entries, reply.more), now)
            elif answer.retry:
                self._sync_due[track.channel] = now + max(answer.retry_after_ms, FIRST_SYNC_DELAY_MS)
            else:
                self._lose_channel(track.channel, answer)

        self._request(Operation.SYNC, SyncRequest(track.channel, after=track.last, limit=SYNC_LIMIT), answered, now_ms)

    # Sends

    def _transmit(self, send: PendingSend, number: int, now_ms: int) -> None:
        flags = send.flags
        if send.first_sent_ms is None:
            send.first_sent_ms = now_ms
        else:
            flags |= SendFlag.SEND_RESEND
        self._write(encode_send(send.seq, number, flags, send.body), now_ms)

    def _resend_all(self, now_ms: int) -> None:
        for send in self._outbox:
            self._resend(send, now_ms)

    def _resend(self, send: PendingSend, now_ms: int) -> None:
        track = self._tracks.get(send.channel)
        if send.first_sent_ms is not None and now_ms - send.first_sent_ms > self._ticket_ms:
            self._outbox.answered(send.seq)
            self._fail_unknown([send])
        elif track is not None and track.number:
            self._transmit(send, track.number, now_ms)

    def _fail_unknown(self, sends: list[PendingSend]) -> None:
        for send in sends:
            self._emit(events.SendFailed(send.handle, OutcomeUnknown("the session ended before the answer came")))

    # Small parts

    def _tick_ready(self, now_ms: int) -> None:
        for channel in [channel for channel, due in self._sync_due.items() if due <= now_ms]:
            del self._sync_due[channel]
            if channel in self._tracks:
                self._sync(self._tracks[channel], now_ms)
        for seq in [seq for seq, due in self._resend_due.items() if due <= now_ms]:
            del self._resend_due[seq]
            send = self._outbox.get(seq)
            if send is not None:
                self._resend(send, now_ms)
        if now_ms - self._last_sent_ms >= self._heartbeat_ms:
            self._write(encode_frame(FrameType.FRAME_PING, now_ms.to_bytes(8, "big")), now_ms)
            if self._give_up_ms is None:
                self._give_up_ms = now_ms + self._heartbeat_ms + self._grace_ms

    def _request(
        self,
        operation: Operation,
        body: Struct,
        callback: Callable[[bytes | ChatError, int], None] | None,
        now_ms: int,
    ) -> int:
        request_id = self._next_request
        self._next_request = request_id % 0xFFFFFFFF + 1
        self._requests[request_id] = callback
        self._write(encode_request(request_id, operation, encode_body(body)), now_ms)
        return request_id

    def _finish_request(self, request_id: int, answer: bytes | ChatError, now_ms: int) -> None:
        if request_id not in self._requests:
            return
        callback = self._requests.pop(request_id)
        if callback is not None:
            callback(answer, now_ms)
        elif isinstance(answer, bytes):
            self._emit(events.Replied(request_id, answer))
        else:
            self._emit(events.RequestFailed(request_id, answer))

    def _broken(self, error: ChatError) -> None:
        self.closing = True
        if self._close_error is None:
            self._close_error = error

    def _write(self, frame: bytes, now_ms: int) -> None:
        self._output.append(frame)
        self._last_sent_ms = now_ms

    def _emit(self, event: events.SessionEvent) -> None:
        self._events.append(event)

    def _take_events(self) -> list[events.SessionEvent]:
        taken, self._events = self._events, []
        return taken
