"""Output of busy connections waits for a window's end: who is held, who is not, and that streams stay."""

import gc
import os
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED, Hub
from chatcore_ext.log_view import LogView
from support.hub_world import Peer, SocketPeer, TransportPeer, World, encode_ping

ROOMS = [b"room:hall", b"room:yard"]
WINDOW_MS = 900  # so long that no test is slow enough to see its end; time passes when the test says so
LIMITS: dict[str, Any] = {"flush_window_us": WINDOW_MS * 1000, "flush_window_rate": 10, "frame_burst": 1_000_000}
N_UNTIL_BUSY = 10


@pytest.fixture(params=["socket", "transport"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param, **LIMITS) as made:
        yield made


def busy_peers(world: World, n: int = 3) -> list[Peer]:
    peers = [world.login(b"p%d" % i, i + 1) for i in range(n)]
    for peer in peers:
        world.join(peer, ROOMS[0])
    for _ in range(N_UNTIL_BUSY):
        world.say(ROOMS[0], b"p0", b"busy")
        world.pump()
    world.pass_time(1)
    for peer in peers:
        assert len(world.delivered(peer)) == N_UNTIL_BUSY
    world.pass_time(WINDOW_MS)
    world.say(ROOMS[0], b"p0", b"the first of a window")
    assert [len(world.delivered(peer)) for peer in peers] == [1] * n, "what comes after a pause goes out at once"
    return peers


def test_a_busy_room_is_flushed_once_in_a_window(world: World) -> None:
    peers = busy_peers(world)
    sends = world.hub.counters()["send_calls"]
    for i in range(50):
        world.say(ROOMS[0], b"p0", b"%d" % i)
        world.pump()
        assert not world.hub.dirty
    assert world.hub.counters()["send_calls"] == sends
    assert world.hub.pending_output > 0
    world.pass_time(1)
    assert world.hub.counters()["send_calls"] == sends + len(peers)
    for peer in peers:
        assert [body for *_, body in world.delivered(peer)] == [b"%d" % i for i in range(50)]
    assert world.hub.pending_output == 0


def test_who_is_seldom_written_to_never_waits(world: World) -> None:
    peer = world.login(b"p0", 1)
    world.join(peer, ROOMS[0])
    for _ in range(30):
        world.pass_time(150)
        world.say(ROOMS[0], b"p0", b"hello")
        assert len(world.delivered(peer)) == 1
    assert world.hub.counters()["flushes_held"] == 0


def test_a_room_that_cools_down_is_held_no_more(world: World) -> None:
    [peer] = busy_peers(world, 1)
    for _ in range(8):
        world.pass_time(250)
        world.say(ROOMS[0], b"p0", b"hello")
        world.pump()
    world.pass_time(250)
    world.delivered(peer)
    held = world.hub.counters()["flushes_held"]
    for _ in range(8):
        world.say(ROOMS[0], b"p0", b"hello")
        assert len(world.delivered(peer)) == 1
        world.pass_time(250)
    assert world.hub.counters()["flushes_held"] == held


def test_what_answers_somebody_goes_at_once_and_takes_the_rest_with_it(world: World) -> None:
    asking, other = busy_peers(world, 2)
    world.say(ROOMS[0], b"p1", b"held")
    world.pump()
    assert asking.receive() == b""
    asking.send(encode_ping())
    frames = [kind for kind, _ in world.frames(asking)]
    assert frames == [FrameType.FRAME_DELIVER, FrameType.FRAME_PONG]
    assert world.frames(other) == []
    world.say(ROOMS[0], b"p1", b"in the same turn")
    world.hub.ack([(asking.handle, 1, 99, 1000)])
    frames = [kind for kind, _ in world.frames(asking)]
    assert sorted(frames) == [FrameType.FRAME_ACK, FrameType.FRAME_DELIVER]
    world.pass_time(1)
    assert len(world.delivered(other)) == 2


def test_close_does_not_wait(world: World) -> None:
    ending, other = busy_peers(world, 2)
    world.say(ROOMS[0], b"p1", b"held")
    world.pump()
    world.hub.close_connection(ending.handle, ErrorCode.ERROR_LOGGED_OUT)
    assert [kind for kind, _ in world.frames(ending)] == [FrameType.FRAME_DELIVER, FrameType.FRAME_CLOSE]
    assert ending.closed
    world.pass_time(1)
    assert len(world.delivered(other)) == 1


def test_a_peer_that_vanishes_while_it_is_held(world: World) -> None:
    first, second, third = busy_peers(world, 3)
    world.say(ROOMS[0], b"p1", b"held")
    world.pump()
    second.close()
    assert [event[0] for event in world.take(EVENT_DISCONNECTED)] == [second.handle]
    newcomer = world.login(b"new", 9)  # takes the free place
    world.join(newcomer, ROOMS[0])
    world.say(ROOMS[0], b"p1", b"more")
    world.pass_time(1)
    assert [len(world.delivered(peer)) for peer in (first, third, newcomer)] == [2, 2, 1]


def test_too_much_at_once_ends_the_window() -> None:
    with World(max_pending_size=2**30, pause_pending_size=2**28, **LIMITS) as world:
        [peer] = busy_peers(world, 1)
        n_delivered = []
        for _ in range(700):
            world.say(ROOMS[0], b"p0", bytes(4000))
            n_delivered.append(len(world.delivered(peer)))
        assert len([n for n in n_delivered if n]) == 1
        assert max(n_delivered) * 4000 < 2**21 < (max(n_delivered) + 10) * 4100
        world.pass_time(1)
        assert len(world.delivered(peer)) + sum(n_delivered) == 700
        assert world.hub.counters()["gaps"] == 0


def test_one_window_with_more_than_the_bounds_does_no_harm(world: World) -> None:
    [peer] = busy_peers(world, 1)
    for _ in range(300):
        world.say(ROOMS[0], b"p0", bytes(1000))
        world.pump()
    world.pass_time(1)
    n_delivered = len(world.delivered(peer))
    counters = world.hub.counters()
    assert n_delivered + counters["deliveries_left_out"] == 300
    if isinstance(peer, SocketPeer):
        assert n_delivered == 300, "the kernel is asked before anything is left out"
    assert world.take(EVENT_DISCONNECTED) == []


def test_the_end_of_a_hub_with_held_output(world: World) -> None:
    busy_peers(world)
    world.say(ROOMS[0], b"p0", b"held")
    world.pump()
    world.hub.close()
    assert world.hub.counters()["connections"] == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["say", "say", "say", "signal", "event", "ping", "pause", "resume", "time", "close", "vanish"]),
        st.integers(0, 2**16),
    ),
    min_size=20,
    max_size=100,
)


def streams_of(kind: str, steps: list[tuple[str, int]], **limits: int) -> list[bytes]:
    """What each of four peers has received in the end, as far as it was told to read on."""
    with World(kind, heartbeat_timeout_ms=2**31 - 1, **limits) as world:
        peers = [world.login(b"p%d" % i, i + 1) for i in range(4)]
        numbers = {world.join(peer, room) for peer in peers for room in ROOMS}
        streams = [b""] * 4
        gone: set[int] = set()
        for step, amount in steps:
            i = amount % 4
            if i in gone:
                continue
            peer = peers[i]
            if step == "say":
                world.say(ROOMS[amount % 2], b"p%d" % i, bytes(amount % 300))
            elif step == "signal":
                peer.send(encode_signal(min(numbers), 128, b"", b"%d" % amount))
            elif step == "event":
                world.hub.event(peer.handle, b"%d" % amount)
            elif step == "ping":
                peer.send(encode_ping())
            elif step == "time":
                world.pass_time(amount % 2000)
            elif step == "close":
                world.hub.close_connection(peer.handle, ErrorCode.ERROR_LOGGED_OUT)
                gone.add(i)
            elif step == "vanish":
                world.pass_time(1)  # so that it has got the same in both
                world.pump()
                streams[i] += peer.receive()
                peer.close()
                gone.add(i)
            elif isinstance(peer, TransportPeer):
                world.pass_time(1)  # what a transport does not take before waits longer
                (peer.link.pause_writing if step == "pause" else peer.link.resume_writing)()
            world.pump()
        for peer in peers:
            if isinstance(peer, TransportPeer):
                peer.link.resume_writing()
        world.pass_time(1)
        for i, peer in enumerate(peers):
            if i not in gone or peer.closed or isinstance(peer, TransportPeer):
                streams[i] += peer.receive()
        assert world.hub.counters()["pending_bytes"] == 0
        return streams


@pytest.mark.parametrize("kind", ["socket", "transport"])
@given(steps=STEPS)
@settings(max_examples=30)
def test_streams_are_the_same_with_and_without(kind: str, steps: list[tuple[str, int]]) -> None:
    held = streams_of(kind, steps, **LIMITS)
    assert held == streams_of(kind, steps, frame_burst=1_000_000)


@pytest.mark.parametrize(
    ("limit", "value"), [("flush_window_us", 1_000_001), ("flush_window_us", -1), ("flush_window_rate", 0)]
)
def test_windows_that_make_no_sense(limit: str, value: int) -> None:
    with pytest.raises(ValueError, match=limit):
        World("socket", **{limit: value})


def test_a_hub_that_was_not_made_closes_nothing() -> None:
    """Standard input is descriptor 0, and so is what nobody has set."""
    os.fstat(0)
    with pytest.raises(ValueError, match="flush_window_us"):
        Hub(LogView(), on_direct=print, on_control=print, flush_window_us=-1)
    gc.collect()
    os.fstat(0)
