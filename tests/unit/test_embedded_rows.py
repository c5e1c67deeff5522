"""How the embedded store's queries run, and its memory of recent sends."""

from pathlib import Path

import pytest

from chatcore_server.embedded import conversations, log_rows
from chatcore_server.embedded.database import connect_writer, signed, unsigned
from chatcore_server.embedded.log_writer import RecentSends, direct_players


@pytest.mark.parametrize(
    ("statement", "n_parameters", "index"),
    [
        (log_rows._HEAD, 1, "INDEX history (channel=?)"),
        (log_rows._AFTER, 3, "INDEX history (channel=? AND position>?)"),
        (log_rows._BEFORE, 3, "INDEX history (channel=? AND position<?)"),
        (log_rows._PAGE, 3, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
    ],
)
def test_a_query_s_cost_does_not_grow_with_the_log(
    tmp_path: Path, statement: str, n_parameters: int, index: str
) -> None:
    connection = connect_writer(tmp_path / "x.sqlite3", "normal", 4)
    plan = " / ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + statement, (1,) * n_parameters))
    connection.close()
    assert index in plan
    assert "SCAN log" not in plan
    assert "TEMP B-TREE" not in plan


def test_conversations_are_found_without_looking_through_the_log(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / "x.sqlite3", "normal", 4)
    values = {"player": b"ann", "groups": "[]", "silent": "[]", "limit": 9, "unread": 9}
    plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + conversations._CONVERSATIONS, values)]
    connection.close()
    assert any("INDEX history (channel=? AND position>?)" in step for step in plan), "unread messages"
    assert any("INDEX history (channel=?)" in step for step in plan), "heads"
    assert not [step for step in plan if step in ("SCAN log", "SCAN trimmed", "SCAN conversations", "SCAN read_marks")]


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
