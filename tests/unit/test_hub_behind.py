"""Receivers that read too slowly: what they are left out of, what tells them, and that it adds up to everything."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore_ext.constants import UNKNOWN_ID, FrameType
from chatcore_ext.frame import FrameParser, decode_deliver, decode_gap, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED
from support.hub_world import MAX_SERVER_BODY, SocketPeer, TransportPeer, World

ROOMS = [b"room:a", b"room:b"]
MAX_PENDING, PAUSE_PENDING = 40_000, 20_000


class Listener:
    """Follows the rules of docs/protocol.md, "Receiving", the slow and obvious way: the log is its history."""

    def __init__(self, world: World, *, is_socket: bool) -> None:
        self.world = world
        world.peer_kind = (lambda hub: SocketPeer(hub, send_buffer=4096)) if is_socket else TransportPeer
        self.peer = world.login(b"slow", 1)
        world.peer_kind = SocketPeer
        self.rooms = {world.join(self.peer, room): room for room in ROOMS}
        self.parser = FrameParser(MAX_SERVER_BODY)
        self.last = dict.fromkeys(ROOMS, 0)
        self.seen: dict[bytes, list[int]] = {room: [] for room in ROOMS}
        self.n_signals = 0

    def read(self, size: int, log: dict[bytes, list[int]]) -> None:
        data = self.peer.receive(size) if isinstance(self.peer, SocketPeer) else self.peer.receive()
        for kind, body in self.parser.feed(data):
            if kind == FrameType.FRAME_DELIVER:
                number, _, id, prev, *_ = decode_deliver(body)
                room = self.rooms[number]
                assert prev == (self.last[room] or UNKNOWN_ID), "no hole that was not told"
                self._see(room, id)
            elif kind == FrameType.FRAME_GAP:
                number, first, last = decode_gap(body)
                room = self.rooms[number]
                missed = [id for id in log[room] if first < id <= last]
                assert first >= self.last[room]
                assert missed
                assert missed == [id for id in log[room] if self.last[room] < id <= last], "nothing before is lost"
                for id in missed:
                    self._see(room, id)
            else:
                assert kind == FrameType.FRAME_SIGNAL
                self.n_signals += 1

    def _see(self, room: bytes, id: int) -> None:
        assert id > self.last[room]
        self.last[room] = id
        self.seen[room].append(id)


@pytest.fixture
def world() -> Iterator[World]:
    with World(max_pending_size=MAX_PENDING, pause_pending_size=PAUSE_PENDING, frame_burst=1_000_000) as made:
        yield made


STEPS = st.lists(
    st.tuples(st.sampled_from(["say", "burst", "signal", "read", "pause", "resume"]), st.integers(0, 2**16)),
    min_size=20,
    max_size=120,
)


@pytest.mark.parametrize("is_socket", [True, False], ids=["socket", "transport"])
@given(steps=STEPS)
@settings(max_examples=60)
def test_deliveries_and_gaps_add_up_to_everything(is_socket: bool, steps: list[tuple[str, int]]) -> None:
    with World(max_pending_size=MAX_PENDING, pause_pending_size=PAUSE_PENDING, frame_burst=1_000_000) as world:
        listener = Listener(world, is_socket=is_socket)
        quick = world.login(b"quick", 2)
        quick_rooms = [world.join(quick, room) for room in ROOMS]
        log: dict[bytes, list[int]] = {room: [] for room in ROOMS}
        heard = 0
        for step, number in steps:
            room = number % 2
            if step == "say":
                log[ROOMS[room]].append(world.say(ROOMS[room], b"quick", bytes(number % 3000)))
            elif step == "burst":  # more than the bound, in one turn
                records = [world.record(ROOMS[n % 2], b"quick", bytes(1000)) for n in range(number % 90)]
                for offset, _, channel, _ in records:
                    log[channel].append(offset)
                world.hub.deliver(0, records)
            elif step == "signal":
                quick.send(encode_signal(quick_rooms[room], 1, b"", b""))
            elif step == "read":
                listener.read(number, log)
            elif isinstance(listener.peer, TransportPeer):
                (listener.peer.link.pause_writing if step == "pause" else listener.peer.link.resume_writing)()
            heard += len(world.delivered(quick))
            assert world.hub.pending(listener.peer.handle) <= MAX_PENDING
        if isinstance(listener.peer, TransportPeer):
            listener.peer.link.resume_writing()
        for _ in range(200):
            world.pump()
            listener.read(1 << 20, log)
        assert listener.seen == log
        assert heard + world.hub.counters()["deliveries_left_out"] >= sum(map(len, log.values()))
        assert world.take(EVENT_DISCONNECTED) == []
        world.say(ROOMS[0], b"quick", b"last")
        world.pump()
        before = world.hub.counters()["gaps"]
        log[ROOMS[0]].append(world.offset)
        listener.read(1 << 20, log)
        assert listener.seen == log
        assert world.hub.counters()["gaps"] == before, "it has caught up: live again"


def test_a_receiver_that_does_not_read_is_left_out_and_keeps_its_place(world: World) -> None:
    listener = Listener(world, is_socket=True)
    quick = world.login(b"quick", 2)
    world.join(quick, ROOMS[0])
    log: dict[bytes, list[int]] = {room: [] for room in ROOMS}
    for _ in range(200):
        log[ROOMS[0]].append(world.say(ROOMS[0], b"quick", bytes(1000)))
        assert len(world.delivered(quick)) == 1, "the others do not notice"
        assert world.hub.pending(listener.peer.handle) <= PAUSE_PENDING
    counters = world.hub.counters()
    assert 100 < counters["deliveries_left_out"] < 200
    assert counters["gaps"] == 0
    while listener.seen != log:
        listener.read(random.Random(1).randrange(1, 9000), log)
        world.pump()
    assert world.hub.counters()["gaps"] == 1


def test_of_signals_the_last_one_waits_for_who_is_behind(world: World) -> None:
    listener = Listener(world, is_socket=True)
    quick = world.login(b"quick", 2)
    number = world.join(quick, ROOMS[0])
    for _ in range(30):
        world.say(ROOMS[0], b"quick", bytes(1000))
        world.pump()
    for _ in range(3):
        quick.send(encode_signal(number, 1, b"", b""))
        world.pump()
    assert world.hub.counters()["signals_coalesced"] == 3
    assert world.hub.counters()["signals_left_out"] == 2
    assert world.hub.counters()["signal_deliveries"] == 0
    log = {ROOMS[0]: list(range(1, 31)), ROOMS[1]: []}
    while listener.seen != log:
        listener.read(9000, log)
        world.pump()
    assert listener.n_signals == 1
    quick.send(encode_signal(number, 1, b"", b""))
    world.pump()
    listener.read(9000, log)
    assert listener.n_signals == 2


def test_what_a_socket_can_take_in_a_turn_is_not_bounded(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOMS[0])
    world.hub.deliver(0, [world.record(ROOMS[0], b"bob", bytes(1000)) for _ in range(100)])
    assert len(world.delivered(peer)) == 100
    assert world.hub.counters()["deliveries_left_out"] == 0


def test_leaving_while_behind(world: World) -> None:
    listener = Listener(world, is_socket=True)
    for _ in range(40):
        world.say(ROOMS[0], b"quick", bytes(1000))
        world.say(ROOMS[1], b"quick", bytes(1000))
        world.pump()
    assert world.hub.leave(listener.peer.handle, ROOMS[0])
    again = world.join(listener.peer, ROOMS[0])
    kinds = []
    for _ in range(100):
        assert isinstance(listener.peer, SocketPeer)
        kinds += listener.parser.feed(listener.peer.receive(9000))
        world.pump()
    gaps = [decode_gap(body) for kind, body in kinds if kind == FrameType.FRAME_GAP]
    assert len(gaps) == 1, "of the channel that it is still in"
    assert gaps[0][0] != again
