"""What the model test does not reach: time, limits, servers that break their promises, and a log that was made anew."""

import dataclasses

import msgspec
import pytest

from chatcore import channel_track, events, operations
from chatcore.errors import BodyTooLarge, NotJoined, Overloaded
from chatcore.operations import ChannelRequest, Hello, Operation
from chatcore.session import ClientSession
from chatcore_ext.constants import UNKNOWN_ID, FrameType, SendFlag
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import (
    FrameParser,
    decode_hello,
    decode_send,
    encode_deliver,
    encode_error,
    encode_frame,
    encode_gap,
    encode_refused,
    encode_reply,
)
from support.oracles.model_server import ModelConnection, ModelServer

ROOM = "room:a"
DIRECT = "dm:me:you"


class Pair:
    """A session and a model server, with a connection that moves everything at once."""

    def __init__(self, *rooms: str, server: ModelServer | None = None) -> None:
        self.server = server or ModelServer()
        self.session = ClientSession()
        self.connection: ModelConnection
        self.told: list[events.SessionEvent] = []
        self.sent = b""
        self.connect()
        for room in rooms:
            self.session.request(Operation.JOIN, ChannelRequest(room), self.now)
        self.move()

    @property
    def now(self) -> int:
        return self.server.now_ms

    def connect(self) -> None:
        self.connection = self.server.connect()
        self.session.connect(self.now, "token:me")
        self.move()

    def move(self) -> None:
        while True:
            up = self.session.data_to_send()
            self.sent += up
            if up:
                self.connection.receive(up)
            down = self.connection.take_output()
            self.told += self.session.receive(down, self.now)
            if not up and not down:
                return

    def say(self, *bodies: bytes, channel: str = ROOM) -> None:
        for body in bodies:
            self.server.say(channel, "you", body)
        self.move()

    def cut(self) -> None:
        self.connection.lost()
        self.told += self.session.disconnected(self.now)

    def pass_time(self, ms: int) -> None:
        self.server.now_ms += ms
        self.told += self.session.tick(self.now)
        self.move()

    def told_of(self, kind: type) -> list[object]:
        return [event for event in self.told if isinstance(event, kind)]

    def bodies(self, channel: str = ROOM) -> list[bytes]:
        return [event.body for event in self.told if isinstance(event, events.Message) and event.channel == channel]

    def frames(self, kind: FrameType) -> list[bytes]:
        """The frames of a kind that the client has sent; forgets them all."""
        found = [body for frame_type, body in FrameParser().feed(self.sent) if frame_type == kind]
        self.sent = b""
        return found


# ---- Time


def test_heartbeat_and_giving_up() -> None:
    pair = Pair()
    assert pair.session.next_deadline_ms() == pair.now + 30_000
    pair.pass_time(29_999)
    assert pair.frames(FrameType.FRAME_PING) == []
    pair.pass_time(1)
    assert len(pair.frames(FrameType.FRAME_PING)) == 1
    pair.pass_time(30_000)  # the PONG has come: the next PING, and no end
    assert len(pair.frames(FrameType.FRAME_PING)) == 1
    pair.server.now_ms += 30_000
    pair.session.tick(pair.now)
    pair.session.data_to_send()  # lost: no PONG
    pair.server.now_ms += 59_999
    pair.session.tick(pair.now)
    assert not pair.session.closing
    pair.server.now_ms += 1
    pair.session.tick(pair.now)
    assert pair.session.closing
    (closed,) = pair.session.disconnected(pair.now)
    assert isinstance(closed, events.ConnectionClosed)
    assert closed.error is not None
    assert closed.error.name == "server_silent"
    assert closed.error.retry


def test_an_owner_that_does_not_read_excuses_the_silence() -> None:
    pair = Pair()
    for _ in range(10):
        pair.server.now_ms += 30_000
        pair.session.excuse_silence()
        pair.session.tick(pair.now)
    assert not pair.session.closing


def test_a_server_that_says_no_welcome_is_given_up() -> None:
    session = ClientSession()
    session.connect(0, "token")
    assert session.next_deadline_ms() == 10_000
    session.tick(10_000)
    assert session.closing


def test_a_warning_and_a_refresh() -> None:
    pair = Pair()
    pair.connection.event(operations.TokenExpiringEvent(60_000))
    pair.move()
    assert pair.told_of(events.TokenExpiring) == [events.TokenExpiring(60_000)]
    pair.server.deferring = True
    request_id = pair.session.request(Operation.REFRESH, operations.RefreshRequest("new"), pair.now)
    pair.move()
    reply = operations.RefreshReply(b"newer ticket", 1000, 5000)
    pair.connection.requests.clear()
    pair.connection.write(encode_reply(request_id, operations.encode_body(reply)))
    pair.move()
    pair.cut()
    pair.session.connect(pair.now, "token:me")
    _, body = FrameParser().feed(pair.session.data_to_send())[0]
    hello = msgspec.msgpack.decode(decode_hello(body)[1], type=Hello)
    assert hello.ticket == b"newer ticket", "the older one does not know the new token"


def test_a_ping_is_answered() -> None:
    pair = Pair()
    pair.connection.write(encode_frame(FrameType.FRAME_PING, b"12345678"))
    pair.move()
    assert pair.frames(FrameType.FRAME_PONG) == [b"12345678"]


# ---- Sends


def test_the_window() -> None:
    pair = Pair(ROOM)
    for n in range(128):
        assert not pair.session.send_window_full
        pair.session.send(ROOM, b"%d" % n, pair.now)
    assert pair.session.send_window_full
    with pytest.raises(Overloaded):
        pair.session.send(ROOM, b"", pair.now)
    pair.move()
    pair.server.commit()
    pair.move()
    pair.session.send(ROOM, b"128", pair.now)
    assert pair.session.send_window_full


def test_sends_that_a_stopping_server_refuses_go_out_on_the_next_connection() -> None:
    pair = Pair(ROOM)
    pair.session.send(ROOM, b"before", pair.now)
    pair.move()
    pair.connection.goaway(1000, 1000, draining=True)
    for n in range(127):
        pair.session.send(ROOM, b"%d" % n, pair.now)
    pair.move()
    assert not pair.told_of(events.SendFailed)
    assert not pair.session.is_idle  # the first still has its answer to come
    pair.cut()
    pair.frames(FrameType.FRAME_SEND)
    pair.connect()
    # Up to seq 128: what was refused has new seqs, and the window still begins at the first.
    assert [decode_send(body)[0] for body in pair.frames(FrameType.FRAME_SEND)] == [1]
    while pair.server.in_flight:
        pair.server.commit()
        pair.move()
    assert pair.bodies() == [b"before", *(b"%d" % n for n in range(127))]
    assert len(pair.told_of(events.Acknowledged)) == 128


def test_the_window_opens_by_refusals_too() -> None:
    pair = Pair(ROOM)
    pair.session.send(ROOM, b"first", pair.now)
    pair.move()
    pair.connection.goaway(1000, 1000, draining=True)
    for n in range(127):
        pair.session.send(ROOM, b"%d" % n, pair.now)
    pair.move()
    pair.cut()
    pair.connect()
    assert len(pair.server.in_flight) == 2  # the first, twice
    not_allowed = encode_error(ErrorCode.ERROR_NOT_ALLOWED, 0, 0, b"")
    pair.connection.write(encode_refused(1, not_allowed))
    pair.move()
    assert len(pair.server.in_flight) == 2 + 127
    (failed,) = pair.told_of(events.SendFailed)
    assert isinstance(failed, events.SendFailed)
    assert failed.error.code == ErrorCode.ERROR_OUTCOME_UNKNOWN  # the first copy may be in the log


def test_an_uncertain_refusal_ends_nothing() -> None:
    pair = Pair(ROOM)
    pair.server.faults.sends_forgotten = 1
    pair.session.send(ROOM, b"x", pair.now)
    pair.move()
    assert pair.told_of(events.SendFailed) == []
    pair.pass_time(1000)
    pair.server.commit()
    pair.move()
    assert pair.bodies() == [b"x"]
    assert len(pair.told_of(events.Acknowledged)) == 1


def test_a_resend_says_so() -> None:
    pair = Pair(ROOM)
    pair.session.send(ROOM, b"x", pair.now)
    pair.session.data_to_send()
    pair.cut()
    pair.frames(FrameType.FRAME_SEND)
    pair.connect()
    ((seq, _, flags, body),) = [decode_send(body) for body in pair.frames(FrameType.FRAME_SEND)]
    assert (seq, flags, body) == (1, SendFlag.SEND_RESEND, b"x")


def test_what_cannot_be_sent() -> None:
    pair = Pair(ROOM)
    with pytest.raises(NotJoined):
        pair.session.send("room:other", b"", pair.now)
    with pytest.raises(BodyTooLarge):
        pair.session.send(ROOM, bytes(1001), pair.now)
    with pytest.raises(BodyTooLarge):
        pair.session.signal(ROOM, 1, bytes(129), pair.now)


# ---- Channels


def test_hello_stays_below_the_limit_of_a_frame() -> None:
    rooms = [f"room:{n:0>64}" for n in range(200)]
    pair = Pair(*rooms)
    pair.cut()
    pair.sent = b""
    pair.connect()
    (hello,) = pair.frames(FrameType.FRAME_HELLO)
    in_hello = msgspec.msgpack.decode(decode_hello(hello)[1], type=Hello).channels
    assert 40 < len(in_hello) < 200
    assert sorted(pair.connection.numbers) == sorted(rooms)
    pair.say(b"to the last", channel=rooms[-1])
    assert pair.bodies(rooms[-1]) == [b"to the last"]


def test_more_live_messages_than_are_held() -> None:
    pair = Pair(ROOM)
    pair.server.deferring = True
    pair.server.faults.deliveries_left_out = 1
    n_messages = 3 * channel_track.MAX_HELD
    pair.say(*(b"%d" % n for n in range(n_messages)))
    assert pair.bodies() == []
    pair.server.deferring = False
    pair.connection.answer_one()
    pair.move()
    assert pair.bodies() == [b"%d" % n for n in range(n_messages)]


def test_a_gap_during_a_sync_is_healed_too() -> None:
    pair = Pair(ROOM)
    pair.server.deferring = True
    pair.server.faults.deliveries_left_out = 1
    pair.say(b"1")
    pair.server.history_ends = {ROOM: pair.server.head(ROOM)[0]}
    pair.server.faults.syncs_behind = 1
    pair.server.faults.deliveries_left_out = 1
    pair.say(b"2")
    pair.connection.answer_one()
    pair.move()
    assert pair.bodies() == [b"1"]
    pair.server.deferring = False
    while pair.connection.requests:
        pair.connection.answer_one()
    pair.move()
    pair.pass_time(5000)
    assert pair.bodies() == [b"1", b"2"]


def test_history_that_lost_what_was_missed() -> None:
    pair = Pair(ROOM)
    pair.say(b"1")
    pair.cut()
    pair.say(b"2", b"3", b"4")
    stored = pair.server.channels[ROOM]
    pair.server.channels[ROOM] = stored[3:]
    pair.connect()
    assert pair.bodies() == [b"1", b"4"]
    assert pair.told_of(events.HistoryTruncated) == [events.HistoryTruncated(ROOM, stored[0].id, stored[3].id)]
    pair.say(b"5")
    assert not pair.told_of(events.HashMismatch)


def test_history_that_never_catches_up_is_not_waited_for_for_ever() -> None:
    pair = Pair(ROOM)
    pair.server.history_ends = {}
    pair.server.faults.syncs_behind = 10_000
    pair.server.faults.deliveries_left_out = 1
    pair.say(b"1", b"2")
    for _ in range(channel_track.MAX_EMPTY_SYNCS + 1):
        pair.pass_time(5000)
    assert pair.bodies() == [b"2"]
    assert len(pair.told_of(events.HistoryTruncated)) == 1
    pair.say(b"3")
    assert pair.bodies() == [b"2", b"3"]


def test_a_head_that_is_not_known() -> None:
    pair = Pair()
    reply = operations.JoinReply(ROOM, 1, UNKNOWN_ID, 0)
    pair.session._book.joined(reply, pair.now)
    for n, id in enumerate((50, 60)):
        prev = 49 if n == 0 else 50
        pair.connection.write(encode_deliver(1, 0, id, prev, 0, 1, b"you", b"%d" % n))
    pair.move()
    assert pair.bodies() == [b"0", b"1"]


def test_a_gap_is_the_first_that_is_heard() -> None:
    pair = Pair()
    pair.server.say(ROOM, "you", b"before")
    head, _ = pair.server.head(ROOM)
    pair.session._book.joined(operations.JoinReply(ROOM, 1, UNKNOWN_ID, 0), pair.now)
    pair.server.say(ROOM, "you", b"left out")
    pair.connection.write(encode_gap(1, head, pair.server.head(ROOM)[0]))
    pair.move()
    assert pair.bodies() == [b"left out"]


def test_an_answer_to_a_join_that_is_older_than_what_was_shown() -> None:
    pair = Pair(ROOM)
    pair.say(b"1")
    old = operations.JoinReply(ROOM, pair.connection.numbers[ROOM], *pair.server.head(ROOM))
    request_id = pair.session.request(Operation.JOIN, ChannelRequest(ROOM), pair.now)
    pair.session.data_to_send()
    pair.say(b"2")
    pair.connection.write(encode_reply(request_id, operations.encode_body(old)))
    pair.say(b"3")
    assert pair.bodies() == [b"1", b"2", b"3"]
    assert not pair.told_of(events.HashMismatch)


def test_leaving_before_the_join_is_answered() -> None:
    pair = Pair()
    for operation in (Operation.JOIN, Operation.LEAVE):
        pair.session.request(operation, ChannelRequest(ROOM), pair.now)
    pair.move()
    assert pair.session.channels == []


def test_an_answer_to_a_sync_from_before_the_channel_was_left() -> None:
    pair = Pair(ROOM)
    pair.server.deferring = True
    pair.server.faults.deliveries_left_out = 1
    pair.say(b"missed")
    for operation in (Operation.LEAVE, Operation.JOIN):
        pair.session.request(operation, ChannelRequest(ROOM), pair.now)
    pair.move()
    while pair.connection.requests:
        pair.connection.answer_one()
        pair.move()
    pair.say(b"after")
    assert pair.bodies() == [b"after"]


def test_kicked_while_a_sync_is_under_way() -> None:
    pair = Pair(ROOM)
    pair.server.deferring = True
    pair.server.faults.deliveries_left_out = 1
    pair.say(b"1")
    pair.server.kick("me", ROOM)
    pair.connection.answer_one()
    pair.move()
    assert pair.session.channels == []
    assert pair.bodies() == []


def test_a_join_that_is_refused_for_now_is_tried_again() -> None:
    pair = Pair(ROOM)
    pair.cut()
    pair.server.faults.joins_refused = 3
    pair.connect()
    pair.session.send(ROOM, b"waits", pair.now)
    for _ in range(3):
        assert ROOM not in pair.connection.numbers
        pair.pass_time(5000)
    assert ROOM in pair.connection.numbers
    assert len(pair.server.in_flight) == 1


def test_a_join_that_is_refused_for_good_ends_what_waited() -> None:
    pair = Pair(ROOM)
    sent = pair.session.send(ROOM, b"on its way", pair.now)
    pair.session.data_to_send()
    pair.cut()
    waiting = pair.session.send(ROOM, b"waits", pair.now)
    pair.server.banned.add(("me", ROOM))
    pair.connect()
    assert [lost.channel for lost in pair.told_of(events.ChannelLost) if isinstance(lost, events.ChannelLost)] == [ROOM]
    failed = {event.handle: event.error for event in pair.told if isinstance(event, events.SendFailed)}
    assert failed[sent].code == ErrorCode.ERROR_OUTCOME_UNKNOWN
    assert failed[waiting].code == ErrorCode.ERROR_NOT_ALLOWED


def test_a_private_chat_that_was_closed_goes_on_where_it_ended() -> None:
    pair = Pair()
    pair.say(b"1", channel=DIRECT)
    pair.server.kick("me", DIRECT)
    pair.say(b"2", b"3", channel=DIRECT)
    assert pair.bodies(DIRECT) == [b"1"]
    pair.server.banned.clear()
    pair.say(b"4", channel=DIRECT)
    assert pair.bodies(DIRECT) == [b"1", b"2", b"3", b"4"]


def test_private_chats_beyond_what_welcome_tells() -> None:
    """A player with more chats than WELCOME tells: an old one that it did not tell does not show its whole past."""
    server = ModelServer()
    server.say(DIRECT, "you", b"long ago")
    for n in range(256):
        server.say(f"dm:me:p{n}", f"p{n}", b"newer")
    server.now_ms += 60_000
    pair = Pair(server=server)
    pair.cut()
    server.say(DIRECT, "you", b"while away")
    server.say("dm:me:z", "z", b"somebody new")
    pair.connect()
    assert pair.bodies(DIRECT) == [b"while away"]
    assert pair.bodies("dm:me:z") == [b"somebody new"]
    pair.say(b"live", channel=DIRECT)
    assert pair.bodies(DIRECT) == [b"while away", b"live"]


# ---- Servers that break their promises


@pytest.mark.parametrize("change", ["body", "sender", "order", "lost", "doubled"])
def test_the_hash_finds_what_was_changed(change: str) -> None:
    pair = Pair(ROOM)
    pair.server.deferring = True
    pair.say(b"1")
    stored = [pair.server.say(ROOM, "you", b"%d" % n) for n in range(2, 5)]
    pair.connection.take_output()
    if change == "body":
        stored[1] = dataclasses.replace(stored[1], body=b"forged")
    elif change == "sender":
        stored[1] = dataclasses.replace(stored[1], sender="eve")
    elif change == "order":
        stored[0], stored[1] = (
            dataclasses.replace(stored[1], id=stored[0].id, prev=stored[0].prev),
            dataclasses.replace(stored[0], id=stored[1].id, prev=stored[1].prev),
        )
    elif change == "lost":
        stored[2] = dataclasses.replace(stored[2], prev=stored[0].id)
        del stored[1]
    else:
        again = dataclasses.replace(stored[1], id=stored[1].id + 1, prev=stored[1].id)
        stored[2] = dataclasses.replace(stored[2], prev=again.id)
        stored.insert(2, again)
    number = pair.connection.numbers[ROOM]
    for each in stored:
        frame = encode_deliver(number, 0, each.id, each.prev, each.hash, each.time, each.sender.encode(), each.body)
        pair.connection.write(frame)
    pair.move()
    found = pair.told_of(events.HashMismatch)
    assert found
    assert len(pair.bodies()) == 1 + len(stored)  # it is told, and the chat goes on
    assert not pair.session.closing
    pair.say(b"5")  # the chain goes on from what the server told
    assert pair.told_of(events.HashMismatch) == found


def test_a_log_that_lost_what_was_shown() -> None:
    pair = Pair(ROOM)
    pair.say(b"1", b"2")
    lost = pair.server.channels[ROOM].pop()
    pair.server.next_id = lost.id
    pair.cut()
    pair.connect()
    assert pair.told_of(events.HashMismatch) == [events.HashMismatch(ROOM, lost.id)]
    pair.say(b"another 2")
    assert pair.bodies() == [b"1", b"2", b"another 2"]


def test_a_new_epoch() -> None:
    pair = Pair(ROOM)
    pair.say(b"1", b"2", b"3")
    pair.say(b"psst", channel=DIRECT)
    pair.cut()
    pair.server.new_epoch("epoch-2")
    for n in range(5):
        pair.server.say(ROOM, "you", b"missed %d" % n)
        pair.server.say(DIRECT, "you", b"missed %d" % n)
    pair.connect()
    assert pair.told_of(events.EpochChanged) == [events.EpochChanged("epoch-2")]
    pair.say(b"4")
    pair.say(b"again", channel=DIRECT)
    assert pair.bodies() == [b"1", b"2", b"3", b"4"]
    assert pair.bodies(DIRECT) == [b"psst", b"again"]
    assert not pair.told_of(events.HashMismatch)


def test_what_is_not_known_is_ignored() -> None:
    pair = Pair(ROOM)
    pair.told.clear()
    pair.connection.write(encode_frame(0x7F, b"a later version's"))
    pair.connection.write(encode_frame(FrameType.FRAME_EVENT, msgspec.msgpack.encode({"event": "confetti"})))
    pair.connection.write(encode_deliver(99, 0, 1, 0, 0, 1, b"you", b"no such number"))
    pair.connection.write(encode_frame(FrameType.FRAME_REPLY, b"\0\0\0\x63\x80"))
    pair.connection.write(encode_frame(FrameType.FRAME_ACK, bytes(24)))
    pair.move()
    assert pair.told == []
    assert not pair.session.closing
