"""Control records on the wire of the log, and what is remembered of them."""

import msgspec
import pytest

from chatcore_server.controls import (
    AnyControl,
    Blocked,
    MembersChanged,
    RecentControls,
    Unblocked,
    decode_control,
    encode_control,
    other_player,
)

DM = b"dm:ann:bob"


@pytest.mark.parametrize(
    "control",
    [
        MembersChanged([(b"ann", "owner"), (b"bob", "")], by=b"bob"),
        MembersChanged([(b"ann", "")], by=b"ann", ended=True),
        Blocked(b"ann", b"bob"),
        Unblocked(b"ann", b"bob", still_blocked=True),
    ],
)
def test_round_trip(control: AnyControl) -> None:
    assert decode_control(encode_control(control)) == control


def test_what_a_newer_server_says_is_left_alone() -> None:
    assert decode_control(msgspec.msgpack.encode({"control": "muted", "player": b"ann"})) is None
    known = msgspec.msgpack.encode({"control": "blocked", "player": b"ann", "other": b"bob", "why": "spam"})
    assert decode_control(known) == Blocked(b"ann", b"bob")


def test_changes_by_time_and_by_serial() -> None:
    recent = RecentControls(window_ms=1000)
    before = recent.serial
    recent.note(b"group:a", 5000, MembersChanged([(b"ann", "")], by=b"bob"))
    assert recent.changed_since(b"group:a", 5000)
    assert not recent.changed_since(b"group:a", 5001)
    assert not recent.changed_since(b"group:b", 0)
    assert recent.changed_after(b"group:a", before)
    assert not recent.changed_after(b"group:a", recent.serial)


def test_the_window_bounds_it() -> None:
    recent = RecentControls(window_ms=1000, max_channels=2)
    recent.note(b"group:a", 5000, MembersChanged([], by=b""))
    recent.note(b"group:b", 6001, MembersChanged([], by=b""))
    assert not recent.changed_since(b"group:a", 0)  # nobody has so old a ticket
    recent.note(b"group:c", 6002, MembersChanged([], by=b""))
    recent.note(b"group:d", 6003, MembersChanged([], by=b""))
    # b had to go before its time: what is older than that is not known any more, so it may have changed
    assert recent.changed_since(b"group:b", 6001)
    assert recent.changed_since(b"group:x", 6001)
    assert not recent.changed_since(b"group:x", 6002)


def test_who_blocks_whom() -> None:
    recent = RecentControls(window_ms=1000)
    assert not recent.is_blocked(DM)
    recent.note(DM, 1, Blocked(b"ann", b"bob"))
    mark = recent.serial
    recent.note(DM, 2, Blocked(b"bob", b"ann"))
    recent.note(DM, 3, Unblocked(b"ann", b"bob"))
    assert recent.is_blocked(DM)
    assert recent.blocks_after(mark, b"ann") == [(b"bob", False)]
    assert recent.blocks_after(mark, b"bob") == [(b"ann", True)]
    assert recent.blocks_after(mark, b"cid") == []
    assert recent.blocks_after(recent.serial, b"ann") == []
    recent.note(DM, 4, Unblocked(b"bob", b"ann"))
    assert not recent.is_blocked(DM)


def test_other_player() -> None:
    assert (other_player(DM, b"ann"), other_player(DM, b"bob")) == (b"bob", b"ann")
