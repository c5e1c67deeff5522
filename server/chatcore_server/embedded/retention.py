"""Removes what the settings say is too old or too much, a small step at a time. Writer thread only.

A step is one transaction of the caller. It takes whole records from a partition's beginning, so offsets stay dense.
"""

import sqlite3

from chatcore_ext.log_placing import PARTITION_SHIFT
from chatcore_ext.log_view import LogView
from chatcore_server.embedded.log_rows import OFFSET_MASK, first_position
from chatcore_server.embedded.log_size import LogSize
from chatcore_server.embedded.log_writer import direct_players
from chatcore_server.embedded.settings import EmbeddedSettings

_OLDEST = "SELECT time FROM log WHERE position > ? AND position < ? ORDER BY position LIMIT 1"
_LAST_OF_STEP = """
SELECT max(position) FROM (
    SELECT position FROM log WHERE position > ? AND position < ? AND time < ? ORDER BY position LIMIT ?)
"""
# The heads of channels that will have nothing left. A bare column beside max() is of the row with the maximum (SQLite,
# "Bare columns in an aggregate query").
_KEEP_HEADS = """
INSERT OR REPLACE INTO trimmed_heads
SELECT channel, id, hash, time FROM (
    SELECT channel, max(position) & ? AS id, hash, time FROM log
    WHERE position > ? AND position <= ? AND prev IS NOT NULL GROUP BY channel) AS trimmed
WHERE NOT EXISTS (
    SELECT 1 FROM log WHERE log.channel = trimmed.channel AND log.prev IS NOT NULL AND log.position > ?)
"""


class Retention:
    def __init__(self, settings: EmbeddedSettings) -> None:
        self._settings = settings
        # One window more than a reader goes back when it starts: time goes on while it reads.
        self._kept_ms = LogView(window_ms=settings.replay_window_ms).replay_ms + settings.replay_window_ms

    def step(self, connection: sqlite3.Connection, now: int, clock_ms: int) -> bool:
        """Remove up to trim_step_records of one partition, or forgotten rows. True: there may be more to do.

        `now`: the log's time, ms. `clock_ms`: the server's, by which tickets expire. Where the clock was set back, the
        log's may be ahead of it."""
        settings = self._settings
        size = LogSize.read(connection, settings.partitions)
        has_uncounted = size.count(connection)
        oldest = self._oldest(connection)
        if oldest is not None:
            time, partition = oldest
            limit_ms = now - self._kept_ms
            age_ms, most_bytes = settings.retention_age_ms, settings.retention_size_bytes
            if age_ms and time < min(now - age_ms, limit_ms):
                return self._trim(connection, size, partition, min(now - age_ms, limit_ms))
            if most_bytes and time < limit_ms and size.bytes > most_bytes:
                return self._trim(connection, size, partition, limit_ms)
        return self._forget(connection, now, clock_ms) or has_uncounted

    def _oldest(self, connection: sqlite3.Connection) -> tuple[int, int] | None:
        """(time, partition) of the log's oldest record."""
        found = []
        for partition in range(self._settings.partitions):
            row = connection.execute(_OLDEST, (first_position(partition), first_position(partition + 1))).fetchone()
            if row is not None:
                found.append((row[0], partition))
        return min(found, default=None)

    def _trim(self, connection: sqlite3.Connection, size: LogSize, partition: int, before_ms: int) -> bool:
        start, end = first_position(partition), first_position(partition + 1)
        step = (start, end, before_ms, self._settings.trim_step_records)
        last = connection.execute(_LAST_OF_STEP, step).fetchone()[0]
        size.removing(connection, partition, last)
        connection.execute(_KEEP_HEADS, (OFFSET_MASK, start, last, last))
        connection.execute("DELETE FROM log WHERE position > ? AND position <= ?", (start, last))
        connection.execute(
            "UPDATE partitions SET next_offset = max(next_offset, ?) WHERE partition = ?",
            ((last & OFFSET_MASK) + 1, last >> PARTITION_SHIFT),
        )
        return True

    def _forget(self, connection: sqlite3.Connection, now: int, clock_ms: int) -> bool:
        """Heads on which nothing can chain any more, what hung on them, and tickets' ends."""
        settings = self._settings
        connection.execute("DELETE FROM ended_sessions WHERE until_ms < ?", (clock_ms,))
        before = now - settings.chain_idle_ms
        rows = connection.execute(
            "SELECT channel FROM trimmed_heads WHERE time < ? LIMIT ?", (before, settings.trim_step_records)
        ).fetchall()
        for (channel,) in rows:
            connection.execute("DELETE FROM trimmed_heads WHERE channel = ?", (channel,))
            self._forget_channel(connection, channel)
        return len(rows) == settings.trim_step_records

    @staticmethod
    def _forget_channel(connection: sqlite3.Connection, channel: bytes) -> None:
        """Unless it has been written to since: then the head was out of date."""
        written = "SELECT 1 FROM log WHERE channel = ? AND prev IS NOT NULL LIMIT 1"
        if connection.execute(written, (channel,)).fetchone() is not None:
            return
        connection.execute("DELETE FROM read_marks WHERE channel = ?", (channel,))
        for player in direct_players(channel):
            connection.execute("DELETE FROM conversations WHERE player = ? AND channel = ?", (player, channel))
