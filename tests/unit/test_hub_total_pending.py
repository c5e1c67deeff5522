"""The bound on what is unsent to all connections together: who pays when it is reached, and who does not notice."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import FrameParser, decode_deliver, decode_gap, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED
from support.hub_world import MAX_SERVER_BODY, Peer, SocketPeer, TransportPeer, World, encode_ping, error_of

ROOM = b"room:hall"
TOTAL = 100_000
HARD_TOTAL = TOTAL + TOTAL // 8  # with the rests of frames that had begun
N_SLOW = 12


@pytest.fixture
def world() -> Iterator[World]:
    with World(max_total_pending_size=TOTAL, frame_burst=1_000_000) as made:
        yield made


def slow_peers(world: World, *, is_socket: bool = True, n: int = N_SLOW) -> list[Peer]:
    world.peer_kind = (lambda hub: SocketPeer(hub, send_buffer=4096)) if is_socket else TransportPeer
    peers = [world.login(b"slow%d" % i, 100 + i) for i in range(n)]
    world.peer_kind = SocketPeer
    for peer in peers:
        world.join(peer, ROOM)
        if isinstance(peer, TransportPeer):
            peer.link.pause_writing()
    return peers


def fill(world: World, quick: Peer) -> list[int]:
    """Messages until the total is reached and somebody was left out for it; the quick one has got them all."""
    ids = []
    for _ in range(200):
        ids.append(world.say(ROOM, b"quick", bytes(1000)))
        assert [id for _, _, id, *_ in world.delivered(quick)] == ids[-1:], "who reads notices nothing"
        assert world.hub.counters()["pending_bytes"] <= HARD_TOTAL
        assert world.hub.counters()["pending_bytes"] == world.hub.pending_output
        if world.hub.counters()["backlogs_refused"] >= N_SLOW:
            return ids
    raise AssertionError("the total was never reached")


@pytest.mark.parametrize("is_socket", [True, False], ids=["socket", "transport"])
def test_slow_receivers_are_left_out_at_the_total_and_catch_up(world: World, is_socket: bool) -> None:
    slow = slow_peers(world, is_socket=is_socket)
    quick = world.login(b"quick", 1)
    world.join(quick, ROOM)
    ids = fill(world, quick)
    for _ in range(20):
        ids.append(world.say(ROOM, b"quick", bytes(1000)))
        assert len(world.delivered(quick)) == 1
        assert world.hub.counters()["pending_bytes"] <= HARD_TOTAL
    for peer in slow:
        if isinstance(peer, TransportPeer):
            peer.link.resume_writing()
        heard: list[int] = []
        for kind, body in world.frames(peer):
            if kind == FrameType.FRAME_GAP:
                _, first, last = decode_gap(body)
                assert [id for id in ids if id <= first] == heard, "nothing before the GAP is lost"
                heard += [id for id in ids if first < id <= last]
            else:
                heard.append(decode_deliver(body)[2])
        assert heard == ids
    assert world.hub.counters()["pending_bytes"] == 0
    assert world.hub.counters()["gaps"] == N_SLOW
    assert world.take(EVENT_DISCONNECTED) == []
    world.say(ROOM, b"quick", b"live again")
    assert all(len(world.delivered(peer)) == 1 for peer in [quick, *slow])


def test_new_connections_are_refused_while_the_total_is_reached(world: World) -> None:
    slow = slow_peers(world)
    quick = world.login(b"quick", 1)
    world.join(quick, ROOM)
    fill(world, quick)
    # One message more would have been over it. Smaller things fill the rest.
    for n_bytes in range(1000, 0, -1):
        if world.hub.counters()["pending_bytes"] + 4 + n_bytes <= TOTAL:
            world.hub.event(slow[0].handle, bytes(n_bytes))
            world.pump()
    for peer in slow:
        world.hub.event(peer.handle, b"")
    world.pump()
    refused = world.open()
    [(kind, body)] = world.frames(refused)
    assert kind == FrameType.FRAME_CLOSE
    assert error_of(body) == (ErrorCode.ERROR_OVERLOADED, 1, 1000)
    assert world.hub.counters()["connections_refused_by_pending"] == 1
    assert world.hub.counters()["closed_overloaded"] >= 1
    for peer in slow:
        world.frames(peer)
    assert world.greet().handle


def test_who_is_owed_an_answer_at_the_total_is_closed_by_name(world: World) -> None:
    slow = slow_peers(world)
    quick = world.login(b"quick", 1)
    world.join(quick, ROOM)
    fill(world, quick)
    for peer in slow:
        world.hub.event(peer.handle, bytes(2000))
        world.pump()
        assert world.hub.counters()["pending_bytes"] <= HARD_TOTAL
    closed = world.take(EVENT_DISCONNECTED)
    assert closed, "there was no room for so many events"
    assert {code for _, _, _, code, _ in closed} == {ErrorCode.ERROR_OVERLOADED}
    assert world.hub.counters()["closed_overloaded"] == len(closed)
    for peer in slow:
        kinds = [kind for kind, _ in world.frames(peer)]
        if peer.handle in {handle for handle, *_ in closed}:
            assert kinds[-1] == FrameType.FRAME_CLOSE, "whole frames, then CLOSE"
            assert FrameType.FRAME_EVENT not in kinds
        else:
            assert kinds[-2:] == [FrameType.FRAME_EVENT, FrameType.FRAME_GAP]


def test_one_that_ends_gives_its_bytes_back(world: World) -> None:
    [slow] = slow_peers(world, n=1)
    world.hub.deliver(0, [world.record(ROOM, b"quick", bytes(1000)) for _ in range(50)])
    world.pump()
    assert world.hub.counters()["pending_bytes"] > 0
    slow.close()
    world.pump()
    assert world.hub.counters()["pending_bytes"] == 0
    assert world.hub.counters()["connections"] == 0


STEPS = st.lists(
    st.tuples(st.sampled_from(["say", "signal", "event", "ping", "read", "close"]), st.integers(0, 2**16)),
    min_size=20,
    max_size=150,
)


@pytest.mark.parametrize("is_socket", [True, False], ids=["socket", "transport"])
@given(steps=STEPS)
@settings(max_examples=40)
def test_whatever_comes_the_total_holds_and_streams_stay_whole(is_socket: bool, steps: list[tuple[str, int]]) -> None:
    with World(max_total_pending_size=20_000, frame_burst=1_000_000) as world:
        slow = slow_peers(world, is_socket=is_socket, n=4)
        quick = world.login(b"quick", 1)
        number = world.join(quick, ROOM)
        parsers = {peer.handle: FrameParser(MAX_SERVER_BODY) for peer in slow}
        ended: set[int] = set()
        for step, amount in steps:
            peer = slow[amount % len(slow)]
            if step == "say":
                world.say(ROOM, b"quick", bytes(amount % 4000))
            elif step == "signal":
                quick.send(encode_signal(number, 128 + amount % 3, b"", b"x"))
            elif step == "event":
                world.hub.event(peer.handle, bytes(amount % 4000))
            elif step == "close":
                world.hub.close_connection(peer.handle, ErrorCode.ERROR_LOGGED_OUT)
            elif step == "ping" and peer.handle not in ended:
                peer.send(encode_ping())
            elif isinstance(peer, SocketPeer):
                parsers[peer.handle].feed(peer.receive(amount))
            elif isinstance(peer, TransportPeer):
                peer.link.resume_writing()
                world.pump()
                parsers[peer.handle].feed(peer.receive())
                if not peer.closed:
                    peer.link.pause_writing()
            world.pump()
            ended |= {handle for handle, *_ in world.take(EVENT_DISCONNECTED)}
            assert world.hub.counters()["pending_bytes"] <= 20_000 + 20_000 // 8
            world.delivered(quick)
        for peer in slow:
            if isinstance(peer, TransportPeer) and not peer.closed:
                peer.link.resume_writing()
            for _ in range(20):
                world.pump()
                data = peer.receive()
                parsers[peer.handle].feed(data)
        assert world.hub.counters()["pending_bytes"] == 0
