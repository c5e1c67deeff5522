"""How the embedded store's queries run, and its memory of recent sends."""

import json
from pathlib import Path

import pytest

from chatcore_ext.record import encode_record
from chatcore_server.embedded import conversations, log_rows, relations
from chatcore_server.embedded.database import connect_writer, signed, unsigned
from chatcore_server.embedded.log_writer import RecentSends, direct_players

ENTRIES: dict[str, object] = {"position": 1, "channel": b"", "limit": 1, "size": 1}


@pytest.mark.parametrize(
    ("statement", "values", "index"),
    [
        (log_rows._HEAD, (b"",), "INDEX history (channel=?)"),
        (log_rows._AFTER, ENTRIES, "INDEX history (channel=? AND position>?)"),
        (log_rows._BEFORE, ENTRIES, "INDEX history (channel=? AND position<?)"),
        (log_rows._PAGE, (1, 1, 1), "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ],
)
def test_a_query_s_cost_does_not_grow_with_the_log(
    tmp_path: Path, statement: str, values: tuple[object, ...] | dict[str, object], index: str
) -> None:
    connection = connect_writer(tmp_path / "x.sqlite3", "normal", 4)
    plan = " / ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, values))
    connection.close()
    assert index in plan
    assert "SCAN log" not in plan
    assert "TEMP B-TREE" not in plan


def test_a_page_of_long_messages_costs_no_more_than_it_holds(tmp_path: Path) -> None:
    """In steps of SQLite's machine, the messages' length being the only difference between the channels."""
    connection = connect_writer(tmp_path / "x.sqlite3", "normal", 4)
    row = "INSERT INTO log VALUES (?, 1, ?, ?, 0, 0, 0)"
    for channel, first, length in ((b"room:long", 1_000, 3_900), (b"room:short", 2_000, 30)):
        value = encode_record(1, 1, 1, 1, b"ann", bytes(length))
        connection.executemany(row, [(first + i, channel, value) for i in range(500)])
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    connection.set_progress_handler(step, 1)
    cost = {}
    for read in (log_rows.read_after, log_rows.read_before):
        for channel, n in ((b"room:long", 16), (b"room:short", 500)):
            steps = 0
            entries, more = read(connection, 0, channel, 1 << 40 if read is log_rows.read_before else 0, 500, 65_536)
            assert (len(entries), more) == (n, n < 500)
            cost[read, channel] = steps
        assert cost[read, b"room:long"] < cost[read, b"room:short"] / 20
    connection.close()


def test_conversations_are_found_without_looking_through_the_log(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / "x.sqlite3", "normal", 4)
    values = {"player": b"ann", "groups": "[]", "silent": "[]", "limit": 9, "unread": 9}
    plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + conversations._CONVERSATIONS, values)]
    connection.close()
    assert any("INDEX history (channel=? AND position>?)" in step for step in plan), "unread messages"
    assert any("INDEX history (channel=?)" in step for step in plan), "heads"
    assert not [step for step in plan if step in ("SCAN log", "SCAN trimmed", "SCAN conversations", "SCAN read_marks")]


def test_many_members_and_friends_are_one_row(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / "x.sqlite3", "normal", 4)
    names = [b"%04d" % i for i in range(1_000)]
    connection.executemany("INSERT INTO members VALUES (NULL, 'group:x', ?, 'member')", [(name,) for name in names])
    connection.executemany("INSERT INTO friends VALUES (?, 'ann')", [(name,) for name in names])
    for statement, values in ((relations._MEMBERS, ("group:x", 1_000)), (relations._WAITING, ("ann",))):
        [(text,)] = connection.execute(statement, values).fetchall()
        assert len(json.loads(text)) == 1_000
    connection.close()


@pytest.mark.parametrize("value", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_u64_survive(value: int) -> None:
    assert -(2**63) <= signed(value) < 2**63
    assert unsigned(signed(value)) == value


def test_recent_sends_are_known_for_their_window() -> None:
    sends = RecentSends(window_ms=1_000, max_sends=1_000)
    value = b"\x01\x01" + (7).to_bytes(8, "big") + (1).to_bytes(8, "big") + b"rest"
    sends.add([(RecentSends.key(b"room:x", value), 42)], now=5_000)
    for now in (5_500, 6_000, 6_001):
        sends.add([], now=now)
        assert sends.find(b"room:x", 7, 1) == 42
    assert sends.find(b"room:y", 7, 1) == 0
    assert sends.find(b"room:x", 7, 2) == 0
    sends.add([], now=7_002)
    assert sends.find(b"room:x", 7, 1) == 0


def test_recent_sends_are_bounded() -> None:
    sends = RecentSends(window_ms=1_000_000, max_sends=100)
    for number in range(1_000):
        sends.add([(number.to_bytes(16, "big") + b"room:x", number + 1)], now=1)
    assert len(sends._current) + len(sends._previous) <= 100
    assert sends.find(b"room:x", 0, 999) == 1_000
    assert sends.find(b"room:x", 0, 0) == 0


def test_only_private_chats_have_two_players() -> None:
    assert direct_players(b"dm:ann:bob") == [b"ann", b"bob"]
    for channel in (b"room:a", b"group:a:b", b"dm:ann", b"dm:a:b:c", b"", b"dm"):
        assert direct_players(channel) == []
