"""Rows of many players by one statement, which costs a tenth of one for each player. Knows no tables.

A statement gets its players as one JSON text for `json_each`, whose `key` is a player's place, and answers with one
row: a JSON text, as log_rows.py says why.
"""

import sqlite3
from collections.abc import Sequence

import msgspec

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[tuple[int, str]]).decode


def json_text(values: Sequence[object]) -> str:
    return _encode(values).decode()


def name_texts(names: Sequence[bytes]) -> str:
    return json_text([name.decode("ascii") for name in names])


def read_names(connection: sqlite3.Connection, statement: str, players: Sequence[bytes]) -> list[list[bytes]]:
    """What a statement that answers with (place, hex of a name) each has found for each of the players."""
    (text,) = connection.execute(statement, (name_texts(players),)).fetchone()
    found: list[list[bytes]] = [[] for _ in players]
    for place, name in _decode(text):
        found[place].append(bytes.fromhex(name))
    return found
