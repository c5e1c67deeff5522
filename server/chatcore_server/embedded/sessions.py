"""The session store on the embedded store: presence in this process, everything else in the file.

Presence may be lost with the process, for so are the connections that it speaks of.
"""

import sqlite3
from collections.abc import Sequence

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import Conversation, ResumeState
from chatcore_server.embedded.conversations import read_conversations
from chatcore_server.embedded.database import signed
from chatcore_server.embedded.log_rows import OFFSET_MASK
from chatcore_server.embedded.reader import Reader
from chatcore_server.embedded.relations import read_blocks
from chatcore_server.embedded.settings import EmbeddedSettings
from chatcore_server.embedded.writer import Writer

CODE = ErrorCode.ERROR_HISTORY_UNAVAILABLE
MAX_UNREAD = 1_000


class EmbeddedSessions:
    """SessionStore; see backends.py."""

    def __init__(self, settings: EmbeddedSettings, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader
        self._presence: dict[bytes, dict[int, str]] = {}

    async def resume(self, session: int, player: bytes, limit: int) -> ResumeState:
        def look_up(connection: sqlite3.Connection) -> ResumeState:
            ended = "SELECT 1 FROM ended_sessions WHERE session = ?"
            blocks = read_blocks(connection, player)
            return ResumeState(
                connection.execute(ended, (signed(session),)).fetchone() is not None,
                read_conversations(connection, player, [], blocks, limit, MAX_UNREAD),
                blocks,
            )

        return await self._reader.look_up(look_up, CODE)

    async def end(self, session: int, until_ms: int) -> None:
        def change(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO ended_sessions VALUES (?, ?)"
                " ON CONFLICT (session) DO UPDATE SET until_ms = max(until_ms, excluded.until_ms)",
                (signed(session), until_ms),
            )

        await self._writer.change(change, CODE)

    async def conversations(self, player: bytes, groups: Sequence[bytes], limit: int) -> list[Conversation]:
        def look_up(connection: sqlite3.Connection) -> list[Conversation]:
            blocks = read_blocks(connection, player)
            return read_conversations(connection, player, groups, blocks, limit, MAX_UNREAD)

        return await self._reader.look_up(look_up, CODE)

    async def mark_read(self, player: bytes, channel: bytes, id: int) -> bool:
        def change(connection: sqlite3.Connection) -> bool:
            cursor = connection.execute(
                "INSERT INTO read_marks VALUES (?, ?, ?)"
                " ON CONFLICT (channel, player) DO UPDATE SET id = excluded.id WHERE id < excluded.id",
                (channel, player, min(id, OFFSET_MASK)),
            )
            return cursor.rowcount > 0

        return await self._writer.change(change, CODE)

    async def set_presence(self, player: bytes, session: int, presence: str) -> str:
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
