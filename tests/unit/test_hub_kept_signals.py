"""Signals to receivers that lag: of each kind and sender the last one waits, and nothing else does."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chatcore_ext.constants import FrameType
from chatcore_ext.frame import decode_gap, decode_signal, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED
from support.hub_world import SocketPeer, TransportPeer, World, encode_ping
from support.oracles.kept_signals import KeptSignalsModel

ROOMS = [b"room:a", b"room:b"]
PLAYERS = [b"ann", b"bob", b"cid"]


class Keeping(RuleBasedStateMachine):
    """One receiver whose transport takes no more, those who signal to it, and the obvious model."""

    @initialize()
    def start(self) -> None:
        self.world = World(frame_burst=1_000_000, heartbeat_timeout_ms=2**31 - 1)
        self.world.peer_kind = TransportPeer
        self.listener = self.world.login(b"slow", 1)
        self.senders = {player: self.world.login(player, 2 + i) for i, player in enumerate(PLAYERS)}
        self.rooms = {room: self.world.join(self.listener, room) for room in ROOMS}
        for peer in self.senders.values():
            for room in ROOMS:
                self.world.join(peer, room)
        self.model = KeptSignalsModel()
        self.now_ms = 0
        self.n_told = 0
        self.is_blocked = False

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.hub.close()
            assert self.world.hub.counters()["pending_bytes"] == 0

    def heard(self) -> list[tuple[int, int, bytes, bytes]]:
        return [
            decode_signal(body) for kind, body in self.world.frames(self.listener) if kind == FrameType.FRAME_SIGNAL
        ]

    @rule(
        room=st.sampled_from(ROOMS),
        player=st.sampled_from(PLAYERS),
        kind=st.sampled_from([1, *range(128, 156)]),
        body=st.binary(max_size=128) | st.just(bytes(128)),
    )
    def signal(self, room: bytes, player: bytes, kind: int, body: bytes) -> None:
        number = self.rooms.get(room)
        self.world.hub.signal(room, kind, player, body)
        heard = self.heard()
        if number is None:
            assert heard == []
        elif self.is_blocked:
            assert heard == []
            self.model.keep((number, kind, player), body, self.now_ms)
        else:
            assert heard == [(number, kind, player, body)]
            self.n_told += 1

    @rule(room=st.sampled_from(ROOMS))
    def say(self, room: bytes) -> None:
        self.world.say(room, b"ann", b"not in the way of signals")

    @rule()
    def block(self) -> None:
        assert isinstance(self.listener, TransportPeer)
        self.heard()
        self.listener.link.pause_writing()
        self.is_blocked = True

    @rule()
    def catch_up(self) -> None:
        assert isinstance(self.listener, TransportPeer)
        self.listener.link.resume_writing()
        told = self.model.tell(self.now_ms)
        assert self.heard() == told
        self.n_told += len(told)
        self.is_blocked = False

    @rule(room=st.sampled_from(ROOMS))
    def leave(self, room: bytes) -> None:
        if room in self.rooms:
            self.world.hub.leave(self.listener.handle, room)
            self.model.leave(self.rooms.pop(room))

    @rule(room=st.sampled_from(ROOMS))
    def join(self, room: bytes) -> None:
        if room not in self.rooms:
            self.rooms[room] = self.world.join(self.listener, room)

    @rule(player=st.sampled_from(PLAYERS))
    def hide(self, player: bytes) -> None:
        """Signals that were kept must not come later, either."""
        self.world.hub.hide(b"slow", player)
        self.model.hide(player)
        self.world.hub.show(b"slow", player)

    @rule(seconds=st.sampled_from([1, 3, 6]))
    def time_passes(self, seconds: int) -> None:
        self.now_ms += seconds * 1000
        self.world.pass_time(seconds * 1000)

    @invariant()
    def counts_add_up(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.hub.check_invariants()
        counters = self.world.hub.counters()
        assert counters["signals_coalesced"] == self.model.n_coalesced
        assert counters["signals_left_out"] == self.model.n_left_out
        if not self.is_blocked:
            assert counters["pending_bytes"] == 0, "nothing is kept for who has caught up"


TestKeeping = Keeping.TestCase
TestKeeping.settings = settings(max_examples=40, stateful_step_count=50)


def test_signals_wait_before_messages_are_left_out() -> None:
    """The first step: the kernel takes no more, and there is still room for messages."""
    with World(frame_burst=1_000_000) as world:
        world.peer_kind = lambda hub: SocketPeer(hub, send_buffer=4096)
        slow = world.login(b"slow", 1)
        world.peer_kind = SocketPeer
        quick = world.login(b"quick", 2)
        for peer in (slow, quick):
            number = world.join(peer, ROOMS[0])
        while world.hub.pending(slow.handle) == 0:
            world.say(ROOMS[0], b"quick", bytes(1000))
            world.pump()
        for value in range(100):
            quick.send(encode_signal(number, 200, b"", b"%d" % value))
            world.say(ROOMS[0], b"quick", bytes(100))
            world.pump()
        counters = world.hub.counters()
        assert (counters["signals_coalesced"], counters["signals_left_out"]) == (100, 99)
        assert counters["deliveries_left_out"] == 0
        frames = world.frames(slow)
        assert FrameType.FRAME_GAP not in {kind for kind, _ in frames}
        assert frames[-1][0] == FrameType.FRAME_SIGNAL, "behind all that it had to take in first"
        assert decode_signal(frames[-1][1]) == (number, 200, b"quick", b"99")
        assert [kind for kind, _ in frames[:-1]] == [FrameType.FRAME_DELIVER] * (len(frames) - 1)


def test_gaps_come_before_the_signals_that_waited() -> None:
    with World("transport", pause_pending_size=5000, frame_burst=1_000_000) as world:
        slow, quick = world.login(b"slow", 1), world.login(b"quick", 2)
        for peer in (slow, quick):
            number = world.join(peer, ROOMS[0])
        assert isinstance(slow, TransportPeer)
        slow.link.pause_writing()
        for _ in range(10):
            world.say(ROOMS[0], b"quick", bytes(1000))
        quick.send(encode_signal(number, 1, b"", b""))
        world.pump()
        slow.link.resume_writing()
        frames = world.frames(slow)
        assert [kind for kind, _ in frames[-2:]] == [FrameType.FRAME_GAP, FrameType.FRAME_SIGNAL]
        assert decode_gap(frames[-2][1])[2] == 10


@pytest.mark.parametrize("players", [10, 200])
def test_a_crowd_of_signals_is_bounded_for_who_never_reads(players: int) -> None:
    with World("transport", frame_burst=1_000_000) as world:
        slow = world.login(b"slow", 1)
        world.join(slow, ROOMS[0])
        assert isinstance(slow, TransportPeer)
        slow.link.pause_writing()
        for round_ in range(20):
            for i in range(players):
                world.hub.signal(ROOMS[0], 128, b"player%d" % i, b"%d" % round_)
        world.pump()
        assert world.hub.counters()["pending_bytes"] <= 4096
        slow.send(encode_ping())
        world.pump()
        assert world.take(EVENT_DISCONNECTED) == []
        slow.close()
        world.pump()
        counters = world.hub.counters()
        assert counters["signals_left_out"] == counters["signals_coalesced"] == 20 * players
        assert counters["pending_bytes"] == 0


def test_at_the_total_nothing_is_kept() -> None:
    with World("transport", max_total_pending_size=600) as world:
        first, second = world.login(b"first", 1), world.login(b"second", 2)
        for peer in (first, second):
            world.join(peer, ROOMS[0])
            assert isinstance(peer, TransportPeer)
            peer.link.pause_writing()
        world.hub.signal(ROOMS[0], 1, b"ann", b"")
        world.pump()
        assert world.hub.counters()["pending_bytes"] == 512, "of one of them"
        for peer in (first, second):
            assert isinstance(peer, TransportPeer)
            peer.link.resume_writing()
        assert sorted(len(world.frames(peer)) for peer in (first, second)) == [0, 1]
