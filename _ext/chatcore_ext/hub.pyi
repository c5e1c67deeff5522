from collections.abc import Sequence
from typing import Final, final

from chatcore_ext.durations import Snapshot
from chatcore_ext.memberships import Memberships
from chatcore_ext.turns import Event as Event

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

@final
class Hub(Memberships):
    """All connections, sessions and channels of one worker, and the turn that moves bytes between them.

    In three parts, each with its own stub: connections and turns (turns.pyi), sessions and channels (memberships.pyi),
    and here what is said to them. Loop thread only. Connections are named by int handles that carry a generation: every
    method is harmless with the handle of a connection that is gone (it returns False, 0 or None). Output is only
    appended; `flush` sends it, one system call per dirty connection, and must be called once per turn when `dirty` is
    true. `run_burst` flushes itself before it returns, so what Python appends while it works through the events needs
    one more `flush`.
    """

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
    def counters(self) -> dict[str, int]:
        """Totals since the start, and gauges: `connections` (of these `connections_half_open`, `connections_ready`),
        `connections_closing`, `connection_table_bytes`, `addresses`, `sessions`, `players`, `channels`,
        `subscriptions`. Costs the same however many there are."""
    def histograms(self) -> dict[str, Snapshot]:
        """`frames_per_send_call`; `ack_latency` and `delivery_latency`, in seconds: from the turn that took a SEND of
        this worker out of its socket until the ACK of its durability, or its DELIVERs, were given to the kernel."""
    def check_invariants(self) -> None:
        """For tests: walks all tables and raises AssertionError where two of them disagree."""
