"""The hub's connections and turns: sockets of its own epoll set, transports, deadlines, and the events of them."""

from collections.abc import Callable, Sequence
from typing import TypedDict, type_check_only

from typing_extensions import Unpack, disjoint_base

from chatcore_ext.log_view import LogView

Event = tuple[object, ...]  # hub.pyi says which there are

@type_check_only
class _Limits(TypedDict, total=False):
    max_frame_size: int
    max_pending_size: int
    pause_pending_size: int | None
    max_total_pending_size: int
    max_connections: int
    max_channels_per_connection: int
    max_body_size: int | None
    hello_timeout_ms: int
    heartbeat_timeout_ms: int
    frames_per_second: int
    frame_burst: int
    resume_grace_ms: int
    max_half_open: int
    max_closing: int
    max_connections_per_address: int
    accepts_per_second: int
    accept_burst: int
    unlimited_addresses: Sequence[str]
    player_frames_per_second: int | None
    player_frame_burst: int | None
    player_bytes_per_second: int | None
    player_byte_burst: int | None

@disjoint_base
class Turns:
    """The base of `Hub`; not used by itself."""
    def __init__(
        self,
        view: LogView,
        *,
        on_direct: Callable[[bytes, list[int]], None],
        on_control: Callable[[bytes, int, int, bytes], None],
        flush_window_us: int = ...,
        flush_window_rate: int = ...,
        **limits: Unpack[_Limits],
    ) -> None:
        """`on_direct(channel, connections)`: a message of a private chat is about to be delivered and these connections
        of its players are not in the channel; the callee subscribes and tells them (`opened`).
        `on_control(channel, offset, time, body)`: a control record, in log order.
        An exception of either callback comes out of `deliver`, after the rest of the batch has been delivered.
        flush_window_us: how long output of a busy connection is held, at most, so that more of it goes out at once; at
        most a second, 0 = off. Busy is who has output in more than flush_window_rate turns a second.
        `limits`: as for `set_limits`."""
    def set_limits(self, **limits: Unpack[_Limits]) -> None:
        """All limits, at any time; what is not named has its default. Raises ValueError, and then nothing has changed.

        They hold at once for those who are connected, too. Nobody is put out of a channel or closed because there are
        more than a new limit allows; a deadline that runs is not moved. A bucket is cut to a burst that is lower.

        pause_pending_size: bytes unsent to a connection from which on messages and signals to it are left out, until
        all is out; then a GAP for each channel says what was. None: half of max_pending_size.
        max_total_pending_size: bytes unsent to all connections after a turn. From there on new connections are refused
        (overloaded), and whoever does not take what it is sent is left out of messages at once, or closed (overloaded)
        if it is owed something else.
        max_body_size: bytes of a SEND's message body, at most (and by default) what fits into max_frame_size.
        heartbeat_timeout_ms: time without a whole frame after which a connection is closed (heartbeat and grace
        together).
        max_half_open: connections before `attach`. Where it or max_connections is reached, the oldest connection that
        has not said HELLO gives way to a new one; the new one is refused if there is none.
        max_closing: connections that have been told CLOSE and are not gone yet. While there are as many, whoever is
        refused is not told why; and beyond them and max_connections, whoever is closed is cut off when its CLOSE has
        been handed to the kernel, and has no LINGER_MS to take it.
        accepts_per_second, accept_burst: new connections of one remote address (IPv6: its /64).
        unlimited_addresses: networks ("10.0.0.0/8") for whose addresses the limits of an address do not hold.
        player_*: what all connections of a player may send together. None: as many frames as one connection, and
        BYTES_PER_FRAME for each of them."""

    # I/O: sockets in the hub's own epoll set
    def fileno(self) -> int: ...
    def listen(self, descriptor: int) -> None:
        """Accept from a listening socket; the descriptor stays the caller's. Raises OSError."""
    def adopt(self, descriptor: int, address: str = "") -> int:
        """Take over a connected stream socket (the hub closes it from now on), as if accepted; its handle. `address`:
        the peer's, "": none that counts. Raises OSError, and ValueError for a text that is no address."""
    def address(self, connection: int) -> str:
        """Where a connection comes from, as limits know it: "192.0.2.1" or "2001:db8:0:1::/64". "": a UNIX socket, or
        gone. Known until the end of the turn in which a connection's end was told."""
    def limited_address(self, connection: int) -> int | None:
        """A number that stands for this address wherever it is counted against a limit. None: it has no limits."""
    @property
    def accept_pauses(self) -> int:
        """How often accepting has paused because there were no descriptors or no memory; each `tick` resumes."""
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
    def pending(self, connection: int) -> int:
        """Bytes that wait to be sent to it."""

    def close(self) -> None: ...
    def advance_clock(self, milliseconds: int) -> None:
        """Shift the hub's monotonic clock forward, so that tests of deadlines need not wait. Takes effect at the next
        turn."""
    def shift_wall_clock(self, milliseconds: int) -> None:
        """The same for the machine's clock as the hub sees it, forward or back: it stamps records."""

    # I/O: connections on a transport (TLS, WebSocket); see transport_link.pyi
    def open_transport(self, transport: object, address: str = "") -> int:
        """`transport` has write(bytes), close() and abort(); `address` is as for `adopt`. After `close` it must say
        `close_transport` when it is lost; one that does not for LINGER_MS is aborted.

        One connection too many is told so and closed, as if accepted. 0: far too many; the caller drops it."""
    def is_known(self, connection: int) -> bool:
        """False: it is gone, or closing."""
    def is_ready(self, connection: int) -> bool:
        """It has a session: `attach` has been called, and it is not closing."""
    def receive(self, connection: int, data: bytes | bytearray | memoryview) -> None: ...
    def close_transport(self, connection: int) -> None:
        """The transport has lost its connection (harmless if the hub closed it)."""
    def set_writable(self, connection: int, writable: bool) -> None: ...

    # The end
    def close_connection(self, connection: int, code: int, message: bytes = b"", retry_after_ms: int = 0) -> bool:
        """CLOSE frame, out of all tables at once, the socket closed when the bytes are out."""
    def close_connections(self, code: int) -> int:
        """`close_connection` for all, those before WELCOME too; how many there were. A drain's end."""
