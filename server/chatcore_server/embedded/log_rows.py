"""Reads the rows of the log table: pages of records, entries of a channel's history, heads. Never writes.

Pages come out of SQLite as one JSON text. sqlite3 lets go of the GIL for every row that it steps to and has to get it
back; beside a loop thread that is busy in Python, 500 rows took 450 ms that way and 12 ms as one row, for 0.6 ms more
of processor time (measured). Values are hex in it, for JSON has no bytes.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from chatcore_ext.chain_hash import name_hash
from chatcore_ext.constants import RECORD_PREFIX_SIZE
from chatcore_ext.log_placing import PARTITION_SHIFT
from chatcore_ext.record import decode_record
from chatcore_server.backends import ENTRY_OVERHEAD, Head, HistoryEntry, HistoryPage, LogRecord
from chatcore_server.embedded.database import unsigned

OFFSET_MASK = (1 << PARTITION_SHIFT) - 1
NO_HEAD = Head(0, 0, 0)

_PAGE = """
SELECT json_group_array(json_array(position, time, hex(channel), hex(value))) FROM (
    SELECT position, time, channel, value FROM log WHERE position > ? AND position < ? ORDER BY position LIMIT ?)
"""
# From one entry to the next while there is room: with all its entries read and then cut, a page of long messages took
# 6.5 ms instead of 0.2 (measured; of 500 short ones 1.0 instead of 0.5). The first one that does not belong to the page
# is read as well, for it says that there are more. length() does not read the value.
_ENTRIES = f"""
WITH RECURSIVE page(number, room, position) AS (
    SELECT 0, :size, :position
    UNION ALL
    SELECT number + 1, room - length(log.value) - {ENTRY_OVERHEAD - RECORD_PREFIX_SIZE}, log.position
    FROM page CROSS JOIN log
    WHERE number <= :limit AND (room >= 0 OR number = 1) AND log.position = (
        SELECT {{nearest}}(position) FROM log
        WHERE channel = :channel AND prev IS NOT NULL AND position {{beyond}} page.position)
)
SELECT json_group_array(json_array(log.position, prev, hash, time, hex(value), room))
FROM page CROSS JOIN log ON log.position = page.position WHERE number > 0
"""
_AFTER = _ENTRIES.format(nearest="min", beyond=">")
_BEFORE = _ENTRIES.format(nearest="max", beyond="<")
_HEAD = """
SELECT position, hash, time FROM log WHERE channel = ? AND prev IS NOT NULL ORDER BY position DESC LIMIT 1
"""
_TRIMMED_HEAD = "SELECT id, hash, time FROM trimmed_heads WHERE channel = ?"

_page_decoder = msgspec.json.Decoder(list[tuple[int, int, str, str]])
_entry_decoder = msgspec.json.Decoder(list[tuple[int, int, int, int, str, int]])


def first_position(partition: int) -> int:
    """Just below the partition's first record."""
    return partition << PARTITION_SHIFT


def sender_tag(sender: bytes) -> int:
    """32 bits that tell a player's own messages from others': wrong for one pair of names in four thousand million."""
    return name_hash(sender) & 0xFFFF_FFFF


def read_page(connection: sqlite3.Connection, partition: int, after: int, limit: int) -> list[LogRecord]:
    """The first `limit` records with offset > after."""
    start = first_position(partition)
    text = connection.execute(_PAGE, (start + after, first_position(partition + 1), limit)).fetchone()[0]
    unhex = bytes.fromhex
    return [
        LogRecord(position & OFFSET_MASK, time, unhex(channel), unhex(value))
        for position, time, channel, value in _page_decoder.decode(text)
    ]


def offset_bounds(connection: sqlite3.Connection, partition: int) -> tuple[int, int]:
    """The first and last offset that the log still has, (1, 0) if it has none."""
    start, end = first_position(partition), first_position(partition + 1)
    bounds = "SELECT min(position), max(position) FROM log WHERE position > ? AND position < ?"
    first, last = connection.execute(bounds, (start, end)).fetchone()
    return (1, 0) if first is None else (first & OFFSET_MASK, last & OFFSET_MASK)


def last_offset_before(connection: sqlite3.Connection, partition: int, since_ms: int) -> int:
    """The offset just before the first record with time >= since_ms. Times never fall and offsets are dense: bisect."""
    low, high = offset_bounds(connection, partition)
    start = first_position(partition)
    while low <= high:
        middle = (low + high) // 2
        time = connection.execute("SELECT time FROM log WHERE position = ?", (start + middle,)).fetchone()[0]
        if time < since_ms:
            low = middle + 1
        else:
            high = middle - 1
    return low - 1


def read_head(connection: sqlite3.Connection, channel: bytes) -> Head:
    row = connection.execute(_HEAD, (channel,)).fetchone() or connection.execute(_TRIMMED_HEAD, (channel,)).fetchone()
    if row is None:
        return NO_HEAD
    return Head(row[0] & OFFSET_MASK, unsigned(row[1]), row[2])


def read_heads(connection: sqlite3.Connection, channels: Sequence[bytes]) -> list[Head]:
    return [read_head(connection, channel) for channel in channels]


def read_after(
    connection: sqlite3.Connection, partition: int, channel: bytes, after: int, limit: int, size: int
) -> HistoryPage:
    return _read_entries(connection, _AFTER, partition, channel, after, limit, size)


def read_before(
    connection: sqlite3.Connection, partition: int, channel: bytes, before: int, limit: int, size: int
) -> HistoryPage:
    entries, more = _read_entries(connection, _BEFORE, partition, channel, before, limit, size)
    return HistoryPage(entries[::-1], more)


def _read_entries(
    connection: sqlite3.Connection, statement: str, partition: int, channel: bytes, start: int, limit: int, size: int
) -> HistoryPage:
    """Those of `channel` beyond `start`, in the statement's order."""
    position = first_position(partition) + min(start, OFFSET_MASK)
    values = {"position": position, "channel": channel, "limit": limit, "size": size}
    rows = _entry_decoder.decode(connection.execute(statement, values).fetchone()[0])
    more = len(rows) > limit or (len(rows) > 1 and rows[-1][-1] < 0)
    return HistoryPage([_entry(*row) for row in rows[: len(rows) - more]], more)


def _entry(position: int, prev: int, hash: int, time: int, value: str, room: int) -> HistoryEntry:
    _, _, _, _, sender, body = decode_record(bytes.fromhex(value))
    return HistoryEntry(position & OFFSET_MASK, prev, unsigned(hash), time, sender, body)
