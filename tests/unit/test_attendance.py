"""Who is in a channel without a connection: all that belong there, and no cost for all that do not."""

import time
from types import SimpleNamespace
from typing import Any

from chatcore_ext.hub import Hub
from chatcore_ext.log_view import LogView
from chatcore_server.attendance import Attendance
from chatcore_server.outbox import Outbox

ROOM = b"room:x"
N_ELSEWHERE = 50_000


def attendance() -> Attendance:
    hub = Hub(LogView(window_ms=1_000), on_direct=lambda *_: None, on_control=lambda *_: None)
    context: Any = SimpleNamespace(hub=hub, outbox=Outbox(hub, lambda: None))
    return Attendance(context)


def least_s(attending: Attendance) -> float:
    """Of some look-ups, what the fastest took: the others were disturbed."""
    times = []
    for _ in range(20):
        began = time.perf_counter()
        attending.present(ROOM, 100)
        times.append(time.perf_counter() - began)
    return min(times)


def test_those_who_are_elsewhere_cost_nothing() -> None:
    attending = attendance()
    attending.reattached(1, b"ann", frozenset([ROOM]))
    alone_s = least_s(attending)
    for session in range(2, N_ELSEWHERE):
        attending.reattached(session, b"bob", frozenset([b"room:%d" % session, b"room:other"]))
    assert attending.present(ROOM, 100) == [b"ann"]
    assert least_s(attending) < 50 * alone_s


def test_a_session_is_where_it_was_last_until_it_is_settled() -> None:
    attending = attendance()
    for session, player in ((1, b"ann"), (2, b"ann"), (3, b"bob")):
        attending.reattached(session, player, frozenset([ROOM, b"room:y"]))
    attending.reattached(3, b"bob", frozenset([b"room:y", b"room:z"]))
    assert attending.present(ROOM, 9) == [b"ann"]
    assert sorted(attending.present(b"room:y", 9)) == [b"ann", b"bob"]
    assert len(attending.present(b"room:y", 1)) == 1
    attending.settled(1)
    assert attending.present(ROOM, 9) == [b"ann"], "by the other session"
    for session in (2, 3, 3, 4):
        attending.settled(session)
    assert [attending.present(channel, 9) for channel in (ROOM, b"room:y", b"room:z")] == [[], [], []]
    assert not attending._detached_in
