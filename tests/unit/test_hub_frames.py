"""What the hub answers to each frame, in each state of a connection, on sockets and on transports."""

import struct
from collections.abc import Iterator

import pytest

from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import encode_frame, encode_hello, encode_request, encode_send, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED, EVENT_HELLO, EVENT_REQUEST, EVENT_SEND
from chatcore_ext.record import decode_record
from support.hub_world import Peer, World, encode_ping, error_of

ROOM = b"room:hall"


@pytest.fixture(params=["socket", "transport"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param, frames_per_second=10, frame_burst=20, max_body_size=100) as made:
        yield made


def assert_closed(world: World, peer: Peer, code: ErrorCode) -> None:
    *_, (kind, body) = world.frames(peer)
    assert kind == FrameType.FRAME_CLOSE
    assert error_of(body)[0] == code
    assert body[8:].startswith(code.name.removeprefix("ERROR_").lower().encode())
    world.frames(peer)
    assert peer.closed


def test_hello_is_handed_over_and_its_connection_waits(world: World) -> None:
    peer = world.open()
    peer.send(encode_hello(1, b"\x81\xa1a\x01"))
    assert world.take(EVENT_HELLO) == [(peer.handle, 1, b"\x81\xa1a\x01")]
    assert world.frames(peer) == []
    assert world.hub.session(peer.handle) is None
    assert not world.hub.event(peer.handle, b"\x80"), "nothing goes to a connection that is not ready"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode_ping(), ErrorCode.ERROR_UNEXPECTED_FRAME),
        (encode_frame(0xEE, b""), ErrorCode.ERROR_UNEXPECTED_FRAME),
        (encode_frame(FrameType.FRAME_HELLO, b"chat\x01\0\0"), ErrorCode.ERROR_MALFORMED_FRAME),
        (encode_frame(FrameType.FRAME_HELLO, b"chap\x01\0\0\0\x80"), ErrorCode.ERROR_MALFORMED_FRAME),
        (encode_hello(2, b"\x80"), ErrorCode.ERROR_UNSUPPORTED_VERSION),
        (b"\xff\xff\xff\x01", ErrorCode.ERROR_FRAME_TOO_LARGE),
    ],
)
def test_what_ends_a_connection_before_hello(world: World, data: bytes, code: ErrorCode) -> None:
    peer = world.open()
    peer.send(data)
    assert_closed(world, peer, code)
    assert world.take(EVENT_DISCONNECTED) == [], "nobody was told of it, so nobody is told of its end"


def test_nothing_may_be_sent_while_greeting(world: World) -> None:
    peer = world.greet()
    peer.send(encode_ping())
    assert_closed(world, peer, ErrorCode.ERROR_UNEXPECTED_FRAME)
    assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 0, b"", ErrorCode.ERROR_UNEXPECTED_FRAME, [])]
    assert world.hub.attach(peer.handle, 1, b"ann") == 0


def test_hello_and_ping_in_one_read_are_unexpected(world: World) -> None:
    peer = world.open()
    peer.send(encode_hello(1, b"\x80") + encode_ping())
    assert_closed(world, peer, ErrorCode.ERROR_UNEXPECTED_FRAME)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode_hello(1, b"\x80"), ErrorCode.ERROR_UNEXPECTED_FRAME),
        (encode_frame(FrameType.FRAME_WELCOME, b""), ErrorCode.ERROR_UNEXPECTED_FRAME),
        (encode_frame(FrameType.FRAME_DELIVER, bytes(38)), ErrorCode.ERROR_UNEXPECTED_FRAME),
        (encode_frame(0xEE, b""), ErrorCode.ERROR_UNKNOWN_FRAME),
        (encode_frame(0x00, b""), ErrorCode.ERROR_UNKNOWN_FRAME),
        (encode_frame(FrameType.FRAME_PING, bytes(7)), ErrorCode.ERROR_MALFORMED_FRAME),
        (encode_frame(FrameType.FRAME_PONG, bytes(9)), ErrorCode.ERROR_MALFORMED_FRAME),
        (encode_frame(FrameType.FRAME_SEND, bytes(12)), ErrorCode.ERROR_MALFORMED_FRAME),
        (encode_frame(FrameType.FRAME_SIGNAL, bytes(5)), ErrorCode.ERROR_MALFORMED_FRAME),
        (encode_signal(1, 1, b"bob", b""), ErrorCode.ERROR_MALFORMED_FRAME),
        (encode_frame(FrameType.FRAME_REQUEST, bytes(4)), ErrorCode.ERROR_MALFORMED_FRAME),
        (struct.pack(">I", 4097 << 8 | 0x10), ErrorCode.ERROR_FRAME_TOO_LARGE),
    ],
)
def test_what_ends_a_ready_connection(world: World, data: bytes, code: ErrorCode) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    peer.send(encode_ping() + data + encode_ping(b"too late"))
    frames = world.frames(peer)
    assert [kind for kind, _ in frames] == [FrameType.FRAME_PONG, FrameType.FRAME_CLOSE]
    assert error_of(frames[1][1])[0] == code
    world.frames(peer)
    assert peer.closed
    assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 1, b"ann", code, [ROOM])]
    assert world.hub.counters()[f"closed_{code.name.removeprefix('ERROR_').lower()}"] == 1


def test_ping_is_answered_and_pong_is_taken(world: World) -> None:
    peer = world.login(b"ann", 1)
    peer.send(encode_ping(b"abcdefgh") + encode_frame(FrameType.FRAME_PONG, bytes(8)) + encode_ping(b"ijklmnop"))
    assert world.frames(peer) == [(FrameType.FRAME_PONG, b"abcdefgh"), (FrameType.FRAME_PONG, b"ijklmnop")]


def test_frames_may_come_byte_by_byte(world: World) -> None:
    peer = world.open()
    for byte in encode_hello(1, b"\x80"):
        assert world.take(EVENT_HELLO) == []
        peer.send(bytes([byte]))
    assert world.take(EVENT_HELLO) == [(peer.handle, 1, b"\x80")]
    world.hub.attach(peer.handle, 1, b"ann")
    number = world.join(peer, ROOM)
    for byte in encode_send(7, number, 0, b"hello"):
        peer.send(bytes([byte]))
        world.pump()
    [(_, seq, _, _, _)] = world.take(EVENT_SEND)
    assert seq == 7


def test_request_is_handed_over(world: World) -> None:
    peer = world.login(b"ann", 1)
    peer.send(encode_request(0xFFFFFFFF, 3, b"\x80") + encode_request(1, 255, b""))
    assert world.take(EVENT_REQUEST) == [(peer.handle, 0xFFFFFFFF, 3, b"\x80"), (peer.handle, 1, 255, b"")]
    assert world.hub.reply(peer.handle, 0xFFFFFFFF, b"\x81")
    assert world.hub.fail(peer.handle, 1, ErrorCode.ERROR_BAD_REQUEST, b"why", 5)
    [reply, (kind, body)] = world.frames(peer)
    assert reply == (FrameType.FRAME_REPLY, b"\xff\xff\xff\xff\x81")
    assert kind == FrameType.FRAME_FAILED
    assert body[:4] == b"\0\0\0\x01"
    assert error_of(body[4:])[::2] == (ErrorCode.ERROR_BAD_REQUEST, 5)
    assert body.endswith(b"bad_requestwhy")


def test_send_becomes_a_record(world: World) -> None:
    peer = world.login(b"ann", 2**63 + 5)
    number = world.join(peer, ROOM)
    peer.send(encode_send(2**64 - 1, number, 3, b"hello"))
    [(handle, seq, flags, channel, record)] = world.take(EVENT_SEND)
    assert (handle, seq, flags, channel) == (peer.handle, 2**64 - 1, 3, ROOM)
    kind, session, seq, time, sender, body = decode_record(record)
    assert (kind, session, seq, sender, body) == (1, 2**63 + 5, 2**64 - 1, b"ann", b"hello")
    assert time > 1_600_000_000_000


def test_records_times_do_not_fall_when_the_clock_is_set_back(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM)
    times = []
    for seq, shift_ms in enumerate((0, 3_600_000, -7_200_000), 1):
        world.hub.shift_wall_clock(shift_ms)
        peer.send(encode_send(seq, number, 0, b"hello"))
        [(_, _, _, _, record)] = world.take(EVENT_SEND)
        times.append(decode_record(record)[3])
    assert times[1] >= times[0] + 3_600_000
    assert times[2] == times[1]


def refused(world: World, peer: Peer) -> list[tuple[int, int, int, int]]:
    frames = world.frames(peer)
    assert all(kind == FrameType.FRAME_REFUSED for kind, _ in frames)
    return [(int.from_bytes(body[:8]), *error_of(body[8:])) for _, body in frames]


def test_sends_that_are_refused(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM)
    other = world.login(b"bob", 2)
    foreign = world.join(other, b"room:else")
    world.hub.begin_join(peer.handle, b"room:pending")
    peer.send(
        encode_send(1, number + 77, 0, b"")
        + encode_send(2, foreign, 0, b"")
        + encode_send(3, foreign + 1, 0, b"")
        + encode_send(4, number, 0, bytes(101))
        + encode_send(0, number, 0, b"")
        + encode_send(5, number, 0, bytes(100))
    )
    assert [(seq, code) for seq, code, _, _ in refused(world, peer)] == [
        (1, ErrorCode.ERROR_NOT_JOINED),
        (2, ErrorCode.ERROR_NOT_JOINED),
        (3, ErrorCode.ERROR_NOT_JOINED),
        (4, ErrorCode.ERROR_BODY_TOO_LARGE),
        (0, ErrorCode.ERROR_BAD_SEQ),
    ]
    assert [event[1] for event in world.take(EVENT_SEND)] == [5]


def test_a_seq_that_is_used_again_is_a_resend_whatever_it_says(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM)
    peer.send(b"".join(encode_send(seq, number, 0, b"") for seq in (1, 130, 130, 2, 3)))
    assert [(seq, code) for seq, code, _, _ in refused(world, peer)] == [(2, ErrorCode.ERROR_BAD_SEQ)]
    assert [event[1:3] for event in world.take(EVENT_SEND)] == [(1, 0), (130, 0), (130, 1), (3, 1)]


def test_a_resumed_session_goes_on_counting(world: World) -> None:
    peer = world.login(b"ann", 1)
    peer.send(encode_send(200, world.join(peer, ROOM), 0, b""))
    world.take(EVENT_SEND)
    again = world.login(b"ann", 1)
    number = world.join(again, ROOM)
    again.send(encode_send(200, number, 0, b"") + encode_send(72, number, 1, b"") + encode_send(73, number, 1, b""))
    assert [(seq, code) for seq, code, _, _ in refused(world, again)] == [(72, ErrorCode.ERROR_BAD_SEQ)]
    assert [event[1:3] for event in world.take(EVENT_SEND)] == [(200, 1), (73, 1)]


def test_send_without_permission_is_refused_with_the_reason(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM, may_send=False)
    peer.send(encode_send(1, number, 0, b""))
    assert refused(world, peer)[0][1] == ErrorCode.ERROR_NOT_ALLOWED
    assert world.hub.set_may_send(b"ann", ROOM, False, ErrorCode.ERROR_BLOCKED) == 1
    peer.send(encode_send(2, number, 0, b"") + encode_signal(number, 1, b"", b""))
    assert refused(world, peer)[0][1] == ErrorCode.ERROR_BLOCKED
    assert world.hub.counters()["signals_dropped"] == 1
    assert world.hub.set_may_send(b"ann", ROOM, True, 0) == 1
    peer.send(encode_send(3, number, 0, b""))
    assert refused(world, peer) == []
    assert len(world.take(EVENT_SEND)) == 1
    assert world.hub.set_may_send(b"bob", ROOM, True, 0) == 0


def test_a_number_of_a_channel_that_was_left_is_nobodys(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM)
    assert world.hub.leave(peer.handle, ROOM)
    again = world.join(peer, b"room:next")
    assert again != number
    peer.send(encode_send(1, number, 0, b""))
    assert refused(world, peer)[0][1] == ErrorCode.ERROR_NOT_JOINED


def test_all_that_came_before_the_end_is_taken() -> None:
    """More than one read takes, and the end of the stream right behind it: the kernel tells of both only once."""
    with World(frame_burst=10_000) as world:
        peer = world.login(b"ann", 1)
        number = world.join(peer, ROOM)
        peer.send(b"".join(encode_send(seq, number, 0, bytes(1000)) for seq in range(1, 151)))
        peer.close()
        assert [event[1] for event in world.take(EVENT_SEND)] == list(range(1, 151))
        assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 1, b"ann", 0, [ROOM])]
        assert world.hub.counters()["receive_calls"] >= 4


def test_rate_limit(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM)
    peer.send(b"".join(encode_send(seq, number, 0, b"") for seq in range(1, 23)))
    limited = refused(world, peer)
    assert [seq for seq, *_ in limited] == [21, 22]
    assert all(code == ErrorCode.ERROR_RATE_LIMITED and flags & 1 for _, code, flags, _ in limited)
    assert all(0 < wait <= 100 for *_, wait in limited), "one token at 10/s"
    assert len(world.take(EVENT_SEND)) == 20
    peer.send(encode_ping() + encode_signal(number, 1, b"", b"") + encode_request(5, 1, b""))
    [(kind, body)] = world.frames(peer)
    assert kind == FrameType.FRAME_FAILED
    assert error_of(body[4:])[0] == ErrorCode.ERROR_RATE_LIMITED
    assert world.take(EVENT_REQUEST) == []
    counters = world.hub.counters()
    assert (counters["pings_dropped"], counters["signals_dropped"]) == (1, 1)
    assert counters["refused_rate_limited"] == 3
    world.pass_time(1000)
    peer.send(b"".join(encode_send(seq, number, 0, b"") for seq in range(23, 34)))
    assert [seq for seq, *_ in refused(world, peer)] == [33], "a second gives back 10 tokens"


def test_refuse_from_outside(world: World) -> None:
    peer = world.login(b"ann", 1)
    assert world.hub.refuse(peer.handle, 9, ErrorCode.ERROR_OUTCOME_UNKNOWN, 250, True)
    assert refused(world, peer) == [(9, ErrorCode.ERROR_OUTCOME_UNKNOWN, 3, 250)]
    peer.close()
    world.pump()
    assert not world.hub.refuse(peer.handle, 9, ErrorCode.ERROR_INTERNAL)
    with pytest.raises(ValueError, match="no error code"):
        world.hub.refuse(peer.handle, 9, 70000)


def test_signal_reaches_the_others(world: World) -> None:
    peers = [world.login(name, session) for session, name in enumerate([b"ann", b"bob", b"cid"], 1)]
    [number] = {world.join(peer, ROOM) for peer in peers}
    stranger = world.login(b"dan", 9)
    peers[0].send(encode_signal(number, 1, b"", b"\0") + encode_signal(number, 200, b"", bytes(128)))
    expected = [
        (FrameType.FRAME_SIGNAL, struct.pack(">IBB", number, 1, 3) + b"ann\0"),
        (FrameType.FRAME_SIGNAL, struct.pack(">IBB", number, 200, 3) + b"ann" + bytes(128)),
    ]
    assert world.frames(peers[1]) == expected
    assert world.frames(peers[2]) == expected
    assert world.frames(peers[0]) == []
    assert world.frames(stranger) == []
    assert world.hub.counters()["signal_deliveries"] == 4


def test_signals_that_are_dropped(world: World) -> None:
    ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
    number = world.join(ann, ROOM)
    world.join(bob, ROOM)
    ann.send(
        encode_signal(number + 1, 1, b"", b"")
        + encode_signal(number, 0, b"", b"")
        + encode_signal(number, 2, b"", b"")
        + encode_signal(number, 127, b"", b"")
        + encode_signal(number, 1, b"", bytes(129))
    )
    assert world.frames(bob) == []
    assert world.hub.counters()["signals_dropped"] == 5
    world.hub.hide(b"bob", b"ann")
    ann.send(encode_signal(number, 1, b"", b""))
    assert world.frames(bob) == [], "bob hides ann"
    world.hub.show(b"bob", b"ann")
    ann.send(encode_signal(number, 1, b"", b""))
    assert len(world.frames(bob)) == 1
    assert not ann.closed


def test_signal_from_outside(world: World) -> None:
    ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
    number = world.join(ann, ROOM)
    world.join(bob, ROOM)
    assert world.hub.signal(ROOM, 2, b"ann", b"x") == 2
    expected = [(FrameType.FRAME_SIGNAL, struct.pack(">IBB", number, 2, 3) + b"annx")]
    assert world.frames(ann) == world.frames(bob) == expected
    world.hub.hide(b"bob", b"ann")
    assert world.hub.signal(ROOM, 2, b"ann", b"x") == 1
    assert world.hub.signal(b"room:none", 2, b"", b"") == 0
    with pytest.raises(ValueError, match="too long"):
        world.hub.signal(ROOM, 2, b"", bytes(129))


def test_output_to_connections_that_are_gone_is_harmless(world: World) -> None:
    peer = world.login(b"ann", 1)
    handle = peer.handle
    peer.close()
    world.pump()
    hub = world.hub
    successor = world.open()
    assert successor.handle != handle, "the slot is used again, the handle is not"
    for stale in (handle, 0, 1, 2**64 - 1, handle + 2**33):
        assert not hub.welcome(stale, b"")
        assert not hub.reply(stale, 1, b"")
        assert not hub.event(stale, b"")
        assert not hub.fail(stale, 1, ErrorCode.ERROR_INTERNAL)
        assert not hub.close_connection(stale, 300)
        assert hub.attach(stale, 1, b"ann") == 0
        assert hub.session(stale) is None
        assert hub.channels_of(stale) == []
        assert hub.begin_join(stale, ROOM) == 0
        assert hub.complete_join(stale, ROOM, 1, True) == 0
        assert not hub.leave(stale, ROOM)
        assert not hub.is_joined(stale, ROOM)
        assert not hub.cancel_join(stale, ROOM, 1)
        hub.ack([(stale, 1, 1, 1)])
        hub.set_writable(stale, True)
        hub.receive(stale, b"abc")
        hub.close_transport(stale)
    assert world.frames(successor) == []


def test_acks_come_in_order_with_everything_else(world: World) -> None:
    ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
    world.hub.ack([(ann.handle, 1, 10, 100), (bob.handle, 7, 11, 100), (ann.handle, 2, 12, 100), (0, 1, 1, 1)])
    world.hub.event(ann.handle, b"\x80")
    assert world.frames(ann) == [
        (FrameType.FRAME_ACK, struct.pack(">QQQ", 1, 10, 100)),
        (FrameType.FRAME_ACK, struct.pack(">QQQ", 2, 12, 100)),
        (FrameType.FRAME_EVENT, b"\x80"),
    ]
    assert world.frames(bob) == [(FrameType.FRAME_ACK, struct.pack(">QQQ", 7, 11, 100))]
    assert world.hub.counters()["acks"] == 3


def test_events_to_players_and_channels(world: World) -> None:
    phone, desk = world.login(b"ann", 1), world.login(b"ann", 2)
    bob = world.login(b"bob", 3)
    for peer in (phone, bob):
        world.join(peer, ROOM)
    assert world.hub.event_to_player(b"ann", b"\x01") == 2
    assert world.hub.event_to_player(b"nobody", b"\x01") == 0
    assert world.hub.event_to_channel(ROOM, b"\x02") == 2
    assert world.hub.event_to_channel(ROOM, b"\x03", bob.handle) == 1
    assert world.hub.event_to_channel(b"room:none", b"\x04") == 0
    event = FrameType.FRAME_EVENT
    assert world.frames(phone) == [(event, b"\x01"), (event, b"\x02"), (event, b"\x03")]
    assert world.frames(desk) == [(event, b"\x01")]
    assert world.frames(bob) == [(event, b"\x02")]


def test_goaway_is_for_ready_connections(world: World) -> None:
    waiting, ready = world.greet(), world.login(b"ann", 1)
    world.hub.goaway(5000, 20000)
    assert world.frames(ready) == [(FrameType.FRAME_GOAWAY, struct.pack(">II", 5000, 20000))]
    assert world.frames(waiting) == []


def test_close_with_a_message(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    world.hub.event(peer.handle, b"\x80")
    assert world.hub.close_connection(peer.handle, ErrorCode.ERROR_SHUTTING_DOWN, b"bye", 300)
    assert not world.hub.close_connection(peer.handle, ErrorCode.ERROR_SHUTTING_DOWN)
    assert world.hub.subscribers(ROOM) == 0, "out of all tables at once"
    event, (kind, body) = world.frames(peer)
    assert event == (FrameType.FRAME_EVENT, b"\x80")
    assert kind == FrameType.FRAME_CLOSE
    assert error_of(body)[::2] == (ErrorCode.ERROR_SHUTTING_DOWN, 300)
    assert body.endswith(b"shutting_downbye")
    world.frames(peer)
    assert peer.closed
    assert world.take(EVENT_DISCONNECTED) == [(peer.handle, 1, b"ann", ErrorCode.ERROR_SHUTTING_DOWN, [ROOM])]


def test_too_many_connections() -> None:
    for kind in ("socket", "transport"):
        with World(kind, max_connections=2) as world:
            first, second = world.greet(), world.greet()
            third = world.open()
            assert_closed(world, third, ErrorCode.ERROR_TOO_MANY_CONNECTIONS)
            assert world.hub.counters()["connections_refused"] == 1
            first.close()
            world.pump()
            assert world.login(b"ann", 1)
            second.close()


def test_bodies_that_fit_no_frame(world: World) -> None:
    peer = world.login(b"ann", 1)
    with pytest.raises(ValueError, match="does not fit"):
        world.hub.event(peer.handle, bytes(2**24))
    with pytest.raises(ValueError, match="does not fit"):
        world.hub.reply(peer.handle, 1, bytes(2**24 - 4))
    with pytest.raises(ValueError, match="does not fit"):
        world.hub.event_to_channel(ROOM, bytes(2**24))
