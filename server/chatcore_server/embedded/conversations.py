"""A player's conversations with their heads, read marks and unread counts, out of the embedded store by one statement.

After a restart everybody logs in at once, and a player may have thousands of private chats: so nothing here is asked
for one by one. Never writes.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from chatcore_ext.log_placing import PARTITION_SHIFT
from chatcore_server.backends import Conversation
from chatcore_server.embedded.log_rows import OFFSET_MASK, sender_tag
from chatcore_server.embedded.many import json_text, name_texts

# One row with a JSON text, as log_rows.py says why. Unread messages are counted in the index alone: looking each sender
# up in its row took 1.6 ms for a thousand, this takes 0.1 ms (measured).
_CONVERSATIONS = f"""
WITH mine(channel) AS (
    SELECT channel FROM conversations WHERE player = :player
    UNION ALL SELECT CAST(value AS BLOB) FROM json_each(:groups)
), placed AS (
    SELECT channel, (
        SELECT max(position) FROM log WHERE log.channel = mine.channel AND prev IS NOT NULL
    ) AS position FROM mine
), newest AS (
    SELECT placed.channel, placed.position,
        coalesce(placed.position & {OFFSET_MASK}, trimmed.id, 0) AS head,
        coalesce((SELECT time FROM log WHERE log.position = placed.position), trimmed.time, 0) AS time
    FROM placed LEFT JOIN trimmed_heads AS trimmed
        ON placed.position IS NULL AND trimmed.channel = placed.channel
    ORDER BY time DESC, placed.channel LIMIT :limit
), marked AS (
    SELECT channel, position, head, coalesce(
        (SELECT id FROM read_marks WHERE read_marks.channel = newest.channel AND player = :player), 0
    ) AS mark FROM newest
)
SELECT json_group_array(json_array(hex(channel), head, mark, CASE WHEN position IS NULL OR head <= mark THEN 0 ELSE (
    SELECT count(*) FROM (
        SELECT 1 FROM log WHERE log.channel = marked.channel AND prev IS NOT NULL
        AND log.position > ((marked.position >> {PARTITION_SHIFT}) << {PARTITION_SHIFT}) + marked.mark
        AND sender_tag NOT IN (SELECT value FROM json_each(:silent)) LIMIT :unread)
) END)) FROM marked
"""

_WHO_HAS_DIRECTS = """
SELECT json_group_array(key) FROM json_each(?)
WHERE EXISTS (SELECT 1 FROM conversations WHERE player = CAST(value AS BLOB))
"""

_decode_places = msgspec.json.Decoder(set[int]).decode
_decode = msgspec.json.Decoder(list[tuple[str, int, int, int]]).decode


def read_who_has_directs(connection: sqlite3.Connection, players: Sequence[bytes]) -> set[int]:
    """The places of those who have private chats: for the others there is nothing more to ask."""
    (text,) = connection.execute(_WHO_HAS_DIRECTS, (name_texts(players),)).fetchone()
    return _decode_places(text)


def read_conversations(
    connection: sqlite3.Connection,
    player: bytes,
    groups: Sequence[bytes],
    blocked: Iterable[bytes],
    limit: int,
    unread_limit: int,
) -> list[Conversation]:
    """The newest `limit`, by the time of the last message: ids of different partitions do not compare. Unread are the
    messages of others than the player and those that are `blocked`, counted up to `unread_limit`.
    """
    values = {
        "player": player,
        "groups": name_texts(groups),
        "silent": json_text([sender_tag(name) for name in (player, *blocked)]),
        "limit": limit,
        "unread": unread_limit,
    }
    text = connection.execute(_CONVERSATIONS, values).fetchone()[0]
    return [Conversation(bytes.fromhex(channel), head, read, unread) for channel, head, read, unread in _decode(text)]
