"""Players, friends, blocks, groups and roles as tables of the embedded store. Checks no permissions."""

import sqlite3
from collections.abc import Sequence
from functools import partial

import msgspec

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import Departure, Profile
from chatcore_server.embedded.many import name_texts, read_names
from chatcore_server.embedded.reader import Reader
from chatcore_server.embedded.writer import Writer

CODE = ErrorCode.ERROR_RELATIONS_UNAVAILABLE
OWNER = "owner"
OFFICER = "officer"
MEMBER = "member"
ROLES = (OWNER, OFFICER, MEMBER)

_ROLE = "SELECT role FROM members WHERE channel = ? AND player = ?"
_SET_ROLE = "UPDATE members SET role = ? WHERE channel = ? AND player = ?"
_ADD_MEMBER = "INSERT INTO members (channel, player, role) VALUES (?, ?, ?)"
_HEIR = """
SELECT player FROM members WHERE channel = ? ORDER BY role = 'officer' DESC, number LIMIT 1
"""
# Of many players, as many.py says. CROSS JOIN: the players come first, whatever SQLite takes the tables' sizes for.
_GROUPS = """
SELECT json_group_array(json_array(place, hex(channel), role)) FROM (
    SELECT asked.key AS place, channel, role FROM json_each(?) AS asked
    CROSS JOIN members ON player = CAST(asked.value AS BLOB) ORDER BY place, number)
"""
_MUTUAL = """
SELECT json_group_array(json_array(place, hex(other))) FROM (
    SELECT asked.key AS place, mine.other AS other FROM json_each(?) AS asked
    CROSS JOIN friends AS mine ON mine.player = CAST(asked.value AS BLOB)
    CROSS JOIN friends AS theirs ON theirs.player = mine.other AND theirs.other = mine.player
    ORDER BY place, other)
"""
_BLOCKS = """
SELECT json_group_array(json_array(place, hex(other))) FROM (
    SELECT asked.key AS place, other FROM json_each(?) AS asked
    CROSS JOIN blocks ON player = CAST(asked.value AS BLOB) ORDER BY place, other)
"""
_ADDED = """
SELECT json_group_array(json_array(asked.key, hex(other))) FROM json_each(?) AS asked
CROSS JOIN friends ON player = CAST(asked.value AS BLOB)
"""
# One row with a JSON text each, as log_rows.py says why.
_MEMBERS = """
SELECT json_group_array(json_array(hex(player), role)) FROM (
    SELECT player, role FROM members WHERE channel = ? ORDER BY number LIMIT ?)
"""
_WAITING = """
SELECT json_group_array(hex(player)) FROM (
    SELECT player FROM friends AS theirs WHERE other = ?
    AND NOT EXISTS (SELECT 1 FROM friends AS mine WHERE mine.player = theirs.other AND mine.other = theirs.player)
    ORDER BY player LIMIT 1000)
"""

_decode_members = msgspec.json.Decoder(list[tuple[str, str]]).decode
_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_groups = msgspec.json.Decoder(list[tuple[int, str, str]]).decode


class EmbeddedRelations:
    """Relations; see backends.py."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def profiles(self, players: Sequence[bytes]) -> list[Profile]:
        def look_up(connection: sqlite3.Connection) -> list[Profile]:
            groups = _read_groups(connection, players)
            friends = read_names(connection, _MUTUAL, players)
            return [Profile(*found) for found in zip(groups, friends, read_blocks(connection, players), strict=True)]

        return await self._reader.look_up(look_up, CODE)

    async def create_group(self, group: bytes, owner: bytes) -> str:
        def change(connection: sqlite3.Connection) -> str:
            is_new = connection.execute("INSERT OR IGNORE INTO groups VALUES (?)", (group,)).rowcount
            if is_new:
                connection.execute(_ADD_MEMBER, (group, owner, OWNER))
            return OWNER if _role(connection, group, owner) == OWNER else ""

        return await self._writer.change(change, CODE)

    async def role(self, group: bytes, player: bytes) -> str:
        return await self._reader.look_up(partial(_role, group=group, player=player), CODE)

    async def roles(self, group: bytes, players: Sequence[bytes]) -> list[str]:
        def look_up(connection: sqlite3.Connection) -> list[str]:
            return [_role(connection, group, player) for player in players]

        return await self._reader.look_up(look_up, CODE)

    async def members(self, group: bytes, limit: int) -> list[tuple[bytes, str]]:
        def look_up(connection: sqlite3.Connection) -> list[tuple[bytes, str]]:
            (text,) = connection.execute(_MEMBERS, (group, limit)).fetchone()
            return [(bytes.fromhex(player), role) for player, role in _decode_members(text)]

        return await self._reader.look_up(look_up, CODE, is_large=True)

    async def count_members(self, group: bytes) -> int:
        return await self._count("members WHERE channel = ?", group)

    async def count_groups(self, player: bytes) -> int:
        return await self._count("members WHERE player = ?", player)

    async def set_role(self, group: bytes, player: bytes, role: str) -> bool:
        if role not in ROLES:
            raise ValueError(f"no such role: {role}")
        return await self._writer.change(partial(_change_role, group=group, player=player, role=role), CODE)

    async def leave(self, group: bytes, player: bytes) -> Departure:
        def change(connection: sqlite3.Connection) -> Departure:
            role = _role(connection, group, player)
            if not role:
                return Departure(False, b"", False)
            connection.execute("DELETE FROM members WHERE channel = ? AND player = ?", (group, player))
            heir = connection.execute(_HEIR, (group,)).fetchone()
            if heir is None:
                return Departure(True, b"", True)
            if role != OWNER:
                return Departure(True, b"", False)
            connection.execute(_SET_ROLE, (OWNER, group, heir[0]))
            return Departure(True, heir[0], False)

        return await self._writer.change(change, CODE)

    async def block(self, player: bytes, other: bytes) -> None:
        await self._execute("INSERT OR IGNORE INTO blocks VALUES (?, ?)", (player, other))

    async def unblock(self, player: bytes, other: bytes) -> None:
        await self._execute("DELETE FROM blocks WHERE player = ? AND other = ?", (player, other))

    async def blocks(self, player: bytes) -> list[bytes]:
        return (await self._reader.look_up(partial(read_blocks, players=[player]), CODE))[0]

    async def blocked_between(self, player: bytes, other: bytes) -> bool:
        def look_up(connection: sqlite3.Connection) -> bool:
            rows = "SELECT 1 FROM blocks WHERE (player = ? AND other = ?) OR (player = ? AND other = ?)"
            return connection.execute(rows, (player, other, other, player)).fetchone() is not None

        return await self._reader.look_up(look_up, CODE)

    async def add_friend(self, player: bytes, other: bytes) -> bool:
        def change(connection: sqlite3.Connection) -> bool:
            connection.execute("INSERT OR IGNORE INTO friends VALUES (?, ?)", (player, other))
            back = "SELECT 1 FROM friends WHERE player = ? AND other = ?"
            return connection.execute(back, (other, player)).fetchone() is not None

        return await self._writer.change(change, CODE)

    async def added(self, player: bytes) -> list[bytes]:
        return (await self._reader.look_up(partial(read_names, statement=_ADDED, players=[player]), CODE))[0]

    async def remove_friend(self, player: bytes, other: bytes) -> None:
        both = "DELETE FROM friends WHERE (player = ? AND other = ?) OR (player = ? AND other = ?)"
        await self._execute(both, (player, other, other, player))

    async def friends(self, player: bytes) -> tuple[list[bytes], list[bytes]]:
        def look_up(connection: sqlite3.Connection) -> tuple[list[bytes], list[bytes]]:
            (text,) = connection.execute(_WAITING, (player,)).fetchone()
            waiting = [bytes.fromhex(name) for name in _decode_names(text)]
            return read_names(connection, _MUTUAL, [player])[0], waiting

        return await self._reader.look_up(look_up, CODE, is_large=True)

    async def _count(self, rows: str, name: bytes) -> int:
        def look_up(connection: sqlite3.Connection) -> int:
            return int(connection.execute(f"SELECT count(*) FROM {rows}", (name,)).fetchone()[0])

        return await self._reader.look_up(look_up, CODE)

    async def _execute(self, statement: str, parameters: tuple[bytes, ...]) -> None:
        def change(connection: sqlite3.Connection) -> None:
            connection.execute(statement, parameters)

        await self._writer.change(change, CODE)


def read_blocks(connection: sqlite3.Connection, players: Sequence[bytes]) -> list[list[bytes]]:
    """Whom each of them has blocked."""
    return read_names(connection, _BLOCKS, players)


def _read_groups(connection: sqlite3.Connection, players: Sequence[bytes]) -> list[list[tuple[bytes, str]]]:
    (text,) = connection.execute(_GROUPS, (name_texts(players),)).fetchone()
    found: list[list[tuple[bytes, str]]] = [[] for _ in players]
    for place, group, role in _decode_groups(text):
        found[place].append((bytes.fromhex(group), role))
    return found


def _role(connection: sqlite3.Connection, group: bytes, player: bytes) -> str:
    row = connection.execute(_ROLE, (group, player)).fetchone()
    return "" if row is None else str(row[0])


def _exists(connection: sqlite3.Connection, group: bytes) -> bool:
    return connection.execute("SELECT 1 FROM members WHERE channel = ? LIMIT 1", (group,)).fetchone() is not None


def _change_role(connection: sqlite3.Connection, group: bytes, player: bytes, role: str) -> bool:
    if not _exists(connection, group):
        return False
    old = _role(connection, group, player)
    if old == OWNER:
        return True  # a group always has one owner: the place changes by giving it to somebody else, or by leaving
    if role == OWNER:
        connection.execute("UPDATE members SET role = ? WHERE channel = ? AND role = ?", (OFFICER, group, OWNER))
    if old:
        connection.execute(_SET_ROLE, (role, group, player))
    else:
        connection.execute(_ADD_MEMBER, (group, player, role))
    return True
