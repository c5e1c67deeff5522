"""The session store on the embedded store: presence in this process, everything else in the file.

Presence may be lost with the process, for so are the connections that it speaks of.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import Conversation, PresenceChange, ResumeState
from chatcore_server.embedded.conversations import read_conversations, read_who_has_directs
from chatcore_server.embedded.database import signed, unsigned
from chatcore_server.embedded.log_rows import OFFSET_MASK
from chatcore_server.embedded.many import json_text
from chatcore_server.embedded.reader import Reader
from chatcore_server.embedded.relations import read_blocks
from chatcore_server.embedded.settings import EmbeddedSettings
from chatcore_server.embedded.writer import Writer

CODE = ErrorCode.ERROR_HISTORY_UNAVAILABLE
MAX_UNREAD = 1_000

_ENDED = "SELECT json_group_array(session) FROM ended_sessions WHERE session IN (SELECT value FROM json_each(?))"
# A mark goes with the last that is known of its channel (retention.py): it must not come where that has gone already,
# or where nothing ever was.
_MARK = """
INSERT INTO read_marks SELECT :channel, :player, :id
WHERE EXISTS (SELECT 1 FROM log WHERE channel = :channel AND prev IS NOT NULL)
    OR EXISTS (SELECT 1 FROM trimmed_heads WHERE channel = :channel)
ON CONFLICT (channel, player) DO UPDATE SET id = excluded.id WHERE id < excluded.id
"""
_decode_numbers = msgspec.json.Decoder(list[int]).decode


class EmbeddedSessions:
    """SessionStore; see backends.py."""

    def __init__(self, settings: EmbeddedSettings, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader
        self._presence: dict[bytes, dict[int, str]] = {}

    async def resume(self, asked: Sequence[tuple[int, bytes]], limit: int) -> list[ResumeState]:
        def look_up(connection: sqlite3.Connection) -> list[ResumeState]:
            players = [player for _, player in asked]
            ended = _read_ended(connection, [session for session, _ in asked])
            blocks = read_blocks(connection, players)
            directs = _read_all(connection, [(player, ()) for player in players], blocks, limit)
            return [
                ResumeState(session in ended, found, blocked)
                for (session, _), found, blocked in zip(asked, directs, blocks, strict=True)
            ]

        return await self._reader.look_up(look_up, CODE)

    async def end(self, session: int, until_ms: int) -> None:
        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO ended_sessions VALUES (?, ?)"
                " ON CONFLICT (session) DO UPDATE SET until_ms = max(until_ms, excluded.until_ms)",
                (signed(session), until_ms),
            )

        await self._writer.change(change, CODE)

    async def conversations(
        self, asked: Sequence[tuple[bytes, Sequence[bytes]]], limit: int
    ) -> list[list[Conversation]]:
        def look_up(connection: sqlite3.Connection) -> list[list[Conversation]]:
            return _read_all(connection, asked, read_blocks(connection, [player for player, _ in asked]), limit)

        return await self._reader.look_up(look_up, CODE)

    async def mark_read(self, player: bytes, channel: bytes, id: int) -> bool:
        def change(connection: sqlite3.Connection) -> bool:
            mark = {"channel": channel, "player": player, "id": min(id, OFFSET_MASK)}
            return connection.execute(_MARK, mark).rowcount > 0

        return await self._writer.change(change, CODE)

    async def set_presences(self, changes: Sequence[PresenceChange]) -> list[tuple[str, str]]:
        return [(self._presence_of(change.player), self._set_presence(*change)) for change in changes]

    def _set_presence(self, player: bytes, session: int, presence: str) -> str:
        sessions = self._presence.setdefault(player, {})
        if presence == "offline":
            sessions.pop(session, None)
            if not sessions:
                del self._presence[player]
        else:
            sessions[session] = presence
        return self._presence_of(player)

    async def presence_of(self, players: Sequence[bytes]) -> list[str]:
        return [self._presence_of(player) for player in players]

    def _presence_of(self, player: bytes) -> str:
        sessions = self._presence.get(player)
        if not sessions:
            return "offline"
        return "online" if "online" in sessions.values() else "away"


def _read_ended(connection: sqlite3.Connection, sessions: Sequence[int]) -> set[int]:
    """Those of them that are over."""
    asked = json_text([signed(session) for session in sessions])
    (found,) = connection.execute(_ENDED, (asked,)).fetchone()
    return {unsigned(session) for session in _decode_numbers(found)}


def _read_all(
    connection: sqlite3.Connection,
    asked: Sequence[tuple[bytes, Sequence[bytes]]],
    blocks: Sequence[Sequence[bytes]],
    limit: int,
) -> list[list[Conversation]]:
    """Who has neither private chats nor groups, as most who are new, costs no statement."""
    with_directs = read_who_has_directs(connection, [player for player, _ in asked])
    return [
        read_conversations(connection, player, groups, blocked, limit, MAX_UNREAD)
        if groups or i in with_directs
        else []
        for i, ((player, groups), blocked) in enumerate(zip(asked, blocks, strict=True))
    ]
