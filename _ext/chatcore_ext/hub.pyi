from collections.abc import Callable, Sequence
from typing import Final, final

from chatcore_ext.log_view import LogView

# The kinds of the tuples that `run_burst`, `tick` and `take_events` return; the kind is each tuple's first item.
EVENT_HELLO: Final[int]  # (kind, connection, version, body: bytes)
EVENT_REQUEST: Final[int]  # (kind, connection, request_id, operation, body: bytes)
EVENT_SEND: Final[int]  # (kind, connection, seq, flags, channel: bytes, record: bytes)
# Told of every connection whose EVENT_HELLO was told, once. Before `attach` session_id is 0 and player is b"". `code`
# 0: the peer left or the socket broke. A session that `end_session` ended or another connection took over is named too.
# `channels`: what it had joined; it is out of them when this is told.
EVENT_DISCONNECTED: Final[int]  # (kind, connection, session_id, player: bytes, code, channels: list[bytes])
# A session was without a connection for resume_grace_ms and is forgotten. Not told after `end_session`.
EVENT_EXPIRED: Final[int]  # (kind, session_id, player: bytes, sessions_left)

Event = tuple[object, ...]

@final
class Hub:
    """All connections, sessions and channels of one worker, and the turn that moves bytes between them.

    Loop thread only. Connections are named by int handles that carry a generation: every method is harmless with the
    handle of a connection that is gone (it returns False, 0 or None). Output is only appended; `flush` sends it, one
    system call per dirty connection, and must be called once per turn when `dirty` is true. `run_burst` flushes itself
    before it returns, so what Python appends while it works through the events needs one more `flush`.
    """
    def __init__(
        self,
        view: LogView,
        *,
        on_direct: Callable[[bytes, list[int]], None],
        on_control: Callable[[bytes, int, int, bytes], None],
        max_frame_size: int = ...,
        max_pending_size: int = ...,
        max_connections: int = ...,
        max_channels_per_connection: int = ...,
        max_body_size: int = ...,
        hello_timeout_ms: int = ...,
        heartbeat_timeout_ms: int = ...,
        frames_per_second: int = ...,
        frame_burst: int = ...,
        resume_grace_ms: int = ...,
    ) -> None:
        """`on_direct(channel, connections)`: a message of a private chat is about to be delivered and these connections
        of its players are not in the channel; the callee subscribes and tells them (`opened`).
        `on_control(channel, offset, time, body)`: a control record, in log order.
        An exception of either callback comes out of `deliver`, after the rest of the batch has been delivered.

        max_body_size: bytes of a SEND's message body, at most (and by default) what fits into max_frame_size.
        heartbeat_timeout_ms: silence after which a connection is closed (heartbeat and grace together)."""

    # I/O: sockets in the hub's own epoll set
    def fileno(self) -> int: ...
    def listen(self, descriptor: int) -> None:
        """Accept from a listening socket; the descriptor stays the caller's. Raises OSError."""
    def adopt(self, descriptor: int) -> int:
        """Take over a connected stream socket (the hub closes it from now on), as if accepted; its handle. Raises
        OSError."""
    def stop_accepting(self) -> None: ...
    def run_burst(self) -> list[Event]:
        """One turn, when fileno() is readable: accept, receive, parse, fan out, flush. Never blocks, never raises for a
        peer."""
    def tick(self) -> list[Event]:
        """Deadlines: hello, heartbeat, session grace, closing. Call it every 50-250 ms; flushes too."""
    def take_events(self) -> list[Event]:
        """What came up outside `run_burst` and `tick`: frames of transports, and connections that `flush`, `deliver` or
        `close_connection` ended. Call it after `flush`; what is not taken comes with the next turn."""
    def flush(self) -> None: ...
    @property
    def dirty(self) -> bool: ...
    @property
    def pending_output(self) -> int: ...  # bytes unsent, all connections: a drain waits for 0
    def close(self) -> None: ...
    def advance_clock(self, milliseconds: int) -> None:
        """Shift the hub's monotonic clock forward, so that tests of deadlines need not wait. Takes effect at the next
        turn."""

    # I/O: connections on a transport (TLS, WebSocket); see transport_link.pyi
    def open_transport(self, transport: object) -> int:
        """`transport` has write(bytes), close() and abort(). 0: too many connections, and the transport is being
        closed."""
    def receive(self, connection: int, data: bytes | bytearray | memoryview) -> None: ...
    def close_transport(self, connection: int) -> None:
        """The transport has lost its connection (harmless if the hub closed it)."""
    def set_writable(self, connection: int, writable: bool) -> None: ...

    # Sessions
    def attach(self, connection: int, session_id: int, player: bytes) -> int:
        """The greeted connection is ready and belongs to this session (new, or here within its grace), whose older
        connection is dropped. Returns how many sessions the player has here now; 0: the connection is gone or was not
        waiting for this. Raises ValueError: session_id 0, a bad length of the name, or the session is another
        player's."""
    def end_session(self, session_id: int, code: int) -> bool:
        """Forget it at once, its connection is closed with `code`. No EVENT_EXPIRED. False: it is not here."""
    def sessions_of(self, player: bytes) -> list[tuple[int, int]]:
        """(session_id, connection) of each, oldest first; connection 0: detached, within its grace."""
    def session(self, connection: int) -> tuple[int, bytes] | None:
        """(session_id, player) of a ready connection."""
    def is_online(self, player: bytes) -> bool:
        """The player has a session here, attached or within its grace."""
    def hide(self, player: bytes, sender: bytes) -> None:
        """`player` must not see what `sender` says: messages come hidden, signals not at all. Holds as long as the
        player has a session here; without one it does nothing."""
    def show(self, player: bytes, sender: bytes) -> None: ...

    # Channels
    def begin_join(self, connection: int, channel: bytes) -> int:
        """Announce a join before looking anything up; its generation. The channel's head is pinned from here on, so end
        it by `complete_join` or `cancel_join`. 0: the connection is not ready (`session` gives None) or is already in
        max_channels_per_connection channels. A joined channel may be joined again: it stays joined and keeps its
        number. Raises ValueError: the name is empty, or longer than any channel's."""
    def complete_join(self, connection: int, channel: bytes, generation: int, may_send: bool) -> int:
        """Subscribe; the channel's number. 0: a leave, a kick, a newer begin_join or a disconnect came in between."""
    def cancel_join(self, connection: int, channel: bytes, generation: int) -> bool:
        """A join that came to nothing. False: it is joined (by an earlier join), or another begin_join is under way."""
    def leave(self, connection: int, channel: bytes) -> bool:
        """Also takes back a begin_join. True if it was joined."""
    def remove_player(self, player: bytes, channel: bytes) -> list[int]:
        """Take all connections of the player out, pending joins too. Returns those that were joined."""
    def set_may_send(self, player: bytes, channel: bytes, may_send: bool, code: int) -> int:
        """For the connections that are in the channel; `code` is what SEND is refused with. How many they were."""
    def is_joined(self, connection: int, channel: bytes) -> bool: ...
    def channels_of(self, connection: int) -> list[bytes]:
        """The joined ones, in no order."""
    def players_in(self, channel: bytes, limit: int) -> list[bytes]:
        """Each player once, at most `limit`, in no order."""
    def subscribers(self, channel: bytes) -> int:
        """Connections (not players) in the channel."""
    def head(self, channel: bytes) -> tuple[int, int] | None:
        """(id, hash) as `LogView.head`; within `on_direct` the head before the message that is being delivered."""
    def learn_head(self, channel: bytes, id: int, hash: int, time: int) -> None:
        """As `LogView.learn_head`."""

    # Output. False or 0: the connection is gone or not ready.
    def deliver(self, partition: int, records: Sequence[tuple[int, int, bytes, bytes]]) -> None:
        """(offset, time, channel, record) in log order, as the log hands them over. Malformed ones are counted and
        skipped."""
    def ack(self, acks: Sequence[tuple[int, int, int, int]]) -> None:
        """(connection, seq, id, time) each."""
    def refuse(
        self, connection: int, seq: int, code: int, retry_after_ms: int = 0, uncertain: bool = False
    ) -> bool: ...
    def welcome(self, connection: int, body: bytes) -> bool: ...
    def reply(self, connection: int, request_id: int, body: bytes) -> bool: ...
    def fail(
        self, connection: int, request_id: int, code: int, message: bytes = b"", retry_after_ms: int = 0
    ) -> bool: ...
    def event(self, connection: int, body: bytes) -> bool: ...
    def event_to_player(self, player: bytes, body: bytes) -> int: ...
    def event_to_channel(self, channel: bytes, body: bytes, except_connection: int = 0) -> int: ...
    def signal(self, channel: bytes, kind: int, sender: bytes, body: bytes) -> int: ...
    def goaway(self, deadline_ms: int, reconnect_window_ms: int) -> None: ...
    def close_connection(self, connection: int, code: int, message: bytes = b"", retry_after_ms: int = 0) -> bool:
        """CLOSE frame, out of all tables at once, the socket closed when the bytes are out."""
    def close_connections(self, code: int) -> int:
        """`close_connection` for all, those before WELCOME too; how many there were. A drain's end."""

    def counters(self) -> dict[str, int]:
        """Totals since the start, and gauges (`connections`, `sessions`, `players`, `channels`, `subscriptions`)."""
    def check_invariants(self) -> None:
        """For tests: walks all tables and raises AssertionError where two of them disagree."""
