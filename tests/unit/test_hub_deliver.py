"""From log records to DELIVER frames: places, copies, control records, hidden senders and private chats."""

from collections.abc import Iterator

import pytest

from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.hub import Hub
from chatcore_ext.log_view import LogView
from chatcore_ext.record import encode_record
from support.hub_world import RECORD_CONTROL, World

ROOM = b"room:hall"
DIRECT = b"dm:ann:bob"
UNKNOWN = 2**64 - 1


@pytest.fixture(params=["socket", "transport"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param) as made:
        yield made


def test_messages_carry_their_place(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM)
    world.hub.learn_head(ROOM, 0, 0, 0)
    first = chain_hash(0, 1, b"bob", b"one")
    world.hub.deliver(
        0, [world.record(ROOM, b"bob", b"one"), world.record(b"room:else", b"x", b""), world.record(ROOM, b"cid", b"")]
    )
    assert world.delivered(peer) == [
        (number, 0, 1, 0, first, 2001, b"bob", b"one"),
        (number, 0, 3, 1, chain_hash(first, 3, b"cid", b""), 2003, b"cid", b""),
    ]
    assert world.hub.head(ROOM) == (3, chain_hash(first, 3, b"cid", b""))


def test_the_first_copy_counts(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    for body in (b"first", b"second"):
        world.hub.deliver(0, [world.record(ROOM, b"bob", body, session=5, seq=7)])
    assert [body for *_, body in world.delivered(peer)] == [b"first"]
    assert world.hub.counters()["records_repeated"] == 1


def test_malformed_records_are_counted_and_skipped(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    good = world.record(ROOM, b"bob", b"good")
    bad = [(9, 1, ROOM, value) for value in (b"", b"\x01", b"\xff" + good[3][1:], good[3][:27])]
    unplaced = (0, 1, ROOM, encode_record(1, 1, 1, 1, b"bob", b"offset 0 is no id"))
    world.hub.deliver(0, [*bad, unplaced, good])
    assert [body for *_, body in world.delivered(peer)] == [b"good"]
    counters = world.hub.counters()
    assert (counters["records"], counters["records_malformed"]) == (6, 5)


def test_control_records_come_in_log_order(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    control = encode_record(RECORD_CONTROL, 0, 0, 0, b"", b"kick bob")
    before, after = world.record(ROOM, b"bob", b"before"), world.record(ROOM, b"bob", b"after")
    world.hub.deliver(0, [before, (2, 500, ROOM, control), after])
    assert world.controls == [(ROOM, 2, 500, b"kick bob")]
    assert [body for *_, body in world.delivered(peer)] == [b"before", b"after"]


def test_a_control_record_takes_effect_before_the_next_message() -> None:
    def on_control(channel: bytes, offset: int, time: int, body: bytes) -> None:
        assert world.hub.remove_player(body, channel) == [bob.handle]

    with World() as world:
        world.hub.close()
        world.hub = Hub(world.view, on_direct=lambda channel, connections: None, on_control=on_control)
        ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
        for peer in (ann, bob):
            world.join(peer, ROOM)
        kick = (2, 500, ROOM, encode_record(RECORD_CONTROL, 0, 0, 0, b"", b"bob"))
        world.hub.deliver(0, [world.record(ROOM, b"ann", b"1"), kick, world.record(ROOM, b"ann", b"2")])
        assert [body for *_, body in world.delivered(ann)] == [b"1", b"2"]
        assert [body for *_, body in world.delivered(bob)] == [b"1"]


def test_errors_of_callbacks_come_out_after_the_batch() -> None:
    def fail(*arguments: object) -> None:
        raise LookupError("of the callback")

    with World() as world:
        world.hub.close()
        world.hub = Hub(world.view, on_direct=fail, on_control=fail)
        ann = world.login(b"ann", 1)
        world.join(ann, ROOM)
        control = (5, 500, ROOM, encode_record(RECORD_CONTROL, 0, 0, 0, b"", b""))
        with pytest.raises(LookupError, match="of the callback"):
            world.hub.deliver(0, [control, world.record(DIRECT, b"bob", b"x"), world.record(ROOM, b"bob", b"y")])
        assert [body for *_, body in world.delivered(ann)] == [b"y"]


def test_hidden_senders_are_empty_entries(world: World) -> None:
    ann, bob, cid = (world.login(name, session) for session, name in enumerate([b"ann", b"bob", b"cid"], 1))
    desk = world.login(b"ann", 4)
    for peer in (ann, bob, cid, desk):
        world.join(peer, ROOM)
    world.hub.hide(b"ann", b"bob")
    world.hub.hide(b"ann", b"bob")  # again
    world.hub.hide(b"nobody", b"bob")
    world.say(ROOM, b"bob", b"you cannot see this")
    world.say(ROOM, b"cid", b"seen")
    world.say(ROOM, b"ann", b"own")
    full = world.delivered(bob)
    assert [body for *_, body in full] == [b"you cannot see this", b"seen", b"own"]
    assert world.delivered(cid) == full
    hidden = (full[0][0], 1, *full[0][2:6], b"", b"")
    assert world.delivered(ann) == [hidden, *full[1:]]
    assert world.delivered(desk) == [hidden, *full[1:]]
    counters = world.hub.counters()
    assert (counters["deliveries"], counters["deliveries_hidden"]) == (12, 2)
    world.hub.show(b"ann", b"bob")
    world.hub.show(b"ann", b"bob")
    world.say(ROOM, b"bob", b"again")
    assert world.delivered(ann)[0][-1] == b"again"


def test_hiding_ends_with_the_last_session() -> None:
    with World(resume_grace_ms=1000) as world:
        ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
        world.join(ann, ROOM)
        world.hub.hide(b"ann", b"bob")
        ann.close()
        world.pump()
        again = world.greet()
        world.hub.attach(again.handle, 1, b"ann")
        world.join(again, ROOM)
        world.say(ROOM, b"bob", b"hidden still")
        assert world.delivered(again)[0][-1] == b""
        again.close()
        world.pump()
        world.pass_time(1100)
        later = world.login(b"ann", 3)
        world.join(later, ROOM)
        world.say(ROOM, b"bob", b"shown")
        assert world.delivered(later)[0][-1] == b"shown"
        assert not bob.closed


class Introducer:
    """What the shell does in on_direct: subscribe, and tell with the head before the message."""

    def __init__(self) -> None:
        self.view = LogView()
        self.hub = Hub(self.view, on_direct=self.on_direct, on_control=lambda *control: None)
        self.calls: list[tuple[bytes, list[int], tuple[int, int] | None]] = []

    def on_direct(self, channel: bytes, connections: list[int]) -> None:
        head = self.hub.head(channel)
        self.calls.append((channel, connections, head))
        for connection in connections:
            generation = self.hub.begin_join(connection, channel)
            assert self.hub.complete_join(connection, channel, generation, True) > 0
            assert self.hub.event(connection, b"opened %d" % (head[0] if head else UNKNOWN))


@pytest.fixture
def chat(world: World) -> tuple[World, Introducer]:
    introducer = Introducer()
    world.hub.close()
    world.hub, world.view = introducer.hub, introducer.view
    return world, introducer


def test_private_message_introduces_the_chat(chat: tuple[World, Introducer]) -> None:
    world, introducer = chat
    phone, desk, bob, cid = (
        world.login(name, session) for session, name in enumerate([b"ann", b"ann", b"bob", b"cid"], 1)
    )
    world.join(desk, DIRECT)  # this one has opened it itself
    world.say(DIRECT, b"bob", b"hi")
    assert introducer.calls == [(DIRECT, [phone.handle, bob.handle], None)]
    frames = world.frames(phone)
    assert frames[0][1] == b"opened %d" % UNKNOWN
    assert frames[1][1].endswith(b"bobhi")
    assert len(world.frames(bob)) == 2
    assert len(world.delivered(desk)) == 1
    assert world.frames(cid) == []
    world.say(DIRECT, b"ann", b"ho")
    assert len(introducer.calls) == 1, "everybody knows"
    assert len(world.delivered(bob)) == 1
    late = world.login(b"bob", 9)
    world.say(DIRECT, b"ann", b"ho")
    channel, connections, head = introducer.calls[1]
    assert (channel, connections) == (DIRECT, [late.handle])
    assert head is not None
    assert head[0] == 2, "the head before the message that is being delivered"
    assert world.hub.head(DIRECT) != head
    [opened, delivered] = world.frames(late)
    assert opened[1] == b"opened 2"
    assert delivered[1].endswith(b"annho")


def test_a_copy_introduces_nobody(chat: tuple[World, Introducer]) -> None:
    world, introducer = chat
    ann = world.login(b"ann", 1)
    world.hub.deliver(0, [world.record(DIRECT, b"bob", b"1", session=5, seq=1)])
    world.hub.leave(ann.handle, DIRECT)
    world.hub.deliver(0, [world.record(DIRECT, b"bob", b"1", session=5, seq=1)])
    assert len(introducer.calls) == 1


def test_a_join_under_way_is_left_to_its_answer(chat: tuple[World, Introducer]) -> None:
    world, introducer = chat
    ann = world.login(b"ann", 1)
    generation = world.hub.begin_join(ann.handle, DIRECT)
    world.say(DIRECT, b"bob", b"between")
    assert introducer.calls == []
    assert world.hub.complete_join(ann.handle, DIRECT, generation, True) > 0
    head = world.hub.head(DIRECT)
    assert head is not None
    assert head[0] == world.offset, "the client syncs up to here"
    assert world.frames(ann) == []


@pytest.mark.parametrize("channel", [b"dm:", b"dm:ann", b"dm:ann:", b"dm::ann", b"dmx:ann:bob", b"dm:anna:bobb", b"x"])
def test_what_is_no_chat_of_these_players(chat: tuple[World, Introducer], channel: bytes) -> None:
    world, introducer = chat
    world.login(b"ann", 1)
    world.login(b"bob", 2)
    world.say(channel, b"bob", b"hi")
    assert introducer.calls == []
