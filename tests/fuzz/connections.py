"""The connection state machine: a hub with several connections, driven by whatever the bytes say.

Each action is one byte and its arguments: connections come, greet, send whole frames, changed ones, parts of them and
noise, stop reading, and go; Python attaches, joins, leaves, removes, answers; the log delivers; time passes. After each
action the hub's tables agree with one another (`World.pump` checks them). Beyond that:

- every EVENT_HELLO is followed by exactly one EVENT_DISCONNECTED, and no event names a connection outside of the two;
- what the hub sends is whole frames that a client may get, with nothing after CLOSE;
- deliveries come in order, once, and to those alone who have joined and not left;
- when all have left and time has passed, nothing is left of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from chatcore_ext import frame as codec
from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.hub import EVENT_DISCONNECTED, EVENT_EXPIRED, EVENT_HELLO, EVENT_REQUEST, EVENT_SEND
from fuzz.reading import Reader
from support.hub_world import MAX_SERVER_BODY, Peer, TransportPeer, World

MAX_ACTIONS = 120
MAX_PEERS = 8
GRACE_MS = 1000
PLAYERS = [b"ann", b"bob", b"cid"]
CHANNELS = [b"room:a", b"group:b", b"dm:ann:bob", b"room:c"]
CODES = [ErrorCode.ERROR_RATE_LIMITED, ErrorCode.ERROR_LOGGED_OUT, ErrorCode.ERROR_INTERNAL]
FROM_SERVER = {
    FrameType.FRAME_WELCOME, FrameType.FRAME_PING, FrameType.FRAME_PONG, FrameType.FRAME_GOAWAY, FrameType.FRAME_CLOSE,
    FrameType.FRAME_ACK, FrameType.FRAME_REFUSED, FrameType.FRAME_DELIVER, FrameType.FRAME_SIGNAL, FrameType.FRAME_GAP,
    FrameType.FRAME_REPLY, FrameType.FRAME_FAILED, FrameType.FRAME_EVENT,
}  # fmt: skip


@dataclass
class Client:
    peer: Peer
    parser: codec.FrameParser = field(default_factory=lambda: codec.FrameParser(MAX_SERVER_BODY))
    unsent: bytes = b""  # the rest of a frame of which a part was sent
    is_reading: bool = True
    is_gone: bool = False  # it has hung up
    is_told: bool = False  # EVENT_HELLO, and not yet EVENT_DISCONNECTED
    was_told: bool = False
    is_closed: bool = False  # it has got CLOSE
    numbers: dict[int, bytes] = field(default_factory=dict)  # every number that it was ever given, and its channel
    left: dict[int, int] = field(default_factory=dict)  # number -> the last message that it may still get
    newest: dict[int, int] = field(default_factory=dict)  # channel number -> id of the last DELIVER


def one_input(data: bytes) -> None:
    Conversation(Reader(data)).run()


class Conversation:
    def __init__(self, read: Reader) -> None:
        self.read = read
        self.world = World(
            read.one_of(["socket", "transport"]),
            resume_grace_ms=GRACE_MS,
            max_channels_per_connection=2,
            max_connections=6,
            max_half_open=4,
            max_pending_size=read.one_of([1 << 16, 3000]),
            max_frame_size=1024,
            frames_per_second=20,
            frame_burst=20,
            flush_window_us=read.one_of([0, 5000]),
        )
        self.clients: list[Client] = []
        self.by_handle: dict[int, Client] = {}
        self.joins: list[tuple[int, bytes, int]] = []
        self.next_session = 0

    def run(self) -> None:
        with self.world:
            self._open()
            for _ in range(MAX_ACTIONS):
                if not self.read:
                    break
                action = self.read.one_of(ACTIONS)
                action(self)
                self._look()
            self._leave_no_trace()

    # ---- What must hold ----------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self.world.pump()
        events, self.world.events = self.world.events, []
        for kind, *fields in events:
            if kind == EVENT_HELLO:
                client = self.by_handle[fields[0]]  # type: ignore[index]
                assert not client.was_told, "greeted twice"
                client.is_told = client.was_told = True
            elif kind in (EVENT_REQUEST, EVENT_SEND):
                assert self.by_handle[fields[0]].is_told, "an event of a connection that is not there"  # type: ignore[index]
            elif kind == EVENT_DISCONNECTED:
                client = self.by_handle[fields[0]]  # type: ignore[index]
                assert client.is_told, "disconnected twice, or before it was greeted"
                client.is_told = False
            else:
                assert kind == EVENT_EXPIRED
        for client in self.clients:
            if client.is_reading and not client.is_gone:
                self._receive(client)

    def _receive(self, client: Client) -> None:
        for frame_type, body in client.parser.feed(client.peer.receive()):
            assert not client.is_closed, "something after CLOSE"
            assert frame_type in FROM_SERVER
            if frame_type == FrameType.FRAME_CLOSE:
                code, _, _, name, _ = codec.decode_error(body)
                assert code and name
                client.is_closed = True
            elif frame_type == FrameType.FRAME_DELIVER:
                number, _, id, *_ = codec.decode_deliver(body)
                assert number in client.numbers, "a message of a channel that it was never in"
                assert id <= client.left.get(number, id), "a message of a channel that it has left"
                assert id > client.newest.get(number, 0), "out of order, or twice"
                client.newest[number] = id

    def _leave_no_trace(self) -> None:
        for client in self.clients:
            client.is_gone = True
            client.peer.close()
        for join in self.joins:
            self.world.hub.cancel_join(*join)
        self._look()
        for _ in range(3):
            self.world.pass_time(60_000)
            self._look()
        assert not any(client.is_told for client in self.clients), "an end that was never told"
        figures = self.world.hub.counters()
        for name in ("connections", "sessions", "players", "channels", "subscriptions"):
            assert figures[name] == 0, (name, figures[name])
        assert self.world.hub.pending_output == 0

    # ---- Peers -------------------------------------------------------------------------------------------------------

    def _client(self) -> Client:
        return self.read.one_of(self.clients)

    def _open(self) -> None:
        if len(self.clients) < MAX_PEERS:
            peer = self.world.open()
            client = Client(peer)
            self.clients.append(client)
            self.by_handle[peer.handle] = client

    def _send(self, client: Client, data: bytes) -> None:
        if client.is_gone:
            return
        try:
            client.peer.send(client.unsent + data)
        except OSError:  # the hub has hung up, or takes no more
            pass
        client.unsent = b""

    def _hello(self) -> None:
        self._send(self._client(), codec.encode_hello(self.read.one_of([1, 1, 1, 0]), b"\x80"))

    def _noise(self) -> None:
        self._send(self._client(), self.read.text())

    def _frame(self) -> bytes:
        number, body = self.read.number(), self.read.text()
        kind = self.read.one_of(["send", "signal", "ping", "request", "pong", "any"])
        if kind == "send":
            return codec.encode_send(self.read.number(), number, self.read.number(), body)
        if kind == "signal":
            return codec.encode_signal(
                number, self.read.one_of([1, 128]), self.read.one_of([b"", b"", b"x"]), body[:64]
            )
        if kind == "request":
            return codec.encode_request(number, self.read.number(), body)
        types: dict[str, int] = {"ping": FrameType.FRAME_PING, "pong": FrameType.FRAME_PONG, "any": number}
        return codec.encode_frame(types[kind], body[:8].ljust(8, b"."))

    def _whole(self) -> None:
        self._send(self._client(), self._frame())

    def _changed(self) -> None:
        frame = bytearray(self._frame())
        frame[self.read.number() % len(frame)] ^= self.read.number()
        self._send(self._client(), bytes(frame))

    def _part(self) -> None:
        client, frame = self._client(), self._frame()
        size = self.read.number() % len(frame)
        self._send(client, frame[:size])
        client.unsent = frame[size:]

    def _flood(self) -> None:
        self._send(self._client(), self._frame() * self.read.number())

    def _hang_up(self) -> None:
        client = self._client()
        client.is_gone = True
        client.peer.close()

    def _stop_or_go(self) -> None:
        """Stop reading, or read again."""
        client = self._client()
        client.is_reading = not client.is_reading
        if isinstance(client.peer, TransportPeer) and not client.peer.lost:
            (client.peer.link.resume_writing if client.is_reading else client.peer.link.pause_writing)()

    # ---- Python ------------------------------------------------------------------------------------------------------

    def _handle(self) -> int:
        return self._client().peer.handle

    def _attach(self) -> None:
        handle, player = self._handle(), self.read.one_of(PLAYERS)
        self.next_session += 1
        older = self.world.hub.sessions_of(player)
        session = older[0][0] if older and self.read.below(2) else self.next_session
        assert self.world.hub.attach(handle, session, player) >= 0

    def _begin_join(self) -> None:
        handle, channel = self._handle(), self.read.one_of(CHANNELS)
        generation = self.world.hub.begin_join(handle, channel)
        if generation:
            self.joins.append((handle, channel, generation))

    def _end_join(self) -> None:
        if not self.joins:
            return
        join = self.joins.pop(self.read.number() % len(self.joins))
        if self.read.below(4) == 0:
            self.world.hub.cancel_join(*join)
            return
        self._complete(join, bool(self.read.below(4)))

    def _complete(self, join: tuple[int, bytes, int], may_send: bool) -> None:
        number = self.world.hub.complete_join(*join, may_send)
        if number:
            client = self.by_handle[join[0]]
            client.numbers[number] = join[1]
            client.left.pop(number, None)

    def _note_left(self, handle: int, channel: bytes) -> None:
        client = self.by_handle[handle]
        client.left |= {number: self.world.offset for number, name in client.numbers.items() if name == channel}

    def _join(self) -> None:
        handle, channel = self._handle(), self.read.one_of(CHANNELS)
        generation = self.world.hub.begin_join(handle, channel)
        if generation:
            self._complete((handle, channel, generation), True)

    def _leave(self) -> None:
        handle, channel = self._handle(), self.read.one_of(CHANNELS)
        if self.world.hub.leave(handle, channel):
            self._note_left(handle, channel)

    def _change_rights(self) -> None:
        hub, player, channel = self.world.hub, self.read.one_of(PLAYERS), self.read.one_of(CHANNELS)
        change = self.read.below(4)
        if change == 0:
            for handle in hub.remove_player(player, channel):
                self._note_left(handle, channel)
        elif change == 1:
            hub.set_may_send(player, channel, bool(self.read.below(2)), ErrorCode.ERROR_NOT_ALLOWED)
        else:
            (hub.hide if change == 2 else hub.show)(player, self.read.one_of(PLAYERS))

    def _end(self) -> None:
        code = self.read.one_of(CODES)
        if self.read.below(2):
            self.world.hub.close_connection(self._handle(), code, self.read.text())
        else:
            self.world.hub.end_session(1 + self.read.below(8), code)

    def _answer(self) -> None:
        hub, handle, number, body = self.world.hub, self._handle(), self.read.number(), self.read.text()
        answers: list[Callable[[], object]] = [
            lambda: hub.welcome(handle, body),
            lambda: hub.reply(handle, number, body * 8),
            lambda: hub.event(handle, body),
            lambda: hub.fail(handle, number, ErrorCode.ERROR_BAD_REQUEST, body),
            lambda: hub.refuse(handle, number, ErrorCode.ERROR_OVERLOADED, 100, bool(number % 2)),
            lambda: hub.ack([(handle, number, number + 1, 1000)]),
            lambda: hub.event_to_player(PLAYERS[number % 3], body),
            lambda: hub.event_to_channel(CHANNELS[number % 4], body, handle),
            lambda: hub.signal(CHANNELS[number % 4], 1, PLAYERS[number % 3], body[:64]),
            lambda: hub.goaway(1000, 500),
        ]
        self.read.one_of(answers)()

    # ---- The log and time --------------------------------------------------------------------------------------------

    def _say(self) -> None:
        channel, sender, body = self.read.one_of(CHANNELS), self.read.one_of(PLAYERS), self.read.text()
        record = self.world.record(channel, sender, body, session=self.read.below(3), seq=self.read.number() or None)
        copies = self.read.one_of([1, 1, 2])
        self.world.hub.deliver(0, [(record[0] + copy, *record[1:]) for copy in range(copies)])
        self.world.offset += copies - 1

    def _records_of_noise(self) -> None:
        self.world.offset += 1
        value = self.read.one_of([b"", b"\1\1", b"\1\2"]) + self.read.text()
        self.world.hub.deliver(0, [(self.world.offset, 5000, self.read.one_of(CHANNELS), value)])

    def _much(self) -> None:
        """Enough for those who do not read to fall behind."""
        channel, body = self.read.one_of(CHANNELS), bytes(1000)
        self.world.hub.deliver(0, [self.world.record(channel, b"bob", body) for _ in range(self.read.below(100))])

    def _pass_time(self) -> None:
        self.world.pass_time(self.read.one_of([50, 300, GRACE_MS + 100, 6000, 50_000]))


ACTIONS: list[Callable[[Conversation], None]] = [
    Conversation._open, Conversation._hello, Conversation._noise, Conversation._whole, Conversation._whole,
    Conversation._changed, Conversation._part, Conversation._flood, Conversation._hang_up, Conversation._stop_or_go,
    Conversation._attach, Conversation._begin_join, Conversation._end_join, Conversation._join, Conversation._leave,
    Conversation._change_rights, Conversation._end, Conversation._answer, Conversation._say,
    Conversation._records_of_noise, Conversation._much, Conversation._pass_time,
]  # fmt: skip
