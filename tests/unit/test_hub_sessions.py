"""Sessions, resume, grace and every deadline, by a clock that the test moves."""

from collections.abc import Iterator
from typing import Any

import pytest

from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import encode_frame, encode_hello
from chatcore_ext.hub import EVENT_DISCONNECTED, EVENT_EXPIRED, EVENT_HELLO, Hub
from chatcore_ext.log_view import LogView
from support.hub_world import World, encode_ping, error_of

ROOM = b"room:hall"


@pytest.fixture(params=["socket", "transport"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param, resume_grace_ms=15_000, hello_timeout_ms=5_000, heartbeat_timeout_ms=75_000) as made:
        yield made


def test_a_player_may_have_several_sessions(world: World) -> None:
    assert not world.hub.is_online(b"ann")
    first, second = world.greet(), world.greet()
    assert world.hub.attach(first.handle, 11, b"ann") == 1
    assert world.hub.attach(second.handle, 12, b"ann") == 2
    assert world.hub.attach(second.handle, 13, b"ann") == 0, "attached already"
    assert world.hub.sessions_of(b"ann") == [(11, first.handle), (12, second.handle)]
    assert world.hub.session(first.handle) == (11, b"ann")
    assert world.hub.is_online(b"ann")
    counters = world.hub.counters()
    assert (counters["connections"], counters["sessions"], counters["players"]) == (2, 2, 1)


def test_attach_refuses_nonsense(world: World) -> None:
    peer, other = world.greet(), world.login(b"bob", 5)
    for session, player in ((0, b"ann"), (1, b""), (1, bytes(65)), (5, b"ann")):
        with pytest.raises(ValueError, match=r"session|name"):
            world.hub.attach(peer.handle, session, player)
    unknown = world.open()
    assert world.hub.attach(unknown.handle, 1, b"ann") == 0, "no HELLO yet"
    assert world.hub.attach(peer.handle, 2**64 - 1, bytes(64)) == 1
    assert world.hub.session(other.handle) == (5, b"bob")


def test_a_heartbeat_may_be_shorter_than_the_time_for_hello() -> None:
    with World("socket", hello_timeout_ms=60_000, heartbeat_timeout_ms=2_000) as world:
        peer = world.login(b"ann", 1)
        world.pass_time(1_900)
        assert not peer.closed
        peer.send(encode_ping())
        world.pump()
        world.pass_time(1_900)
        assert world.take(EVENT_DISCONNECTED) == []
        world.pass_time(400)
        assert [event[3] for event in world.take(EVENT_DISCONNECTED)] == [ErrorCode.ERROR_HEARTBEAT_TIMEOUT]


def test_session_survives_its_connection_for_the_grace(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    peer.close()
    assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 1, b"ann", 0, [ROOM])]
    assert world.hub.sessions_of(b"ann") == [(1, 0)]
    assert world.hub.is_online(b"ann")
    world.pass_time(14_000)
    again = world.greet()
    assert world.hub.attach(again.handle, 1, b"ann") == 1
    assert world.hub.channels_of(again.handle) == [], "channels are the connection's"
    world.pass_time(16_000)
    assert world.take(EVENT_EXPIRED) == []
    assert world.hub.sessions_of(b"ann") == [(1, again.handle)]


def test_session_expires_after_the_grace(world: World) -> None:
    keeps, leaves = world.login(b"ann", 1), world.login(b"ann", 2)
    leaves.close()
    world.pump()
    world.pass_time(15_100)
    assert world.take(EVENT_EXPIRED) == [(2, b"ann", 1)]
    keeps.close()
    world.pump()
    world.pass_time(15_100)
    assert world.take(EVENT_EXPIRED) == [(1, b"ann", 0)]
    assert not world.hub.is_online(b"ann")
    assert world.hub.counters()["sessions_expired"] == 2


def test_a_second_connection_of_a_session_drops_the_first(world: World) -> None:
    first = world.login(b"ann", 1)
    world.join(first, ROOM)
    second = world.greet()
    assert world.hub.attach(second.handle, 1, b"ann") == 1
    assert world.hub.session(first.handle) is None, "at once"
    assert world.hub.subscribers(ROOM) == 0
    assert world.take(EVENT_DISCONNECTED) == [(first.handle, 1, b"ann", ErrorCode.ERROR_SESSION_REPLACED, [ROOM])]
    [(kind, body)] = world.frames(first)
    assert kind == FrameType.FRAME_CLOSE
    assert error_of(body)[0] == ErrorCode.ERROR_SESSION_REPLACED
    world.frames(first)
    assert first.closed
    world.pass_time(20_000)
    assert world.take(EVENT_EXPIRED) == []
    assert world.hub.sessions_of(b"ann") == [(1, second.handle)]


def test_end_session_closes_and_forgets(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    assert world.hub.end_session(1, ErrorCode.ERROR_LOGGED_OUT)
    assert not world.hub.is_online(b"ann")
    assert not world.hub.end_session(1, ErrorCode.ERROR_LOGGED_OUT)
    [(kind, body)] = world.frames(peer)
    assert kind == FrameType.FRAME_CLOSE
    assert error_of(body)[0] == ErrorCode.ERROR_LOGGED_OUT
    assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 1, b"ann", ErrorCode.ERROR_LOGGED_OUT, [ROOM])]
    world.pass_time(60_000)
    assert world.take(EVENT_EXPIRED) == []


def test_end_session_of_a_detached_one(world: World) -> None:
    peer = world.login(b"ann", 1)
    peer.close()
    world.pump()
    assert world.hub.end_session(1, ErrorCode.ERROR_LOGGED_OUT)
    assert not world.hub.is_online(b"ann")
    world.pass_time(20_000)
    assert world.take(EVENT_EXPIRED) == []


def test_hello_is_due_in_time(world: World) -> None:
    late, early = world.open(), world.open()
    world.pass_time(4_900)
    early.send(encode_hello(1, b"\x80"))
    assert len(world.take(EVENT_HELLO)) == 1
    assert world.frames(late) == []
    world.pass_time(200)
    [(kind, body)] = world.frames(late)
    assert kind == FrameType.FRAME_CLOSE
    assert error_of(body)[0] == ErrorCode.ERROR_HELLO_TIMEOUT
    world.frames(late)
    assert late.closed
    assert world.hub.attach(early.handle, 1, b"ann") == 1


def test_half_a_hello_is_no_hello(world: World) -> None:
    peer = world.open()
    for byte in encode_hello(1, b"\x80")[:6]:
        peer.send(bytes([byte]))
        world.pass_time(1000)
    assert [kind for kind, _ in world.frames(peer)] == [FrameType.FRAME_CLOSE]


def test_silence_ends_a_connection_and_any_frame_keeps_it(world: World) -> None:
    silent, pinging, answering = (world.login(b"p%d" % i, i + 1) for i in range(3))
    for _ in range(4):
        world.pass_time(18_000)
        pinging.send(encode_ping())
        answering.send(encode_frame(FrameType.FRAME_PONG, bytes(8)))
        world.pump()
    assert world.frames(silent) == []
    world.pass_time(3_200)
    [(kind, body)] = world.frames(silent)
    assert kind == FrameType.FRAME_CLOSE
    assert error_of(body)[0] == ErrorCode.ERROR_HEARTBEAT_TIMEOUT
    assert world.take(EVENT_DISCONNECTED) == [(silent.handle, 1, b"p0", ErrorCode.ERROR_HEARTBEAT_TIMEOUT, [])]
    world.pass_time(71_000)
    assert world.hub.session(pinging.handle)
    assert world.hub.session(answering.handle)
    world.pass_time(1_100)
    assert world.hub.session(pinging.handle) is None
    assert world.hub.session(answering.handle) is None


def test_greeting_that_nobody_answers_ends_too(world: World) -> None:
    peer = world.greet()
    world.pass_time(80_000)
    assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 0, b"", ErrorCode.ERROR_HEARTBEAT_TIMEOUT, [])]


def test_no_grace_is_possible() -> None:
    with World(resume_grace_ms=0) as world:
        peer = world.login(b"ann", 1)
        peer.close()
        world.pump()
        world.pass_time(100)
        assert world.take(EVENT_EXPIRED) == [(1, b"ann", 0)]


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_connections", 0), ("frame_burst", 0), ("max_frame_size", 5), ("hello_timeout_ms", -1), ("max_body_size", -1),
     ("max_pending_size", 2**31), ("max_half_open", 0), ("accept_burst", 2**22), ("player_frame_burst", 2**22)],
)  # fmt: skip
def test_limits_are_checked(name: str, value: int) -> None:
    limits: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=name):
        Hub(LogView(), on_direct=lambda channel, connections: None, on_control=lambda *control: None, **limits)
