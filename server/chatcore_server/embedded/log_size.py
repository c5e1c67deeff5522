"""How many bytes the log's records take, whatever else is in the file: what players may leave in other tables must not
push messages out.

Counted some time after the records were written, which so costs the writer nothing, and remembered in the table `store`
in the same transaction in which records are removed. Writer thread only; every method runs in a transaction of the
caller's.
"""

import sqlite3
from typing import Self

import msgspec

from chatcore_server.embedded.log_rows import first_position

# Bytes of a record beside its channel's name and its value, in the table and in the index: measured with chat lines.
# Where values do not fit the pages well (2 KiB each), the file takes up to twice as much.
RECORD_OVERHEAD = 80
COUNTED_AT_ONCE = 2_000  # records of a partition in one transaction: bounds how long appends wait
_NAME = "log_size"
_READ = f"SELECT value FROM store WHERE name = '{_NAME}'"
_WRITE = f"INSERT OR REPLACE INTO store VALUES ('{_NAME}', ?)"
# length() of a value that lies in pages of its own does not read them. The name is in the index, too.
_COUNT = f"""
SELECT coalesce(sum(size), 0), max(position), count(*) FROM (
    SELECT position, length(value) + 2 * length(channel) + {RECORD_OVERHEAD} AS size FROM log
    WHERE position > ? AND position < ? ORDER BY position LIMIT ?)
"""


class LogSize(msgspec.Struct):
    """`counted`: by partition, the position up to which its records are in `bytes`."""

    bytes: int
    counted: list[int]

    @classmethod
    def read(cls, connection: sqlite3.Connection, partitions: int) -> Self:
        row = connection.execute(_READ).fetchone()
        if row is None:
            return cls(0, [first_position(partition) for partition in range(partitions)])
        return msgspec.json.decode(row[0], type=cls)

    def write(self, connection: sqlite3.Connection) -> None:
        connection.execute(_WRITE, (msgspec.json.encode(self).decode("ascii"),))

    def count(self, connection: sqlite3.Connection) -> bool:
        """Some of what has come since. True: there may be more."""
        more = False
        before = self.bytes
        for partition, after in enumerate(self.counted):
            end = first_position(partition + 1)
            size, last, n_records = connection.execute(_COUNT, (after, end, COUNTED_AT_ONCE)).fetchone()
            self.bytes += size
            self.counted[partition] = last or after
            more = more or n_records == COUNTED_AT_ONCE
        if self.bytes != before:
            self.write(connection)
        return more

    def removing(self, connection: sqlite3.Connection, partition: int, last: int) -> None:
        """To be called before the partition's records up to the position `last` are removed."""
        counted = self.counted[partition]
        until = min(last, counted) + 1
        self.bytes -= connection.execute(_COUNT, (first_position(partition), until, -1)).fetchone()[0]
        self.counted[partition] = max(last, counted)
        self.write(connection)
