"""The connections of one process of a load: opens, logs in, joins, comes back after a loss, and heals what was missed.

Speaks the frames that come once per connection; chatcore_ext.load_clients does all that comes once per message. Knows
no phases: load_process.py drives it.
"""

import errno
import heapq
import os
import random
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from chatcore import operations
from chatcore.backoff import Reconnect
from chatcore.errors import ChatError, error_from_body
from chatcore.operations import Operation, encode_body
from chatcore_ext.constants import PROTOCOL_VERSION, FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import FrameError, decode_goaway, decode_reply, encode_hello, encode_request
from chatcore_ext.load_clients import EVENT_FRAME, EVENT_HEAL, EVENT_LOST, Event, LoadClients
from chatcore_server.authentication import make_token
from chatcore_server.load_plan import ClientPlan, LoadError, LoadOptions, Share

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

CONNECTIONS_PER_ADDRESS = 20_000  # Linux has 28,232 ephemeral ports by default (ip_local_port_range), less what is used
_MANY_CONNECTIONS = 28_000  # from here on one source address is not enough
_IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen at connect(), per destination
_GREETING_S = 15.0  # a connection without WELCOME for as long is tried anew: above the server's hello_timeout_ms
_SYNC_LIMIT = 500  # entries, the protocol's highest
_FIRST_SYNC_DELAY_MS = 50
_LAST_SYNC_DELAY_MS = 2_000
_SYNC_TRIES = 12  # without progress, before a hole is taken for good
_TOKEN_SPARE_S = 3_600  # a token outlives the run by as much: a storm may need it again

_decode_welcome = msgspec.msgpack.Decoder(operations.Welcome).decode
_decode_joined = msgspec.msgpack.Decoder(operations.JoinReply).decode
_decode_synced = msgspec.msgpack.Decoder(operations.SyncReply).decode

# A request's id says what it was about: the slot, then this.
_JOIN, _SYNC, _LOGOUT = range(3)
_KINDS = 4


@dataclass(slots=True)
class _Client:
    plan: ClientPlan
    token: str = ""
    ticket: bytes = b""
    attempts: int = 0  # to connect, without a WELCOME
    resumed: bool = False
    is_greeted: bool = False  # on this connection
    has_been_ready: bool = False
    gave_up: bool = False
    opened_ns: int = 0
    empty_syncs: dict[int, int] = field(default_factory=dict)  # by slot


class LoadConnections:
    """One thread. Call `turn` all the time."""

    def __init__(self, share: Share, options: LoadOptions, key: bytes) -> None:
        self.clients = LoadClients(share.run, options.body_bytes)
        self.is_starting = True  # until all were ready once, a failure ends the load
        self.closed: dict[str, int] = {}
        self.disconnected = 0
        self.reconnected = 0
        self.new_sessions = 0
        self.n_greeting = 0
        self.server = ""
        self.has_answered = False  # by a frame, on any connection
        self.last_trouble = "it sends nothing that could be a frame"
        self.on_ready: Callable[[int, bool], None] = lambda client, resumed: None
        self._options = options
        self._key = key
        self._lifetime_s = int(options.ramp_s + options.duration_s) + _TOKEN_SPARE_S
        self._backoff = Reconnect(first_ms=50, limit_ms=1_000)
        self._random = random.Random(options.seed + share.index)
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._n_timers = 0
        self._healing: set[tuple[int, int]] = set()
        self._family, self._address = _resolve(options)
        self._first_address = share.index * -(-options.connections // options.processes)
        self._all: list[_Client] = []
        self._add_clients(share)

    def _add_clients(self, share: Share) -> None:
        indexes: dict[str, int] = {}
        for plan in share.clients:
            for channel in plan.channels:
                if channel not in indexes:
                    indexes[channel] = self.clients.add_channel()
            self.clients.add_client(plan.name.encode(), [indexes[channel] for channel in plan.channels])
            self._all.append(_Client(plan))

    @property
    def is_healing(self) -> bool:
        return bool(self._healing)

    @property
    def absent(self) -> int:
        return len(self._all) - self.clients.n_ready

    @property
    def n_given_up(self) -> int:
        return sum(client.gave_up for client in self._all)

    def close(self) -> None:
        self.clients.close_all()

    # ---- Opening -----------------------------------------------------------------------------------------------------

    def open(self, index: int) -> None:
        """Connect and say HELLO. Raises LoadError if this machine cannot have one more connection."""
        client = self._all[index]
        if client.gave_up or self.clients.is_open(index):
            return
        client.is_greeted = False
        client.opened_ns = self.clients.now_ns()
        self.n_greeting += 1
        connection, problem = self._connect(index)
        if connection is None:
            self._lost(index, problem)
            return
        descriptor = connection.detach()
        try:
            self.clients.open(index, descriptor, self._hello(index))
        except OSError:
            os.close(descriptor)
            raise
        self.after_ms(_GREETING_S * 1000, lambda: self._check_greeting(index, client.opened_ns))

    def _connect(self, index: int) -> tuple[socket.socket | None, int]:
        try:
            connection = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise LoadError(f"cannot open connection {index}: {error.strerror}. Raise `ulimit -n`") from None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            source = self._source_address(index)
            if source:
                connection.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
                connection.bind((source, 0))
            problem = connection.connect_ex(self._address)
        except OSError as error:
            problem = error.errno or errno.EIO
        if problem in (0, errno.EINPROGRESS):
            return connection, 0
        connection.close()
        if problem == errno.EADDRNOTAVAIL and self.is_starting:
            raise LoadError(
                f"no free port for connection {index}: this address has used up its ephemeral ports. Use fewer"
                " --connections, widen net.ipv4.ip_local_port_range, or run from several machines"
            )
        return None, problem

    def _source_address(self, index: int) -> str:
        """Loopback has more addresses than one, and each its own ports."""
        is_loopback = self._family == socket.AF_INET and str(self._address[0]).startswith("127.")
        if not is_loopback or self._options.connections <= _MANY_CONNECTIONS:
            return ""
        return f"127.0.0.{2 + (self._first_address + index) // CONNECTIONS_PER_ADDRESS}"

    def _token(self, player: str) -> str:
        audience, issuer = self._options.audience, self._options.issuer
        return make_token(self._key, player, self._lifetime_s, audience=audience, issuer=issuer)

    def _hello(self, index: int) -> bytes:
        client = self._all[index]
        if not client.token:
            client.token = self._token(client.plan.name)
        hello = operations.Hello(token=client.token, ticket=client.ticket, client="chatcore load")
        if client.has_been_ready:
            names = enumerate(client.plan.channels)
            hello.channels = {name: self.clients.last_id(index, slot) for slot, name in names}
        return encode_hello(PROTOCOL_VERSION, encode_body(hello))

    def _check_greeting(self, index: int, opened_ns: int) -> None:
        client = self._all[index]
        if not client.is_greeted and client.opened_ns == opened_ns and self.clients.is_open(index):
            self.clients.drop_connection(index)
            self._lost(index, errno.ETIMEDOUT)

    def drop(self, index: int) -> None:
        """As if the player's phone had lost its network."""
        if not self._all[index].is_greeted and self.clients.is_open(index):
            self.n_greeting -= 1
        self.clients.drop_connection(index)
        self._forget_syncs(index)

    def say_goodbye(self) -> None:
        """End the sessions, so that nobody waits for these players."""
        for index in range(len(self._all)):
            self._request(index, 0, _LOGOUT, Operation.LOGOUT, operations.Empty())

    @property
    def is_all_closed(self) -> bool:
        return not any(self.clients.is_open(index) for index in range(len(self._all)))

    # ---- Time --------------------------------------------------------------------------------------------------------

    def turn(self, timeout_ms: int) -> None:
        """Send, receive and deal with what came. Raises LoadError."""
        now = self.clients.now_ns()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
        if self._timers:
            timeout_ms = min(timeout_ms, max(0, (self._timers[0][0] - now) // NS_PER_MS + 1))
        for event in self.clients.turn(timeout_ms):
            self._handle(event)

    def after_ms(self, delay_ms: float, action: Callable[[], None]) -> None:
        self._n_timers += 1
        due = self.clients.now_ns() + int(delay_ms * NS_PER_MS)
        heapq.heappush(self._timers, (due, self._n_timers, action))

    # ---- What came ---------------------------------------------------------------------------------------------------

    def _handle(self, event: Event) -> None:
        kind, index, number, body = event
        if kind == EVENT_LOST:
            self._lost(index, number)
        elif kind == EVENT_HEAL:
            self._sync(index, number)
        elif kind == EVENT_FRAME:
            try:
                self._on_frame(index, number, body)
            except (FrameError, msgspec.MsgspecError) as problem:
                raise LoadError(f"the server's answer is not the protocol's: {problem}") from None

    def _on_frame(self, index: int, frame_type: int, body: bytes) -> None:
        self.has_answered = True
        if frame_type == FrameType.FRAME_REPLY:
            self._on_reply(index, *decode_reply(body))
        elif frame_type == FrameType.FRAME_WELCOME:
            self._on_welcome(index, _decode_welcome(body))
        elif frame_type == FrameType.FRAME_EVENT:
            self._on_event(index, body)
        elif frame_type == FrameType.FRAME_FAILED:
            request_id, error = decode_reply(body)
            self._on_failed(index, request_id, error_from_body(error))
        elif frame_type == FrameType.FRAME_CLOSE:
            self._on_close(index, error_from_body(body))
        elif frame_type == FrameType.FRAME_GOAWAY:
            self._on_goaway(index, decode_goaway(body)[1])

    def _lost(self, index: int, problem: int, *, at_least_ms: int = 0) -> None:
        """The connection is gone, or there never was one."""
        client = self._all[index]
        if not client.is_greeted:
            self.n_greeting -= 1
            self.last_trouble = os.strerror(problem) if problem else "the server closed the connection"
            if self.is_starting and problem == errno.ECONNREFUSED:
                raise LoadError(
                    f"no server at {self._options.host}:{self._options.port}. Start one with `chatcore serve`, or name"
                    " its address: chatcore load HOST:PORT"
                )
        else:
            self.disconnected += 1
            client.is_greeted = False
        self._forget_syncs(index)
        delay_ms = self._backoff.delay_ms(client.attempts, at_least_ms)
        client.attempts += 1
        self.after_ms(delay_ms, lambda: self.open(index))

    def _on_close(self, index: int, error: ChatError) -> None:
        client = self._all[index]
        self.closed[error.name] = self.closed.get(error.name, 0) + 1
        self.last_trouble = str(error)
        if self.is_starting and not client.is_greeted:
            self._explain(error)
        self.clients.drop_connection(index)
        if error.retry:
            self._lost(index, 0, at_least_ms=error.retry_after_ms)
        else:
            self.n_greeting -= not client.is_greeted
            client.is_greeted = False
            client.gave_up = True
            self._forget_syncs(index)

    def _explain(self, error: ChatError) -> None:
        """A refused login while the load is set up: some pass by themselves, the others end it."""
        known: dict[int, str] = {
            ErrorCode.ERROR_BAD_TOKEN: "tokens are signed with another key or for another audience. Name the server's"
            " data folder with --data, or its HS256 secret with --secret-file; its authentication.audience and issuer"
            " with --audience and --issuer",
            ErrorCode.ERROR_TOO_MANY_CONNECTIONS: "it is full: raise its limits.connections or use fewer --connections",
            ErrorCode.ERROR_TOO_MANY_SESSIONS: "another load with the same --seed is running or has just been killed:"
            " use another --seed",
        }
        # With a wait it is a limit of this address, which passes or runs into the patience of the ramp.
        advice = None if error.retry_after_ms else known.get(error.code)
        if advice or not error.retry:
            raise LoadError(f"the server refused a login ({error}): {advice or 'see docs/protocol.md, Errors'}")

    def _on_goaway(self, index: int, window_ms: int) -> None:
        """Finish what is under way, then come back at a time of one's own."""
        self.clients.quiet(index)
        opened_ns = self._all[index].opened_ns

        def leave() -> None:
            if self.clients.is_open(index) and self._all[index].opened_ns == opened_ns:
                self.clients.drop_connection(index)
                self._lost(index, 0)

        self.after_ms(self._random.uniform(0, window_ms), leave)

    # ---- Logging in --------------------------------------------------------------------------------------------------

    def _on_welcome(self, index: int, welcome: operations.Welcome) -> None:
        client = self._all[index]
        limits = welcome.limits
        if self._options.body_bytes > limits.body_bytes:
            raise LoadError(
                f"--body-bytes {self._options.body_bytes} is over what the server takes: limits.body_bytes is"
                f" {limits.body_bytes}"
            )
        self.clients.set_limits(limits.unacked_sends, welcome.heartbeat_ms, welcome.heartbeat_grace_ms)
        self.server = welcome.server
        self.n_greeting -= 1
        client.is_greeted = True
        client.attempts = 0
        client.ticket = welcome.ticket
        client.resumed = welcome.resumed
        if client.has_been_ready:
            self.reconnected += 1
            self.new_sessions += not welcome.resumed
        for slot, name in enumerate(client.plan.channels):
            state = welcome.channels.get(name)
            if state is None:
                self._join(index, slot)
            else:
                self._enter(index, slot, state.number, state.head, state.hash)
        self._check_ready(index)

    def _enter(self, index: int, slot: int, number: int, head: int, hash: int) -> None:
        if self.clients.enter(index, slot, number, head, hash):
            self._sync(index, slot)

    def _check_ready(self, index: int) -> None:
        client = self._all[index]
        if all(self.clients.is_joined(index, slot) for slot in range(len(client.plan.channels))):
            was_ready = client.has_been_ready
            client.has_been_ready = True
            self.clients.ready(index, client.resumed or not was_ready)
            self.on_ready(index, client.resumed)

    def _join(self, index: int, slot: int) -> None:
        request = operations.ChannelRequest(self._all[index].plan.channels[slot])
        self._request(index, slot, _JOIN, Operation.JOIN, request)

    def _request(self, index: int, slot: int, kind: int, operation: Operation, body: msgspec.Struct) -> None:
        self.clients.write(index, encode_request(slot * _KINDS + kind, operation, encode_body(body)))

    def _on_reply(self, index: int, request_id: int, body: bytes) -> None:
        slot, kind = divmod(request_id, _KINDS)
        if kind == _SYNC:
            self._on_synced(index, slot, _decode_synced(body))
        elif kind == _JOIN and not self.clients.is_joined(index, slot):  # an `opened` event may have been faster
            reply = _decode_joined(body)
            self._enter(index, slot, reply.number, reply.head, reply.hash)
            self._check_ready(index)

    def _on_failed(self, index: int, request_id: int, error: ChatError) -> None:
        slot, kind = divmod(request_id, _KINDS)
        self.last_trouble = str(error)
        delay_ms = max(error.retry_after_ms, _FIRST_SYNC_DELAY_MS)
        if kind == _SYNC:
            if error.retry:
                self._later(index, delay_ms, lambda: self._sync(index, slot))
            else:
                self._end_sync(index, slot)
        elif kind == _JOIN and error.retry:
            self._later(index, delay_ms, lambda: self._join(index, slot))
        elif kind == _JOIN:
            plan = self._all[index].plan
            raise LoadError(f"{plan.name} may not join {plan.channels[slot]}: {error}")

    def _later(self, index: int, delay_ms: float, action: Callable[[], None]) -> None:
        """If the connection is still the same then."""
        opened_ns = self._all[index].opened_ns

        def act() -> None:
            if self._all[index].opened_ns == opened_ns and self._all[index].is_greeted:
                action()

        self.after_ms(delay_ms, act)

    def _on_event(self, index: int, body: bytes) -> None:
        try:
            event = operations.decode_event(body)
        except msgspec.ValidationError:
            return  # of a later version
        client = self._all[index]
        if isinstance(event, operations.TicketEvent):
            client.ticket = event.ticket
        elif isinstance(event, operations.OpenedEvent) and event.channel in client.plan.channels:
            slot = client.plan.channels.index(event.channel)
            if not self.clients.is_joined(index, slot):
                self._enter(index, slot, event.number, event.head, event.hash)
                self._check_ready(index)

    # ---- Healing -----------------------------------------------------------------------------------------------------

    def _sync(self, index: int, slot: int) -> None:
        self._healing.add((index, slot))
        channel = self._all[index].plan.channels[slot]
        request = operations.SyncRequest(channel, after=self.clients.last_id(index, slot), limit=_SYNC_LIMIT)
        self._request(index, slot, _SYNC, Operation.SYNC, request)

    def _on_synced(self, index: int, slot: int, reply: operations.SyncReply) -> None:
        client, now = self._all[index], self.clients.now_ns()
        before = self.clients.last_id(index, slot)
        for entry in reply.entries:
            sender = entry.sender.encode()
            self.clients.take_history(
                index, slot, entry.id, entry.prev, entry.hash, entry.flags, sender, entry.body, now
            )
        has_progress = self.clients.last_id(index, slot) > before
        empty = 0 if has_progress else client.empty_syncs.get(slot, 0) + 1
        client.empty_syncs[slot] = empty
        if not self.clients.synced(index, slot, reply.more and has_progress, empty <= _SYNC_TRIES, now):
            self._end_sync(index, slot)
        elif has_progress:
            self._sync(index, slot)
        else:
            delay_ms = min(_FIRST_SYNC_DELAY_MS << empty, _LAST_SYNC_DELAY_MS)
            self._later(index, delay_ms, lambda: self._sync(index, slot))

    def _end_sync(self, index: int, slot: int) -> None:
        if self.clients.is_healing(index, slot):
            self.clients.synced(index, slot, False, False, self.clients.now_ns())
        self._all[index].empty_syncs.pop(slot, None)
        self._healing.discard((index, slot))

    def _forget_syncs(self, index: int) -> None:
        """Their answers will never come; WELCOME's heads begin new ones."""
        self._all[index].empty_syncs.clear()
        for slot in range(len(self._all[index].plan.channels)):
            self._healing.discard((index, slot))


def _resolve(options: LoadOptions) -> tuple[int, tuple[str | int | bytes, ...]]:
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise LoadError(f"{options.host} is no address: {error.strerror or error}") from None
    family, _, _, _, address = found[0]
    return family, address
