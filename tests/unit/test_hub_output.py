"""Output: each frame exactly once and in order to each receiver, one system call per connection and turn, bounded."""

import random
import socket
from collections.abc import Iterator

import pytest

from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import FrameParser, decode_deliver, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED
from support.hub_world import MAX_SERVER_BODY, SocketPeer, TransportPeer, World, encode_ping, error_of

ROOM = b"room:hall"


@pytest.fixture(params=["socket", "transport"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param, frame_burst=1_000_000) as made:
        yield made


@pytest.mark.parametrize("receivers", [1, 100, 1000])
def test_fan_out_is_exactly_once_and_in_order(world: World, receivers: int) -> None:
    if receivers == 1000:
        world.peer_kind = TransportPeer  # two descriptors each would be over the usual limit of 1,024
    peers = [world.login(b"p%d" % i, i + 1) for i in range(receivers)]
    for peer in peers:
        number = world.join(peer, ROOM)
    sends = world.hub.counters()["send_calls"]
    bodies = [b"message %d" % i for i in range(20)]
    for start in range(0, 20, 5):  # four turns of five messages
        for body in bodies[start : start + 5]:
            world.say(ROOM, b"p0", body)
        world.pump()
    for peer in peers:
        got = world.delivered(peer)
        assert [(channel, prev, id, body) for channel, _, id, prev, _, _, _, body in got] == [
            (number, i or 2**64 - 1, i + 1, body) for i, body in enumerate(bodies)
        ]
    counters = world.hub.counters()
    assert counters["deliveries"] == 20 * receivers
    assert counters["send_calls"] - sends == 4 * receivers, "one per connection and turn"


def test_frames_of_many_sources_keep_their_order(world: World) -> None:
    """Acks, events and messages of several channels in one turn: more pieces than one system call takes."""
    rooms = [b"room:%d" % i for i in range(5)]
    peers = [world.login(b"p%d" % i, i + 1) for i in range(8)]
    for peer in peers:
        for room in rooms:
            world.join(peer, room)
    choose = random.Random(1)
    for _turn in range(4):
        expected: dict[int, list[bytes]] = {peer.handle: [] for peer in peers}
        sends = world.hub.counters()["send_calls"]
        for step in range(200):
            body = b"%d" % step + bytes(choose.randrange(80))
            match choose.randrange(3):
                case 0:
                    peer = choose.choice(peers)
                    assert world.hub.event(peer.handle, body)
                    expected[peer.handle].append(body)
                case 1:
                    assert world.hub.event_to_channel(choose.choice(rooms), body) == len(peers)
                    for bodies in expected.values():
                        bodies.append(body)
                case 2:
                    excepted = choose.choice(peers)
                    world.hub.event_to_channel(choose.choice(rooms), body, excepted.handle)
                    for handle, bodies in expected.items():
                        if handle != excepted.handle:
                            bodies.append(body)
        for peer in peers:
            assert [body for _, body in world.frames(peer)] == expected[peer.handle]
        assert world.hub.counters()["send_calls"] - sends == len(peers)


def test_own_signal_is_left_out_of_shared_bytes(world: World) -> None:
    peers = [world.login(b"p%d" % i, i + 1) for i in range(4)]
    numbers = {world.join(peer, ROOM) for peer in peers}
    [number] = numbers
    for _round in range(3):
        for i, peer in enumerate(peers):
            peer.send(b"".join(encode_signal(number, 128 + i, b"", bytes([n])) for n in range(3)))
        for i, peer in enumerate(peers):
            got = [(body[4] - 128, body[-1]) for _, body in world.frames(peer)]
            assert sorted(got) == [(j, n) for j in range(4) if j != i for n in range(3)]
            for j in range(4):
                assert [n for k, n in got if k == j] == ([0, 1, 2] if j != i else [])


def test_partial_writes_go_on_and_lose_nothing() -> None:
    with World(max_pending_size=1 << 24) as world:
        world.peer_kind = lambda hub: SocketPeer(hub, send_buffer=4096)
        slow = world.login(b"slow", 1)
        world.join(slow, ROOM)
        world.peer_kind = SocketPeer
        quick = world.login(b"quick", 2)
        world.join(quick, ROOM)
        choose = random.Random(2)
        parser, got, quick_got = FrameParser(MAX_SERVER_BODY), [], []
        assert isinstance(slow, SocketPeer)
        bodies: list[bytes] = []
        for turn in range(60):
            for _ in range(choose.randrange(1, 12)):
                bodies.append(b"%d:" % len(bodies) + bytes(choose.randrange(2000)))
                world.say(ROOM, b"quick", bodies[-1])
            world.pump()
            assert world.hub.pending_output > 0 or turn < 5
            got += parser.feed(slow.receive(choose.randrange(9000)))
            quick_got += world.delivered(quick)
        assert [body for *_, body in quick_got] == bodies, "the others do not notice"
        while len(got) < len(bodies):
            world.pump()
            data = slow.receive(choose.randrange(1, 20_000))
            assert data
            got += parser.feed(data)
        assert [decode_deliver(body)[-1] for _, body in got] == bodies
        world.pump()
        assert world.hub.pending_output == 0
        assert parser.pending == 0
        assert world.hub.counters()["sends_incomplete"] > 10
        world.say(ROOM, b"quick", b"last")
        assert [body for *_, body in world.delivered(slow)] == [b"last"], "and it goes on as before"


def test_slow_receiver_is_closed_where_a_frame_ends() -> None:
    with World(max_pending_size=50_000) as world:
        world.peer_kind = lambda hub: SocketPeer(hub, send_buffer=4096)
        slow = world.login(b"slow", 1)
        n_events = 0
        while not (closed := world.take(EVENT_DISCONNECTED)):
            n_events += 1
            world.hub.event(slow.handle, bytes(1000))  # unlike messages, nothing could bring these later
            assert world.hub.pending_output <= 50_000 + 1000, "bounded, but for the CLOSE"
        assert closed == [(slow.handle, 1, b"slow", ErrorCode.ERROR_SLOW_RECEIVER, [])]
        assert n_events > 40
        assert world.hub.counters()["closed_slow_receiver"] == 1
        frames = world.frames(slow)
        while not slow.closed:
            frames += world.frames(slow)
        kinds = [kind for kind, _ in frames]
        assert kinds == [FrameType.FRAME_EVENT] * (n_events - 1) + [FrameType.FRAME_CLOSE], "whole frames, then CLOSE"
        assert error_of(frames[-1][1])[0] == ErrorCode.ERROR_SLOW_RECEIVER


def test_one_turn_may_exceed_the_bound_if_the_kernel_takes_it(world: World) -> None:
    peer = world.login(b"ann", 1)
    for _ in range(300):
        world.hub.event(peer.handle, bytes(1000))
    frames = world.frames(peer)
    if isinstance(peer, SocketPeer):
        assert [kind for kind, _ in frames] == [FrameType.FRAME_EVENT] * 300
        return
    assert frames[-1][0] == FrameType.FRAME_CLOSE, "a transport is only asked at the turn's end"
    assert sum(len(body) + 4 for _, body in frames[:-1]) <= 262144
    assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 1, b"ann", ErrorCode.ERROR_SLOW_RECEIVER, [])]


def test_a_receiver_that_never_reads_is_given_up() -> None:
    with World(max_pending_size=50_000) as world:
        world.peer_kind = lambda hub: SocketPeer(hub, send_buffer=4096)
        peer = world.login(b"ann", 1)
        while not world.take(EVENT_DISCONNECTED):
            world.hub.event(peer.handle, bytes(1000))
        assert world.hub.pending_output > 0
        world.pass_time(2100)
        assert world.hub.pending_output == 0
        peer.receive()
        assert peer.closed


def test_close_is_not_lost_to_unread_input() -> None:
    """Closing a socket with unread input resets the connection, and the reset would overtake CLOSE."""
    with World() as world:
        peer = world.login(b"ann", 1)
        peer.send(encode_ping(b"x" * 8) + b"\xff\xff\xff\xff" + bytes(100_000))
        frames = world.frames(peer)
        assert [kind for kind, _ in frames] == [FrameType.FRAME_PONG, FrameType.FRAME_CLOSE]
        peer.send(bytes(50_000))  # still taken: nothing was reset
        world.pump()
        peer.receive()
        assert peer.closed, "the server has shut its side"
        peer.close()
        world.pump()
        assert world.hub.counters()["connections"] == 0


def test_closing_connection_has_a_deadline() -> None:
    with World() as world:
        peer = world.login(b"ann", 1)
        world.hub.close_connection(peer.handle, ErrorCode.ERROR_BAD_TOKEN)
        world.frames(peer)
        peer.send(b"still here")
        world.pass_time(1000)
        peer.send(b"still here")
        world.pass_time(1100)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            peer.send(b"gone")


def test_a_peer_that_vanishes_while_written_to(world: World) -> None:
    ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
    for peer in (ann, bob):
        world.join(peer, ROOM)
    if isinstance(ann, TransportPeer):
        ann.transport.broken = OSError("gone")
    else:
        ann.close()
    world.say(ROOM, b"bob", b"hello")
    assert len(world.delivered(bob)) == 1
    assert world.take(EVENT_DISCONNECTED) == [(ann.handle, 1, b"ann", 0, [ROOM])]
    world.say(ROOM, b"bob", b"again")
    assert len(world.delivered(bob)) == 1


def test_paused_transport_keeps_its_bytes_and_one_write_brings_them() -> None:
    with World("transport", max_pending_size=10_000) as world:
        peer = world.login(b"ann", 1)
        assert isinstance(peer, TransportPeer)
        peer.link.pause_writing()
        for number in range(3):
            world.hub.event(peer.handle, b"%d" % number)
            world.pump()
        assert peer.transport.written == b""
        assert world.hub.pending_output == 15
        peer.link.resume_writing()
        assert [body for _, body in world.frames(peer)] == [b"0", b"1", b"2"]
        assert peer.transport.writes == 1
        peer.link.pause_writing()
        for _ in range(11):
            world.hub.event(peer.handle, bytes(1000))
            world.pump()
        assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 1, b"ann", ErrorCode.ERROR_SLOW_RECEIVER, [])]
        assert [kind for kind, _ in world.frames(peer)][-1] == FrameType.FRAME_CLOSE
        assert peer.closed


def test_transport_wakes_the_shell() -> None:
    with World("transport") as world:
        woken = []
        peer = TransportPeer(world.hub, wake=lambda: woken.append(1))
        assert woken == [1]
        peer.send(encode_ping())
        assert woken == [1, 1]
        peer.link.pause_writing()
        peer.link.resume_writing()
        assert woken == [1, 1, 1]
        assert not peer.link.eof_received()
        peer.close()
        assert woken == [1, 1, 1, 1]


def test_dirty_says_when_a_flush_is_due(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.pump()
    assert not world.hub.dirty
    world.hub.event(peer.handle, b"\x80")
    assert world.hub.dirty
    assert world.hub.pending_output == 5
    world.hub.flush()
    assert not world.hub.dirty
    assert world.hub.pending_output == 0


def test_close_ends_everything(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    world.hub.close()
    peer.receive()
    assert peer.closed
    assert world.hub.take_events() == []
    counters = world.hub.counters()
    assert (counters["connections"], counters["subscriptions"], counters["channels"]) == (0, 0, 0)
    world.hub.close()
    assert world.hub.fileno() == -1


def test_adopt_refuses_what_is_no_socket() -> None:
    with World() as world:
        with pytest.raises(OSError, match="cannot be taken over"):
            world.hub.adopt(-1)
        with pytest.raises(OSError, match="cannot be listened on"):
            world.hub.listen(-1)
        left, right = socket.socketpair()
        with left, right:
            assert world.hub.adopt(left.detach()) > 0
