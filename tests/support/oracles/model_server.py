"""A chat server that is obviously right, and faulty on demand: the other side in tests of the client.

One process, one list per channel, no sockets and no clock: bytes in by `receive`, bytes out by `take_output`. What it
keeps is the truth that a client's view is compared with. Slow, and never used outside tests.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from chatcore import operations
from chatcore_ext.constants import UNKNOWN_ID, DeliverFlag, FrameType
from chatcore_ext.error_codes import ErrorCode, default_flags
from chatcore_ext.frame import (
    FrameParser,
    decode_hello,
    decode_request,
    decode_send,
    decode_signal,
    encode_ack,
    encode_deliver,
    encode_error,
    encode_failed,
    encode_frame,
    encode_gap,
    encode_goaway,
    encode_refused,
    encode_reply,
    encode_signal,
)
from support.oracles.frames import chain

TICKET_MS = 60_000
FRAME_BYTES = 4096
BODY_BYTES = 1000


@dataclass
class Stored:
    """A message as its channel has it."""

    id: int
    prev: int
    hash: int
    time: int
    sender: str
    body: bytes


@dataclass
class Sent:
    """A send on its way into the log."""

    channel: str
    sender: str
    body: bytes
    session: int = 0
    seq: int = 0
    connection: "ModelConnection | None" = None
    time: int = 0  # when the server took it in


@dataclass
class Faults:
    """How many of the next ... go wrong, each in its own way."""

    joins_refused: int = 0  # joins refused for now, at WELCOME and by request
    syncs_refused: int = 0
    syncs_behind: int = 0  # syncs that do not know the newest messages yet
    prevs_unknown: int = 0  # deliveries without prev and hash
    deliveries_left_out: int = 0  # replaced by GAP
    sends_refused: int = 0
    sends_uncertain: int = 0  # refused as uncertain, and in the log anyway
    sends_forgotten: int = 0  # refused as uncertain, and not in the log


@dataclass
class ModelServer:
    ticket_ms: int = TICKET_MS
    heartbeat_ms: int = 30_000
    n_pings: int = 0
    epoch: str = "epoch-1"
    now_ms: int = 1_000_000
    id_step: int = 3
    faults: Faults = field(default_factory=Faults)
    channels: dict[str, list[Stored]] = field(default_factory=dict)
    tickets: dict[bytes, tuple[int, str, int]] = field(default_factory=dict)  # session, player, void after
    in_flight: deque[Sent] = field(default_factory=deque)
    connections: "list[ModelConnection]" = field(default_factory=list)
    banned: set[tuple[str, str]] = field(default_factory=set)  # player, channel
    hidden: set[tuple[str, str]] = field(default_factory=set)  # receiver, sender
    first_copies: dict[tuple[int, int], tuple[Stored, int]] = field(default_factory=dict)
    restarted: set[str] = field(default_factory=set)  # channels whose next message starts a new chain
    history_ends: dict[str, int] = field(default_factory=dict)  # what a sync that is behind knows
    next_session: int = 1
    next_id: int = 1
    next_ticket: int = 1
    deferring: bool = False  # requests wait for `answer_one`

    # The log

    def commit(self, *, copies: int = 1) -> None:
        """The oldest send in flight becomes durable, `copies` times over: later ones must not matter."""
        sent = self.in_flight.popleft()
        for _ in range(copies):
            stored = self._store(sent)
        if sent.connection is not None:
            sent.connection.write(encode_ack(sent.seq, stored.id, stored.time))

    def say(self, channel: str, sender: str, body: bytes) -> Stored:
        """Another player's message, durable at once."""
        return self._store(Sent(channel, sender, body, time=self.now_ms))

    def _store(self, sent: Sent) -> Stored:
        if sent.session:
            known = self.first_copies.get((sent.session, sent.seq))
            if known is not None and known[1] + self.ticket_ms + 10_000 > sent.time:
                return known[0]
        stored = self._chain(sent)
        self.first_copies[sent.session, sent.seq] = (stored, sent.time)
        for connection in self.connections:
            connection.deliver(sent.channel, stored)
        return stored

    def _chain(self, sent: Sent) -> Stored:
        entries = self.channels.setdefault(sent.channel, [])
        last = entries[-1] if entries and sent.channel not in self.restarted else None
        self.restarted.discard(sent.channel)
        sender = sent.sender.encode()
        prev, previous = (last.id, last.hash) if last else (0, 0)
        hash = chain(previous, self.next_id, sender, sent.body)
        stored = Stored(self.next_id, prev, hash, self.now_ms, sent.sender, sent.body)
        self.next_id += self.id_step
        entries.append(stored)
        return stored

    def head(self, channel: str) -> tuple[int, int]:
        entries = self.channels.get(channel)
        return (entries[-1].id, entries[-1].hash) if entries else (0, 0)

    def visible(self, player: str, channel: str, after: int) -> list[Stored]:
        """What a player that held everything up to `after` must have been shown since."""
        return [
            stored
            for stored in self.channels.get(channel, [])
            if stored.id > after and (player, stored.sender) not in self.hidden
        ]

    # Players

    def may_join(self, player: str, channel: str) -> bool:
        if channel.startswith("dm:") and player not in channel.split(":")[1:]:
            return False
        return (player, channel) not in self.banned

    def kick(self, player: str, channel: str) -> None:
        self.banned.add((player, channel))
        for connection in self.connections:
            if connection.player == player and channel in connection.numbers:
                del connection.numbers[channel]
                connection.event(operations.ClosedEvent(channel, ErrorCode.ERROR_NOT_ALLOWED))

    def void_tickets(self) -> None:
        self.tickets.clear()

    def new_epoch(self, epoch: str) -> None:
        """The log is gone; its ids begin anew."""
        self.epoch = epoch
        self.channels.clear()
        self.first_copies.clear()
        self.in_flight.clear()
        self.next_id = 1

    def new_ticket(self, session: int, player: str) -> bytes:
        ticket = b"ticket-%d" % self.next_ticket
        self.next_ticket += 1
        self.tickets[ticket] = (session, player, self.now_ms + self.ticket_ms)
        return ticket

    def conversations(self, player: str) -> dict[str, operations.ConversationState]:
        found = {
            name: operations.ConversationState(entries[-1].id, 0, min(len(entries), 1000))
            for name, entries in self.channels.items()
            if name.startswith("dm:") and player in name.split(":")[1:] and entries
        }
        return dict(sorted(found.items(), key=lambda item: -item[1].head)[:256])

    def connect(self) -> "ModelConnection":
        connection = ModelConnection(self)
        self.connections.append(connection)
        return connection


class ModelConnection:
    """The server's end of one connection."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.player = ""
        self.session = 0
        self.numbers: dict[str, int] = {}
        self.closed = False
        self.draining = False  # sends and requests are refused: the client should be elsewhere
        self.requests: deque[tuple[int, int, bytes]] = deque()
        self.on_output: Callable[[], None] = lambda: None
        self._output = bytearray()
        self._parser = FrameParser()
        self._next_number = 1

    def receive(self, data: bytes) -> None:
        for frame_type, body in self._parser.feed(data):
            self._take(frame_type, body)

    def take_output(self) -> bytes:
        data = bytes(self._output)
        self._output.clear()
        return data

    def lost(self) -> None:
        """The socket is gone."""
        self.closed = True
        if self in self.server.connections:
            self.server.connections.remove(self)

    def write(self, frame: bytes) -> None:
        if not self.closed:
            self._output += frame
            self.on_output()

    def event(self, body: operations.EventBody) -> None:
        self.write(encode_frame(FrameType.FRAME_EVENT, operations.encode_body(body)))

    def close(self, code: int, retry_after_ms: int = 0) -> None:
        error = encode_error(code, default_flags(code), retry_after_ms, b"")
        self.write(encode_frame(FrameType.FRAME_CLOSE, error))
        self.lost()

    def goaway(self, deadline_ms: int, window_ms: int, *, draining: bool = False) -> None:
        self.draining = draining
        self.write(encode_goaway(deadline_ms, window_ms))

    def give_ticket(self) -> None:
        ticket = self.server.new_ticket(self.session, self.player)
        self.event(operations.TicketEvent(ticket, self.server.ticket_ms))

    def deliver(self, channel: str, stored: Stored) -> None:
        if not self.player:
            return
        if channel not in self.numbers:
            if not channel.startswith("dm:") or not self.server.may_join(self.player, channel):
                return
            entries = self.server.channels[channel]
            head, hash = (entries[-2].id, entries[-2].hash) if len(entries) > 1 else (0, 0)
            self.event(operations.OpenedEvent(channel, self._enter(channel), head, hash))
        self._write_delivery(self.numbers[channel], stored)

    def answer_one(self) -> None:
        """Answer the oldest request that waits."""
        request_id, operation, body = self.requests.popleft()
        if self.draining:
            code = ErrorCode.ERROR_SHUTTING_DOWN
            self.write(encode_failed(request_id, encode_error(code, default_flags(code), 0, b"")))
        else:
            self._answer(request_id, operation, body)

    # Frames

    def _take(self, frame_type: int, body: bytes) -> None:
        if self.closed:
            return
        assert len(body) <= FRAME_BYTES, "a client keeps to the limit"
        assert (frame_type == FrameType.FRAME_HELLO) == (not self.player), "HELLO first, and once"
        if frame_type == FrameType.FRAME_HELLO:
            self._hello(body)
        elif frame_type == FrameType.FRAME_PING:
            self.server.n_pings += 1
            self.write(encode_frame(FrameType.FRAME_PONG, body))
        elif frame_type == FrameType.FRAME_SEND:
            self._send(*decode_send(body))
        elif frame_type == FrameType.FRAME_SIGNAL:
            self._signal(*decode_signal(body))
        elif frame_type == FrameType.FRAME_REQUEST:
            self.requests.append(decode_request(body))
            while self.requests and not self.server.deferring:
                self.answer_one()
        else:
            assert frame_type == FrameType.FRAME_PONG, f"a client does not send {frame_type:#x}"

    def _hello(self, body: bytes) -> None:
        version, options = decode_hello(body)
        assert version == 1
        hello = msgspec.msgpack.decode(options, type=operations.Hello)
        session, player, void_after = self.server.tickets.get(hello.ticket, (0, "", 0))
        resumed = session != 0 and void_after >= self.server.now_ms
        if not resumed:
            if not hello.token.startswith("token:"):
                self.close(ErrorCode.ERROR_BAD_TOKEN)
                return
            player = hello.token.removeprefix("token:")
            session = self.server.next_session
            self.server.next_session += 1
        for other in [other for other in self.server.connections if other.session == session]:
            other.lost()
        self.player, self.session = player, session
        self._welcome(resumed, hello.channels)

    def _welcome(self, resumed: bool, wanted: dict[str, int]) -> None:
        channels: dict[str, operations.ChannelState] = {}
        lost: dict[str, int] = {}
        for channel in wanted:
            code = self._join_error(channel)
            if code:
                lost[channel] = code
            else:
                channels[channel] = operations.ChannelState(self._enter(channel), *self.server.head(channel))
        welcome = operations.Welcome(
            player=self.player,
            session=self.session,
            resumed=resumed,
            ticket=self.server.new_ticket(self.session, self.player),
            ticket_ms=self.server.ticket_ms,
            epoch=self.server.epoch,
            time_ms=self.server.now_ms,
            heartbeat_ms=self.server.heartbeat_ms,
            heartbeat_grace_ms=self.server.heartbeat_ms,
            limits=operations.Limits(FRAME_BYTES, BODY_BYTES, 128, 256, 100, 400),
            channels=channels,
            lost=lost,
            conversations=self.server.conversations(self.player),
            server="model",
        )
        self.write(encode_frame(FrameType.FRAME_WELCOME, operations.encode_body(welcome)))

    def _send(self, seq: int, number: int, _flags: int, body: bytes) -> None:
        faults = self.server.faults
        channel = next((name for name, known in self.numbers.items() if known == number), None)
        if channel is None:
            self._refuse(seq, ErrorCode.ERROR_NOT_JOINED)
            return
        if self.draining:
            self._refuse(seq, ErrorCode.ERROR_SHUTTING_DOWN)
            return
        sent = Sent(channel, self.player, body, self.session, seq, self, self.server.now_ms)
        if faults.sends_refused:
            faults.sends_refused -= 1
            self._refuse(seq, ErrorCode.ERROR_RATE_LIMITED)
        elif faults.sends_uncertain:
            faults.sends_uncertain -= 1
            sent.connection = None
            self.server.in_flight.append(sent)
            self._refuse(seq, ErrorCode.ERROR_OUTCOME_UNKNOWN)
        elif faults.sends_forgotten:
            faults.sends_forgotten -= 1
            self._refuse(seq, ErrorCode.ERROR_OUTCOME_UNKNOWN)
        else:
            self.server.in_flight.append(sent)

    def _signal(self, number: int, kind: int, sender: bytes, body: bytes) -> None:
        assert sender == b""
        for channel, known in self.numbers.items():
            for other in self.server.connections:
                if known == number and other is not self and channel in other.numbers:
                    other.write(encode_signal(other.numbers[channel], kind, self.player.encode(), body))

    def _refuse(self, seq: int, code: int) -> None:
        self.write(encode_refused(seq, encode_error(code, default_flags(code), 0, b"")))

    # Requests

    def _answer(self, request_id: int, operation: int, body: bytes) -> None:
        request = msgspec.msgpack.decode(body, type=operations.REQUEST_TYPES[operations.Operation(operation)])
        try:
            reply = self._reply_to(request, operation)
        except RefusedError as refused:
            error = encode_error(refused.code, default_flags(refused.code), refused.retry_after_ms, b"")
            self.write(encode_failed(request_id, error))
        else:
            self.write(encode_reply(request_id, operations.encode_body(reply)))

    def _reply_to(self, request: msgspec.Struct, operation: int) -> msgspec.Struct:
        if isinstance(request, operations.SyncRequest):
            return self._sync(request)
        if operation == operations.Operation.JOIN:
            assert isinstance(request, operations.ChannelRequest)
            return self._join(request.channel)
        if operation == operations.Operation.LEAVE:
            assert isinstance(request, operations.ChannelRequest)
            self.numbers.pop(request.channel, None)
        if operation == operations.Operation.MEMBERS:
            assert isinstance(request, operations.ChannelRequest)
            here = sorted({other.player for other in self.server.connections if request.channel in other.numbers})
            return operations.MembersReply([operations.MemberState(player, "", "online") for player in here])
        if operation == operations.Operation.CONVERSATIONS:
            return operations.ConversationsReply(self.server.conversations(self.player))
        return operations.Empty()

    def _join_error(self, channel: str) -> int:
        if not self.server.may_join(self.player, channel):
            return ErrorCode.ERROR_NOT_ALLOWED
        if self.server.faults.joins_refused:
            self.server.faults.joins_refused -= 1
            return ErrorCode.ERROR_RELATIONS_UNAVAILABLE
        return 0

    def _join(self, channel: str) -> operations.JoinReply:
        code = self._join_error(channel)
        if code:
            raise RefusedError(code)
        return operations.JoinReply(channel, self._enter(channel), *self.server.head(channel))

    def _sync(self, request: operations.SyncRequest) -> operations.SyncReply:
        server = self.server
        if not server.may_join(self.player, request.channel):
            raise RefusedError(ErrorCode.ERROR_NOT_ALLOWED)
        if server.faults.syncs_refused:
            server.faults.syncs_refused -= 1
            raise RefusedError(ErrorCode.ERROR_HISTORY_UNAVAILABLE, 100)
        entries = list(server.channels.get(request.channel, []))
        if server.faults.syncs_behind:
            server.faults.syncs_behind -= 1
            entries = [stored for stored in entries if stored.id <= server.history_ends.get(request.channel, 0)]
        if request.before:
            found = [stored for stored in entries if stored.id < request.before]
            page, more = found[-request.limit :], len(found) > request.limit
        else:
            found = [stored for stored in entries if stored.id > request.after]
            page, more = found[: request.limit], len(found) > request.limit
        head = server.head(request.channel)[0]
        return operations.SyncReply([self._entry(stored) for stored in page], more, head)

    # Small parts

    def _enter(self, channel: str) -> int:
        if channel not in self.numbers:
            self.numbers[channel] = self._next_number
            self._next_number += 1
        return self.numbers[channel]

    def _is_hidden(self, stored: Stored) -> bool:
        return (self.player, stored.sender) in self.server.hidden

    def _entry(self, stored: Stored) -> operations.Entry:
        head = (stored.id, stored.prev, stored.hash, stored.time)
        if self._is_hidden(stored):
            return operations.Entry(*head, DeliverFlag.DELIVER_HIDDEN, "", b"")
        return operations.Entry(*head, 0, stored.sender, stored.body)

    def _write_delivery(self, number: int, stored: Stored) -> None:
        faults = self.server.faults
        if faults.deliveries_left_out:
            faults.deliveries_left_out -= 1
            self.write(encode_gap(number, stored.prev, stored.id))
            return
        prev, hash = stored.prev, stored.hash
        if faults.prevs_unknown:
            faults.prevs_unknown -= 1
            prev, hash = UNKNOWN_ID, 0
        entry = self._entry(stored)
        frame = encode_deliver(
            number, entry.flags, stored.id, prev, hash, stored.time, entry.sender.encode(), entry.body
        )
        self.write(frame)


class RefusedError(Exception):
    def __init__(self, code: int, retry_after_ms: int = 0) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after_ms = retry_after_ms
