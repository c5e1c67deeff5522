"""The routing tables against an obvious model of dicts and sets, over random histories."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from chatcore_ext.constants import DeliverFlag, FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import decode_signal, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED, EVENT_EXPIRED
from support.hub_world import Peer, World

PLAYERS = [b"ann", b"bob", b"cid"]
CHANNELS = [b"room:a", b"room:b", b"group:c", b"room:d"]
MAX_CHANNELS = 3

players = st.sampled_from(PLAYERS)
channels = st.sampled_from(CHANNELS)


@dataclass
class ModelConnection:
    peer: Peer
    session: int
    player: bytes
    joined: set[bytes] = field(default_factory=set)
    pending: dict[bytes, int] = field(default_factory=dict)  # channel -> generation of a first join under way
    again: dict[bytes, int] = field(default_factory=dict)  # the same for a channel that is joined


class Routing(RuleBasedStateMachine):
    connections = Bundle("connections")
    joins = Bundle("joins")

    @initialize(kind=st.sampled_from(["socket", "transport"]))
    def start(self, kind: str) -> None:
        self.world = World(kind, resume_grace_ms=1000, max_channels_per_connection=MAX_CHANNELS, frame_burst=10**6)
        self.alive: dict[int, ModelConnection] = {}
        self.sessions: dict[int, tuple[bytes, int]] = {}  # id -> (player, connection or 0)
        self.hidden: set[tuple[bytes, bytes]] = set()
        self.next_session = 0

    def teardown(self) -> None:
        self.world.hub.close()
        for peer in self.world.peers:
            peer.close()

    # --- the model ---

    def forget_player(self, player: bytes) -> None:
        if not any(name == player for name, _ in self.sessions.values()):
            self.hidden = {(receiver, sender) for receiver, sender in self.hidden if receiver != player}

    def lose(self, connection: ModelConnection, code: int) -> None:
        handle = connection.peer.handle
        del self.alive[handle]
        if self.sessions.get(connection.session, (b"", 0))[1] == handle:
            self.sessions[connection.session] = (connection.player, 0)
        [event] = self.world.take(EVENT_DISCONNECTED)
        assert event[:4] == (handle, connection.session, connection.player, code)
        assert sorted(event[4]) == sorted(connection.joined)

    def members(self, channel: bytes) -> list[ModelConnection]:
        return [connection for connection in self.alive.values() if channel in connection.joined]

    def drain(self) -> None:
        for connection in self.alive.values():
            self.world.frames(connection.peer)

    # --- sessions ---

    @rule(target=connections, player=players)
    def login(self, player: bytes) -> ModelConnection:
        self.next_session += 1
        peer = self.world.greet()
        self.sessions[self.next_session] = (player, peer.handle)
        n_sessions = sum(name == player for name, _ in self.sessions.values())
        assert self.world.hub.attach(peer.handle, self.next_session, player) == n_sessions
        connection = ModelConnection(peer, self.next_session, player)
        self.alive[peer.handle] = connection
        return connection

    @rule(target=connections, connection=connections)
    def resume(self, connection: ModelConnection) -> ModelConnection | object:
        if connection.session not in self.sessions:
            return multiple()
        older = self.sessions[connection.session][1]
        peer = self.world.greet()
        assert self.world.hub.attach(peer.handle, connection.session, connection.player) > 0
        self.sessions[connection.session] = (connection.player, peer.handle)
        if older:
            self.lose(self.alive[older], ErrorCode.ERROR_SESSION_REPLACED)
        resumed = ModelConnection(peer, connection.session, connection.player)
        self.alive[peer.handle] = resumed
        return resumed

    @rule(connection=connections)
    def disconnect(self, connection: ModelConnection) -> None:
        connection.peer.close()
        if connection.peer.handle in self.alive:
            self.lose(connection, 0)

    @rule(connection=connections, code=st.sampled_from([ErrorCode.ERROR_BAD_TICKET, ErrorCode.ERROR_INTERNAL]))
    def close(self, connection: ModelConnection, code: ErrorCode) -> None:
        is_alive = connection.peer.handle in self.alive
        assert self.world.hub.close_connection(connection.peer.handle, code) == is_alive
        if is_alive:
            self.lose(connection, code)

    @rule(connection=connections)
    def end_session(self, connection: ModelConnection) -> None:
        ended = self.sessions.pop(connection.session, None)
        assert self.world.hub.end_session(connection.session, ErrorCode.ERROR_LOGGED_OUT) == (ended is not None)
        if ended is not None and ended[1]:
            self.lose(self.alive[ended[1]], ErrorCode.ERROR_LOGGED_OUT)
        self.forget_player(connection.player)

    @rule()
    def expire(self) -> None:
        detached = {session: player for session, (player, connection) in self.sessions.items() if connection == 0}
        self.world.pass_time(1100)
        told = self.world.take(EVENT_EXPIRED)
        assert {session: player for session, player, _ in told} == detached
        for session, player, left in told:
            del self.sessions[session]
            assert left == sum(name == player for name, _ in self.sessions.values())
            self.forget_player(player)

    # --- channels ---

    @rule(target=joins, connection=connections, channel=channels)
    def begin_join(self, connection: ModelConnection, channel: bytes) -> tuple[ModelConnection, bytes, int]:
        generation = self.world.hub.begin_join(connection.peer.handle, channel)
        taken = connection.joined | connection.pending.keys()
        if connection.peer.handle not in self.alive or (channel not in taken and len(taken) == MAX_CHANNELS):
            assert generation == 0
        else:
            assert generation > 0
            (connection.again if channel in connection.joined else connection.pending)[channel] = generation
        return connection, channel, generation

    @rule(join=consumes(joins), may_send=st.booleans())
    def complete_join(self, join: tuple[ModelConnection, bytes, int], may_send: bool) -> None:
        connection, channel, generation = join
        number = self.world.hub.complete_join(connection.peer.handle, channel, generation, may_send)
        waiting = connection.pending.get(channel) or connection.again.get(channel)
        is_valid = connection.peer.handle in self.alive and generation > 0 and waiting == generation
        assert (number > 0) == is_valid
        if is_valid:
            connection.pending.pop(channel, None)
            connection.again[channel] = generation
            connection.joined.add(channel)

    @rule(join=consumes(joins))
    def cancel_join(self, join: tuple[ModelConnection, bytes, int]) -> None:
        connection, channel, generation = join
        is_valid = (
            connection.peer.handle in self.alive and generation > 0 and connection.pending.get(channel) == generation
        )
        assert self.world.hub.cancel_join(connection.peer.handle, channel, generation) == is_valid
        if is_valid:
            del connection.pending[channel]

    @rule(connection=connections, channel=channels)
    def leave(self, connection: ModelConnection, channel: bytes) -> None:
        was_joined = connection.peer.handle in self.alive and channel in connection.joined
        assert self.world.hub.leave(connection.peer.handle, channel) == was_joined
        self.model_leave(connection, channel)

    def model_leave(self, connection: ModelConnection, channel: bytes) -> None:
        connection.joined.discard(channel)
        connection.pending.pop(channel, None)
        connection.again.pop(channel, None)

    @rule(player=players, channel=channels)
    def kick(self, player: bytes, channel: bytes) -> None:
        theirs = [connection for connection in self.alive.values() if connection.player == player]
        expected = {connection.peer.handle for connection in theirs if channel in connection.joined}
        removed = self.world.hub.remove_player(player, channel)
        assert set(removed) == expected
        assert len(removed) == len(expected)
        for connection in theirs:
            self.model_leave(connection, channel)

    # --- what is heard ---

    @rule(player=players, sender=players)
    def hide(self, player: bytes, sender: bytes) -> None:
        self.world.hub.hide(player, sender)
        if any(name == player for name, _ in self.sessions.values()):
            self.hidden.add((player, sender))

    @rule(player=players, sender=players)
    def show(self, player: bytes, sender: bytes) -> None:
        self.world.hub.show(player, sender)
        self.hidden.discard((player, sender))

    @rule(channel=channels, sender=players, body=st.binary(max_size=20))
    def deliver(self, channel: bytes, sender: bytes, body: bytes) -> None:
        self.drain()
        self.world.say(channel, sender, body)
        for connection in self.alive.values():
            got = [(flags, sender, body) for _, flags, *_, sender, body in self.world.delivered(connection.peer)]
            if channel not in connection.joined:
                assert got == []
            elif (connection.player, sender) in self.hidden:
                assert got == [(DeliverFlag.DELIVER_HIDDEN, b"", b"")]
            else:
                assert got == [(0, sender, body)]

    @rule(connection=connections, channel=channels)
    def signal(self, connection: ModelConnection, channel: bytes) -> None:
        if connection.peer.handle not in self.alive or channel not in connection.joined:
            return
        self.drain()
        number = self.world.hub.complete_join(
            connection.peer.handle, channel, self.world.hub.begin_join(connection.peer.handle, channel), True
        )
        connection.again.pop(channel, None)
        connection.peer.send(encode_signal(number, 1, b"", b""))
        for other in self.alive.values():
            frames = self.world.frames(other.peer)
            if other is connection or channel not in other.joined or (other.player, connection.player) in self.hidden:
                assert frames == []
            else:
                assert [kind for kind, _ in frames] == [FrameType.FRAME_SIGNAL]
                assert decode_signal(frames[0][1]) == (number, 1, connection.player, b"")

    @invariant()
    def tables_agree(self) -> None:
        if not hasattr(self, "world"):
            return
        hub = self.world.hub
        hub.check_invariants()
        for channel in CHANNELS:
            members = self.members(channel)
            assert hub.subscribers(channel) == len(members)
            assert sorted(hub.players_in(channel, 100)) == sorted({member.player for member in members})
        for handle, connection in self.alive.items():
            assert hub.session(handle) == (connection.session, connection.player)
            assert sorted(hub.channels_of(handle)) == sorted(connection.joined)
        for player in PLAYERS:
            expected = [(session, handle) for session, (name, handle) in self.sessions.items() if name == player]
            assert sorted(hub.sessions_of(player)) == sorted(expected)
            assert hub.is_online(player) == bool(expected)
        used = set().union(*(c.joined | c.pending.keys() for c in self.alive.values())) if self.alive else set()
        counters = hub.counters()
        assert counters["channels"] == len(used)
        assert counters["subscriptions"] == sum(len(connection.joined) for connection in self.alive.values())
        assert counters["connections"] == len(self.alive)


TestRouting = Routing.TestCase
TestRouting.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
