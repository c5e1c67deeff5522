"""The tap: what a trace is told of frames and decisions, and that it costs and keeps nothing when there is none."""

import gc
import sys

import pytest

from chatcore_ext.constants import UNKNOWN_ID, FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import encode_frame, encode_send, encode_signal
from chatcore_ext.tap import Fate, TapKind
from chatcore_ext.tracing import TraceEvent
from support.hub_world import Peer, SocketPeer, TransportPeer, World, encode_ping

ROOM = b"room:lobby"
BODY = b"not for the operator"


@pytest.fixture(params=["socket", "transport"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def taken(world: World) -> list[TraceEvent]:
    world.pump()
    lost, events = world.hub.take_trace()
    assert lost == 0
    return events


def frames_of(events: list[TraceEvent], kind: TapKind, player: bytes) -> list[FrameType]:
    return [FrameType(event[1]) for event in events if event[0] == kind and event[3] == player]


def of_kind(events: list[TraceEvent], kind: TapKind) -> list[TraceEvent]:
    return [event for event in events if event[0] == kind]


def misses(events: list[TraceEvent]) -> list[tuple[bytes, int, Fate]]:
    return [(event[3], event[5][0], Fate(event[5][1])) for event in of_kind(events, TapKind.TAP_MISSED)]


def fan_out(events: list[TraceEvent]) -> tuple[int, ...]:
    """(id, delivered, hidden, left out, closing)"""
    [event] = of_kind(events, TapKind.TAP_FANNED_OUT)
    return event[5][:5]


def room(world: World, *players: bytes) -> list[tuple[Peer, int]]:
    peers = [world.login(player, index + 1) for index, player in enumerate(players)]
    return [(peer, world.join(peer, ROOM)) for peer in peers]


# ---- A player ------------------------------------------------------------------------------------------------------


def test_a_player_that_is_not_here_yet_is_followed_from_its_login(world: World) -> None:
    with world:
        world.hub.trace([b"alice"], [])
        assert taken(world) == []
        peer = world.login(b"alice", 7)
        world.hub.welcome(peer.handle, b"\x80")
        number = world.join(peer, ROOM)
        world.hub.leave(peer.handle, ROOM)
        world.hub.close_connection(peer.handle, ErrorCode.ERROR_INTERNAL)
        events = taken(world)
    assert [TapKind(event[0]) for event in events] == [
        TapKind.TAP_ATTACHED,
        TapKind.TAP_OUT,
        TapKind.TAP_JOINED,
        TapKind.TAP_LEFT,
        TapKind.TAP_OUT,
        TapKind.TAP_DETACHED,
    ]
    assert {event[2] for event in events} == {peer.handle}
    assert {event[3] for event in events} == {b"alice"}
    attached, welcome, joined, left, close, detached = events
    assert attached[5][:2] == (7, 1)
    assert (welcome[1], welcome[7]) == (FrameType.FRAME_WELCOME, b"\x80")
    assert (joined[4], joined[5][:3]) == (ROOM, (number, 1, 1))
    assert left[4] == ROOM
    assert close[1] == FrameType.FRAME_CLOSE
    assert detached[5][:2] == (7, ErrorCode.ERROR_INTERNAL)


def test_every_frame_of_a_player_is_seen(world: World) -> None:
    with world:
        (peer, number), (other, _) = room(world, b"alice", b"bob")
        world.hub.trace([b"alice"], [])
        peer.send(encode_send(1, number, 0, BODY) + encode_signal(number, 1, b"", b"") + encode_ping())
        peer.send(encode_frame(FrameType.FRAME_REQUEST, b"\0\0\0\x05\x09") + encode_ping()[:3])
        peer.send(encode_ping()[3:] + encode_send(2, number + 1, 0, BODY))
        events = taken(world)
        other.send(encode_signal(number, 1, b"", b"") + encode_ping())
        world.pump()
        world.hub.ack([(peer.handle, 1, 10, 20)])
        world.hub.ack([(other.handle, 1, 10, 20)])
        world.hub.refuse(peer.handle, 3, ErrorCode.ERROR_OVERLOADED)
        world.hub.reply(peer.handle, 5, b"\x80")
        world.hub.fail(peer.handle, 6, ErrorCode.ERROR_BAD_NAME)
        world.hub.event(peer.handle, b"\x80")
        world.hub.event_to_player(b"alice", b"\x81")
        world.hub.event_to_channel(ROOM, b"\x82", other.handle)
        world.hub.event_to_channel(ROOM, b"\x83", peer.handle)
        world.hub.signal(ROOM, 3, b"carol", b"")
        world.say(ROOM, b"bob", BODY)
        world.hub.goaway(1000, 1000)
        events += taken(world)
    kind = FrameType
    assert frames_of(events, TapKind.TAP_IN, b"alice") == [
        *(kind.FRAME_SEND, kind.FRAME_SIGNAL, kind.FRAME_PING, kind.FRAME_REQUEST, kind.FRAME_PING, kind.FRAME_SEND)
    ]
    assert frames_of(events, TapKind.TAP_OUT, b"alice") == [
        *(kind.FRAME_PONG, kind.FRAME_PONG, kind.FRAME_REFUSED, kind.FRAME_SIGNAL, kind.FRAME_ACK, kind.FRAME_REFUSED),
        *(kind.FRAME_REPLY, kind.FRAME_FAILED, kind.FRAME_EVENT, kind.FRAME_EVENT, kind.FRAME_EVENT),
        *(kind.FRAME_SIGNAL, kind.FRAME_DELIVER, kind.FRAME_GOAWAY),
    ]
    assert {event[3] for event in events} == {b"alice"}
    assert not any(BODY in event[7] for event in events)
    [deliver] = [event for event in events if event[1] == kind.FRAME_DELIVER]
    assert deliver[4] == ROOM
    assert deliver[6] == len(deliver[7]) + len(BODY)


def test_bodies_are_kept_when_they_are_asked_for(world: World) -> None:
    with world:
        (peer, number), _ = room(world, b"alice", b"bob")
        world.hub.trace([b"alice"], [ROOM], with_bodies=True)
        peer.send(encode_send(1, number, 0, BODY) + encode_signal(number, 200, b"", BODY))
        world.pump()
        world.say(ROOM, b"bob", BODY)
        events = taken(world)
    carrying = [event for event in events if event[7].endswith(BODY)]
    assert [(event[0], event[1]) for event in carrying] == [
        (TapKind.TAP_IN, FrameType.FRAME_SEND),
        (TapKind.TAP_IN, FrameType.FRAME_SIGNAL),
        (TapKind.TAP_RECORD, 0),
        (TapKind.TAP_OUT, FrameType.FRAME_DELIVER),
    ]


def test_a_traced_player_hears_of_nothing_in_channels_that_it_is_not_in(world: World) -> None:
    with world:
        room(world, b"bob", b"carol")
        world.login(b"alice", 9)
        world.hub.trace([b"alice"], [])
        world.say(ROOM, b"bob", BODY)
        assert taken(world) == []


# ---- A channel -----------------------------------------------------------------------------------------------------


def test_a_channel_shows_the_whole_life_of_a_message(world: World) -> None:
    with world:
        world.hub.trace([], [ROOM])
        (peer, number), (other, _) = room(world, b"alice", b"bob")
        taken(world)
        peer.send(encode_send(1, number, 0, BODY))
        world.pump()
        world.hub.deliver(0, [world.record(ROOM, b"alice", BODY, session=1, seq=1)])
        world.hub.ack([(peer.handle, 1, 1, 20), (other.handle, 5, 1, 20)])
        events = taken(world)
    assert [TapKind(event[0]) for event in events] == [
        TapKind.TAP_IN,
        TapKind.TAP_RECORD,
        TapKind.TAP_FANNED_OUT,
        TapKind.TAP_OUT,
    ]
    sent, record, _, ack = events
    assert (sent[1], sent[3], sent[4]) == (FrameType.FRAME_SEND, b"alice", ROOM)
    assert (record[3], record[5], record[6]) == (b"alice", (1, UNKNOWN_ID, 1, 1, 0, 2), len(BODY))
    assert fan_out(events) == (1, 2, 0, 0, 0)
    assert (ack[1], ack[2]) == (FrameType.FRAME_ACK, peer.handle)


def test_a_repeated_copy_is_told_and_not_delivered(world: World) -> None:
    with world:
        room(world, b"alice")
        world.hub.trace([], [ROOM])
        copies = [world.record(ROOM, b"bob", BODY, session=5, seq=3) for _ in range(2)]
        world.hub.deliver(0, copies)
        events = taken(world)
    assert [event[5] for event in of_kind(events, TapKind.TAP_RECORD)] == [
        (1, UNKNOWN_ID, 5, 3, 0, 1),
        (2, 0, 5, 3, 1, 1),
    ]
    assert fan_out(events) == (1, 1, 0, 0, 0)


def test_who_hides_the_sender_is_named(world: World) -> None:
    with world:
        _, (hiding, _) = room(world, b"alice", b"bob")
        world.hub.hide(b"bob", b"alice")
        world.hub.trace([], [ROOM])
        id = world.say(ROOM, b"alice", BODY)
        events = taken(world)
        assert misses(events) == [(b"bob", id, Fate.FATE_HIDDEN)]
        assert of_kind(events, TapKind.TAP_MISSED)[0][2] == hiding.handle
        assert fan_out(events) == (id, 1, 1, 0, 0)
        world.hub.trace([b"bob"], [])
        world.say(ROOM, b"alice", BODY)
        events = taken(world)
        assert frames_of(events, TapKind.TAP_OUT, b"bob") == [FrameType.FRAME_DELIVER]  # the empty entry
        assert misses(events) == [(b"bob", id + 1, Fate.FATE_HIDDEN)]


def test_who_is_behind_is_named_until_a_gap_has_told() -> None:
    with World(max_pending_size=20_000) as world:
        (slow, _), _ = room(world, b"slow", b"alice")
        world.hub.trace([b"slow"], [ROOM])
        first_left_out = 0
        assert isinstance(slow, SocketPeer)
        for _ in range(3000):
            world.say(ROOM, b"bob", b"x" * 1000)
            events = taken(world)
            if of_kind(events, TapKind.TAP_MISSED):
                [first_left_out] = [id for player, id, fate in misses(events) if fate == Fate.FATE_LEFT_OUT]
                assert {player for player, _, _ in misses(events)} == {b"slow"}
                assert fan_out(events) == (first_left_out, 1, 0, 1, 0)
                [missed] = of_kind(events, TapKind.TAP_MISSED)
                assert missed[5][2] > 9_000
                assert missed[5][3] == first_left_out
                break
            for peer in world.peers[1:]:
                world.frames(peer)
        assert first_left_out
        assert world.hub.reception(slow.handle, ROOM) == (True, first_left_out, missed[5][2], True)
        world.frames(slow)
        assert frames_of(taken(world), TapKind.TAP_OUT, b"slow") == [FrameType.FRAME_GAP]
        assert world.hub.reception(slow.handle, ROOM) == (True, 0, 0, False)


def test_what_the_bound_over_all_takes_back_is_named() -> None:
    with World("transport", max_total_pending_size=10_000) as world:
        (slow, _), _ = room(world, b"slow", b"alice")
        assert isinstance(slow, TransportPeer)
        slow.link.pause_writing()
        world.hub.trace([], [ROOM])
        ids = [world.say(ROOM, b"bob", b"x" * 1000)]
        while len(ids) < 20:
            events = taken(world)
            if misses(events):
                break
            ids.append(world.say(ROOM, b"bob", b"x" * 1000))
        assert fan_out(events) == (ids[-1], 2, 0, 0, 0)  # it was noted for both, and then
        assert misses(events) == [(b"slow", ids[-1], Fate.FATE_TAKEN_BACK)]
        world.say(ROOM, b"bob", BODY)
        assert misses(taken(world)) == [(b"slow", ids[-1] + 1, Fate.FATE_LEFT_OUT)]


def test_who_is_traced_but_not_in_the_channel_is_named(world: World) -> None:
    with world:
        absent = world.login(b"alice", 9)
        world.hub.trace([b"alice", b"nobody"], [ROOM])
        world.say(ROOM, b"bob", BODY)
        expected = {(b"alice", 1, Fate.FATE_NOT_JOINED), (b"nobody", 1, Fate.FATE_NOT_CONNECTED)}
        events = taken(world)
        assert set(misses(events)) == expected
        assert of_kind(events, TapKind.TAP_RECORD)[0][5][5] == 0  # nobody here is in it
        world.join(world.login(b"bob", 10), ROOM)
        world.hub.begin_join(absent.handle, ROOM)
        world.say(ROOM, b"bob", BODY)
        assert {(player, fate) for player, _, fate in misses(taken(world))} == {
            (player, fate) for player, _, fate in expected
        }


def test_a_refused_send_and_a_signal_are_seen_in_the_channel(world: World) -> None:
    with world:
        (peer, number), _ = room(world, b"alice", b"bob")
        world.hub.hide(b"bob", b"alice")
        world.hub.set_may_send(b"alice", ROOM, False, ErrorCode.ERROR_BLOCKED)
        world.hub.trace([], [ROOM])
        peer.send(encode_send(1, number, 0, BODY))
        events = taken(world)
        assert [(event[0], event[1], event[2]) for event in events] == [
            (TapKind.TAP_IN, FrameType.FRAME_SEND, peer.handle),
            (TapKind.TAP_OUT, FrameType.FRAME_REFUSED, peer.handle),
        ]
        world.hub.set_may_send(b"alice", ROOM, True, 0)
        peer.send(encode_signal(number, 1, b"", b""))
        events = taken(world)
        assert frames_of(events, TapKind.TAP_IN, b"alice") == [FrameType.FRAME_SIGNAL]
        assert fan_out(events) == (0, 0, 1, 0, 0)


def test_a_signal_that_waits_for_its_receiver_is_named_and_seen_when_it_goes() -> None:
    with World("transport") as world:
        (slow, _), (alice, number) = room(world, b"slow", b"alice")
        assert isinstance(slow, TransportPeer)
        slow.link.pause_writing()
        world.hub.trace([b"slow"], [ROOM])
        alice.send(encode_signal(number, 200, b"", BODY))
        events = taken(world)
        assert fan_out(events) == (0, 0, 0, 1, 0)  # one waits
        assert misses(events) == [(b"slow", 0, Fate.FATE_WAITS)]
        slow.link.resume_writing()
        assert frames_of(taken(world), TapKind.TAP_OUT, b"slow") == [FrameType.FRAME_SIGNAL]


def test_another_channel_of_the_same_players_is_not_seen(world: World) -> None:
    with world:
        (peer, _), _ = room(world, b"alice", b"bob")
        elsewhere = world.join(peer, b"room:elsewhere")
        world.hub.trace([], [ROOM])
        peer.send(encode_send(1, elsewhere, 0, BODY) + encode_ping())
        world.pump()
        world.say(b"room:elsewhere", b"alice", BODY)
        world.hub.ack([(peer.handle, 1, 1, 20)])
        world.hub.leave(peer.handle, b"room:elsewhere")
        assert taken(world) == []


# ---- Bounds and the end --------------------------------------------------------------------------------------------


def test_what_has_no_room_is_counted_and_the_summary_still_told() -> None:
    with World() as world:
        room(world, *(b"player-%d" % i for i in range(50)))
        for i in range(50):
            world.hub.hide(b"player-%d" % i, b"bob")
        world.hub.trace([], [ROOM])
        for _ in range(100):
            world.say(ROOM, b"bob", BODY)
        lost, events = world.hub.take_trace()
        assert lost > 0
        assert lost + len(events) == 100 * (50 + 2)
        assert len(of_kind(events, TapKind.TAP_FANNED_OUT)) > 80  # misses of a hundred do not take all the room
        assert world.hub.take_trace() == (0, [])
        world.say(ROOM, b"bob", BODY)
        assert len(taken(world)) == 52


def test_bodies_that_have_no_room_leave_their_events() -> None:
    with World(max_frame_size=100_000) as world:
        room(world, b"alice")
        world.hub.trace([b"alice"], [], with_bodies=True)
        for _ in range(30):
            world.say(ROOM, b"bob", b"x" * 60_000)
            for peer in world.peers:
                world.frames(peer)
        lost, events = world.hub.take_trace()
    assert lost == 0
    assert [event[6] > 60_000 for event in events] == [True] * 30
    assert 10 < sum(len(event[7]) > 60_000 for event in events) < 30


def test_off_means_that_nothing_is_noted_and_no_name_is_kept(world: World) -> None:
    player, channel = bytes(bytearray(b"alice")), bytes(bytearray(ROOM))
    before = sys.getrefcount(player), sys.getrefcount(channel)
    with world:
        (peer, number), _ = room(world, b"alice", b"bob")
        world.hub.trace([player], [channel])
        world.hub.trace([player], [])
        world.say(ROOM, b"bob", BODY)
        assert len(taken(world)) == 1
        world.hub.trace([], [])
        gc.collect()
        assert (sys.getrefcount(player), sys.getrefcount(channel)) == before
        peer.send(encode_send(1, number, 0, BODY))
        world.say(ROOM, b"bob", BODY)
        assert taken(world) == []
        world.hub.trace([player], [channel])
    del world
    gc.collect()


def test_a_hub_lets_go_of_the_names_of_an_unended_trace() -> None:
    player, channel = bytes(bytearray(b"alice")), bytes(bytearray(ROOM))
    before = sys.getrefcount(player), sys.getrefcount(channel)
    with World() as world:
        world.hub.trace([player], [channel])
    del world
    gc.collect()
    assert (sys.getrefcount(player), sys.getrefcount(channel)) == before


def test_only_names_and_only_so_many() -> None:
    with World() as world:
        for bad in (["alice"], [None], [1]):
            with pytest.raises(TypeError):
                world.hub.trace(bad, [])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="at most 8"):
            world.hub.trace([b"%d" % i for i in range(9)], [])
        world.hub.trace([b"%d" % i for i in range(8)], [b"room:%d" % i for i in range(8)])
        assert world.hub.reception(12345, ROOM) is None
