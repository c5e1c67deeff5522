"""What a hub measures: frames per send call, and how long a SEND takes to its ACK and to its delivery."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from chatcore_ext.constants import SendFlag
from chatcore_ext.durations import DurationHistogram
from chatcore_ext.frame import encode_send
from chatcore_ext.hub import EVENT_SEND
from support.hub_world import PEER_KINDS, Peer, SocketPeer, World

ROOM = b"room:a"


@pytest.fixture(params=PEER_KINDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with World(request.param, frame_burst=1_000_000) as made:
        yield made


def counts(world: World, name: str) -> dict[float, int]:
    """Values of each bucket alone, without the empty ones."""
    buckets, _ = world.hub.histograms()[name]
    alone = {end: count - before for (end, count), (_, before) in zip(buckets, [(0, 0), *buckets], strict=False)}
    return {end: count for end, count in alone.items() if count}


def total(world: World, name: str) -> int:
    return world.hub.histograms()[name][0][-1][1]


def test_a_duration_falls_into_the_first_bucket_that_holds_it() -> None:
    histogram = DurationHistogram()
    values = [-1.0, 0.0, 0.0001, 0.00011, 0.3, 10.0, 10.1, 1e6]
    for value in values:
        histogram.observe(value)
    buckets, in_all = histogram.snapshot()
    ends = [end for end, _ in buckets]
    assert ends == sorted(ends)
    assert ends[-1] == math.inf
    for end, count in buckets:
        assert count == sum(value <= end for value in values), end
    assert in_all == pytest.approx(sum(value for value in values if value > 0), abs=1e-5)


@pytest.mark.parametrize(("n_frames", "bucket"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128), (1500, math.inf)])
def test_frames_per_send_call(world: World, n_frames: int, bucket: float) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    world.pump()
    calls, (_, frames) = counts(world, "frames_per_send_call"), world.hub.histograms()["frames_per_send_call"]
    for i in range(n_frames):
        world.say(ROOM, b"bob", b"%d" % i)
    world.pump()
    after = counts(world, "frames_per_send_call")
    assert after == calls | {bucket: calls.get(bucket, 0) + 1}
    assert world.hub.histograms()["frames_per_send_call"][1] - frames == n_frames
    assert total(world, "frames_per_send_call") == world.hub.counters()["send_calls"]


def test_frames_of_many_pieces_are_counted_one_by_one(world: World) -> None:
    peer = world.login(b"ann", 1)
    rooms = [b"room:%d" % i for i in range(3)]
    for room in rooms:
        world.join(peer, room)
    world.pump()
    for i in range(90):
        world.say(rooms[i % 3], b"bob", b"x")
    world.hub.ack([(peer.handle, 1, 0, 0)])
    world.hub.reply(peer.handle, 1, b"\xc0")
    _, before = world.hub.histograms()["frames_per_send_call"]
    world.pump()
    assert world.hub.histograms()["frames_per_send_call"][1] - before == 92
    counters = world.hub.counters()
    assert (counters["frames_sent_deliver"], counters["frames_sent_ack"], counters["frames_sent_reply"]) == (90, 1, 1)


def test_what_waits_is_not_a_frame_of_a_later_call() -> None:
    with World(max_pending_size=1_000_000) as world:
        world.peer_kind = lambda hub: SocketPeer(hub, send_buffer=4096)
        slow = world.login(b"slow", 1)
        world.join(slow, ROOM)
        for _ in range(100):
            world.say(ROOM, b"bob", bytes(900))
        world.pump()
        assert world.hub.counters()["sends_incomplete"] == 1
        slow.receive()
        world.pump()
        buckets, frames = world.hub.histograms()["frames_per_send_call"]
        assert buckets[-1][1] == world.hub.counters()["send_calls"] >= 2
        assert frames == 100


@dataclass
class Talk:
    """Ann and Bob in a room."""

    world: World
    ann: Peer
    number: int

    def send(self, first: int, n_sends: int = 1, flags: int = 0) -> None:
        """Ann sends so many, in turns of a hundred at most."""
        for turn in range(first, first + n_sends, 100):
            seqs = range(turn, min(turn + 100, first + n_sends))
            self.ann.send(b"".join(encode_send(seq, self.number, flags, b"hi") for seq in seqs))
            self.world.pump()

    def records(self) -> list[bytes]:
        """For the log: of all that was sent since the last call."""
        return [event[-1] for event in self.world.take(EVENT_SEND)]

    def acknowledge(self, first: int, n_sends: int = 1) -> None:
        self.world.hub.ack([(self.ann.handle, seq, seq, 0) for seq in range(first, first + n_sends)])


@pytest.fixture
def talk(world: World) -> Talk:
    ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
    world.join(bob, ROOM)
    talk = Talk(world, ann, world.join(ann, ROOM))
    world.pump()
    return talk


def test_a_send_is_measured_until_its_ack_and_until_its_delivery(talk: Talk) -> None:
    hub = talk.world.hub
    talk.send(1)
    (record,) = talk.records()
    began = time.monotonic()
    while time.monotonic() - began < 0.003:  # as long as a log takes
        pass
    talk.acknowledge(1)
    assert total(talk.world, "ack_latency") == 0, "it is not flushed"
    talk.world.pump()
    buckets, in_all = hub.histograms()["ack_latency"]
    assert buckets[-1][1] == 1
    assert 0.003 <= in_all <= time.monotonic() - began + 0.5
    hub.deliver(0, [(1, 0, ROOM, record)])
    talk.world.pump()
    assert total(talk.world, "delivery_latency") == 1, "one message, however many hear it"
    assert hub.histograms()["delivery_latency"][1] >= in_all
    hub.deliver(0, [(2, 0, ROOM, record)])  # a later copy, which nobody is told of
    talk.acknowledge(1)
    talk.world.pump()
    assert (total(talk.world, "ack_latency"), total(talk.world, "delivery_latency")) == (1, 1)


def test_what_is_not_durable_or_not_sent_here_is_not_measured(talk: Talk) -> None:
    talk.send(1, flags=SendFlag.SEND_ACCEPTED)
    talk.world.hub.ack([(talk.ann.handle, 1, 0, 0), (talk.ann.handle, 2, 7, 0)])
    talk.world.say(ROOM, b"somebody", b"on another worker")
    talk.world.pump()
    assert talk.world.hub.counters()["deliveries"] == 2
    assert (total(talk.world, "ack_latency"), total(talk.world, "delivery_latency")) == (0, 0)


def test_many_sends_of_a_turn_are_all_measured(talk: Talk) -> None:
    talk.send(1, 1500)
    records = talk.records()
    talk.world.hub.deliver(0, [(i + 1, 0, ROOM, record) for i, record in enumerate(records)])
    talk.acknowledge(1, 1500)
    talk.world.pump()
    assert len(records) == 1500
    assert (total(talk.world, "ack_latency"), total(talk.world, "delivery_latency")) == (1500, 1500)


def test_a_stall_costs_samples_but_not_the_oldest(talk: Talk) -> None:
    """More sends under way than there is room: those that came first, and wait longest, are known."""
    talk.send(1, 3000)
    talk.acknowledge(1, 100)
    talk.world.pump()
    assert total(talk.world, "ack_latency") == 100
    talk.acknowledge(101, 2900)
    talk.world.pump()
    assert total(talk.world, "ack_latency") == 2048
