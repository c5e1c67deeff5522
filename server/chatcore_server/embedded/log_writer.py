"""What the writer thread knows of the log: the next offsets, the view that places messages, the recent sends.

Writer thread only, except for `RecentSends.find`. Everything here follows from the table: after a failed transaction it
is read anew from there.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from chatcore_ext.log_placing import PARTITION_SHIFT, Row, place_appends
from chatcore_ext.log_view import LogView
from chatcore_server.backends import LogRecord, Outcome
from chatcore_server.embedded.log_rows import (
    OFFSET_MASK,
    first_position,
    last_offset_before,
    offset_bounds,
    read_head,
)
from chatcore_server.embedded.settings import EmbeddedSettings

DIRECT_PREFIX = b"dm:"
_INSERT = "INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)"
_REPLAY = """
SELECT position, time, channel, value, prev IS NOT NULL FROM log WHERE position > ? AND position < ?
ORDER BY position LIMIT ?
"""
_CONVERSATION = "INSERT OR IGNORE INTO conversations VALUES (?, ?)"

Append = tuple[bytes, bytes, object]  # channel, value, token


def direct_players(channel: bytes) -> list[bytes]:
    """The two players of a private chat; none for every other channel."""
    parts = channel.split(b":")
    return parts[1:] if len(parts) == 3 and channel.startswith(DIRECT_PREFIX) else []


class Placed(NamedTuple):
    """A batch of appends with their places; what the table must hold before any of it may be told."""

    rows: list[Row]
    conversations: list[tuple[bytes, bytes]]
    sends: list[tuple[bytes, int]]
    outcomes: list[Outcome]
    records: dict[int, list[LogRecord]]


class RecentSends:
    """Where the first copy of each recent send lies: (channel, session, seq) -> offset, for acknowledging resends.

    Two generations, so that nothing is removed one by one: a send is known for at least `window_ms`, unless more than
    `max_sends` came since. An index in the file was measured and rejected: its keys are random, so it rewrote one
    page per record and doubled the cost of a batch.
    """

    def __init__(self, window_ms: int, max_sends: int) -> None:
        self._window_ms = window_ms
        self._max_generation = max(1, max_sends // 2)
        self._current: dict[bytes, int] = {}
        self._previous: dict[bytes, int] = {}
        self._started = 0

    @staticmethod
    def key(channel: bytes, value: bytes) -> bytes:
        """From a record's value: bytes 2 to 18 are its session and seq (chatcore_ext/record.pyi)."""
        return value[2:18] + channel

    def add(self, sends: list[tuple[bytes, int]], now: int) -> None:
        if now - self._started > self._window_ms or len(self._current) >= self._max_generation:
            # In this order, so that another thread between the two lines finds what it could find before.
            self._previous = self._current
            self._current = {}
            self._started = now
        self._current.update(sends)

    def find(self, channel: bytes, session: int, seq: int) -> int:
        """Any thread."""
        key = session.to_bytes(8, "big") + seq.to_bytes(8, "big") + channel
        previous = self._previous
        return self._current.get(key) or previous.get(key, 0)


class LogWriter:
    """Gives records their offset, time, prev and hash, and writes them; see `load` for what it must know first."""

    def __init__(self, settings: EmbeddedSettings, clock: Callable[[], int]) -> None:
        self._settings = settings
        self._clock = clock
        self._view = LogView(window_ms=settings.replay_window_ms, chain_idle_ms=settings.chain_idle_ms)
        self._next = [1] * settings.partitions
        self._stale = True
        self._last_time = 0
        self.sends = RecentSends(settings.replay_window_ms, settings.max_recent_sends)

    def now(self) -> int:
        """The log's time, ms: the clock's, but it never goes back."""
        return max(self._last_time, self._clock())

    def discard(self) -> None:
        """What was placed last has not become durable: forget everything that the table does not say."""
        self._stale = True

    def load(self, connection: sqlite3.Connection) -> None:
        """Learn the table's state, if what is known is not it: offsets, and the replay window through the view."""
        if not self._stale:
            return
        settings = self._settings
        self._view = LogView(window_ms=settings.replay_window_ms, chain_idle_ms=settings.chain_idle_ms)
        self._next = [row[0] for row in connection.execute("SELECT next_offset FROM partitions ORDER BY partition")]
        for partition in range(settings.partitions):
            self._next[partition] = max(self._next[partition], offset_bounds(connection, partition)[1] + 1)
            last = connection.execute(
                "SELECT time FROM log WHERE position = ?", (first_position(partition) + self._next[partition] - 1,)
            ).fetchone()
            self._last_time = max(self._last_time, last[0] if last else 0)
        since = self.now() - self._view.replay_ms
        for partition in range(settings.partitions):
            self._replay(connection, partition, last_offset_before(connection, partition, since))
        self._stale = False

    def _replay(self, connection: sqlite3.Connection, partition: int, after: int) -> None:
        """Only which sends have come: all under one name, for what the view would say of the channels' heads after its
        first records may be wrong. The table knows better, and is asked when a channel is next written to."""
        position = first_position(partition) + after
        page_size = self._settings.page_records
        while page := connection.execute(_REPLAY, (position, first_position(partition + 1), page_size)).fetchall():
            sends: list[tuple[bytes, int]] = []
            for position, record_time, channel, value, is_first in page:
                with contextlib.suppress(ValueError):  # no message, or malformed: every reader passes over it alike
                    self._view.place(partition, position & OFFSET_MASK, record_time, b"", value)
                if is_first:
                    sends.append((RecentSends.key(channel, value), position & OFFSET_MASK))
            self.sends.add(sends, page[-1][1])

    def place(self, connection: sqlite3.Connection, appends: list[Append]) -> Placed:
        """Offsets, times, prevs and hashes for a batch; the caller inserts it by `insert` or calls `discard`."""
        now = self._last_time = self.now()

        def learn(channel: bytes) -> None:
            self._view.learn_head(channel, *read_head(connection, channel))

        rows, sends = place_appends(self._view, appends, self._next, now, learn)
        placed = Placed(rows, [], sends, [], {})
        for (channel, value, token), row in zip(appends, rows, strict=True):
            partition, offset = row[0] >> PARTITION_SHIFT, row[0] & OFFSET_MASK
            placed.outcomes.append(Outcome(token, partition, offset, now))
            placed.records.setdefault(partition, []).append(LogRecord(offset, now, channel, value))
            if row[4] == 0:  # the first since the channel's head was last forgotten
                placed.conversations.extend((player, channel) for player in direct_players(channel))
        return placed

    def insert(self, connection: sqlite3.Connection, placed: Placed) -> None:
        connection.executemany(_INSERT, placed.rows)
        if placed.conversations:
            connection.executemany(_CONVERSATION, placed.conversations)

    def committed(self, placed: Placed) -> None:
        self.sends.add(placed.sends, self._last_time)
