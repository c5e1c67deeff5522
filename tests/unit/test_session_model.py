"""The client's promise against a model server with every fault that a network, a crash or a backend can bring:

every message of a joined channel shows exactly once and in order, every send ends in exactly one outcome, and that
outcome is the truth.
"""

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatcore import events, operations
from chatcore.operations import ChannelRequest, JoinReply, Operation
from chatcore.session import ClientSession
from support.oracles.model_server import ModelConnection, ModelServer

ROOMS = ["room:a", "room:b"]
DIRECT = "dm:me:you"
CHANNELS = [*ROOMS, DIRECT]
TOKEN = "token:me"
SHARES = st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0])  # of the bytes that are under way


class SessionAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.server = ModelServer()
        self.session = ClientSession(client="test")
        self.connection: ModelConnection | None = None
        self.up = b""
        self.down = b""
        # For each channel that the client is in: the id after which everything must show, and what has been shown.
        self.views: dict[str, tuple[int, list[events.Message]]] = {}
        self.requests: dict[int, tuple[Operation, str]] = {}
        self.outcomes: dict[int, list[events.Acknowledged | events.SendFailed]] = {}
        self.bodies: dict[int, bytes] = {}
        self.n_bodies = 0

    # What the client tells

    def take(self, taken: list[events.SessionEvent]) -> None:
        for event in taken:
            if isinstance(event, events.Message):
                assert event.channel in self.views, "a message of a channel that the client is not in"
                self.views[event.channel][1].append(event)
            elif isinstance(event, events.Acknowledged | events.SendFailed):
                self.outcomes[event.handle].append(event)
            elif isinstance(event, events.Connected) and DIRECT not in self.views:
                head = event.conversations[DIRECT].head if DIRECT in event.conversations else 0
                self.views[DIRECT] = (head, [])
            elif isinstance(event, events.Replied):
                self.take_reply(event)
            elif isinstance(event, events.RequestFailed):
                self.requests.pop(event.request_id)
            elif isinstance(event, operations.ClosedEvent | events.ChannelLost):
                self.end_view(event.channel)
            else:
                wrong = (events.HashMismatch, events.HistoryTruncated, events.EpochChanged)
                assert not isinstance(event, wrong), f"the server made no mistake: {event}"
        if self.connection is not None:
            self.up += self.session.data_to_send()

    def take_reply(self, event: events.Replied) -> None:
        operation, channel = self.requests.pop(event.request_id)
        if operation == Operation.LEAVE:
            self.end_view(channel)
        elif channel not in self.views:
            self.views[channel] = (msgspec.msgpack.decode(event.body, type=JoinReply).head, [])

    def end_view(self, channel: str) -> None:
        if channel in self.views:
            self.check_view(channel)
            del self.views[channel]

    # What the player does

    @initialize()
    def first_login(self) -> None:
        self.server.say(DIRECT, "you", b"from before the login")
        self.connect()
        self.pump()
        for room in ROOMS:
            self.join(room)
        self.pump()

    @precondition(lambda self: self.connection is None)
    @rule()
    def connect(self) -> None:
        self.connection = self.server.connect()
        self.session.connect(self.server.now_ms, TOKEN)
        self.take([])

    @precondition(lambda self: self.session.ready and not set(ROOMS) <= set(self.session.channels))
    @rule(channel=st.sampled_from(ROOMS))
    def join(self, channel: str) -> None:
        request_id = self.session.request(Operation.JOIN, ChannelRequest(channel), self.server.now_ms)
        self.requests[request_id] = (Operation.JOIN, channel)
        self.take([])

    @precondition(lambda self: self.session.ready and self.n_bodies % 4 == 0)
    @rule(channel=st.sampled_from(ROOMS))
    def leave(self, channel: str) -> None:
        self.end_view(channel)
        request_id = self.session.request(Operation.LEAVE, ChannelRequest(channel), self.server.now_ms)
        self.requests[request_id] = (Operation.LEAVE, channel)
        self.take(self.session.tick(self.server.now_ms))

    @precondition(lambda self: self.session.channels)
    @rule(data=st.data(), n=st.integers(1, 4))
    def send(self, data: st.DataObject, n: int) -> None:
        channel = data.draw(st.sampled_from(sorted(self.session.channels)))
        for _ in range(n):
            if self.session.send_window_full:
                break
            self.n_bodies += 1
            body = b"mine %d" % self.n_bodies
            handle = self.session.send(channel, body, self.server.now_ms)
            self.outcomes[handle] = []
            self.bodies[handle] = body
        self.take([])

    # What others do

    @rule(channel=st.sampled_from(CHANNELS), n=st.integers(1, 5))
    def others_say(self, channel: str, n: int) -> None:
        for _ in range(n):
            self.n_bodies += 1
            self.server.say(channel, "you" if self.n_bodies % 3 else "troll", b"theirs %d" % self.n_bodies)
        self.collect()

    @rule(channel=st.sampled_from(CHANNELS))
    def chain_restarts(self, channel: str) -> None:
        if self.server.channels.get(channel):
            self.server.restarted.add(channel)

    @precondition(lambda self: self.n_bodies % 4 == 1)
    @rule(channel=st.sampled_from(ROOMS))
    def kick(self, channel: str) -> None:
        self.server.kick("me", channel)
        self.collect()

    @rule()
    def pardon(self) -> None:
        self.server.banned.clear()

    # What goes wrong

    @rule(
        fault=st.sampled_from(sorted(vars(ModelServer().faults))),
        n=st.integers(1, 3),
    )
    def fault(self, fault: str, n: int) -> None:
        setattr(self.server.faults, fault, n)
        self.server.history_ends = {channel: self.server.head(channel)[0] for channel in self.server.channels}

    @rule(up=SHARES, down=SHARES)
    def cut(self, up: float, down: float) -> None:
        """The connection breaks, at any byte of both directions."""
        if self.connection is not None:
            self.move_up(up)
            self.move_down(down)
        if self.connection is not None:
            self.connection.lost()
            self.connection = None
        self.up = self.down = b""
        self.take(self.session.disconnected(self.server.now_ms))

    @precondition(lambda self: self.session.ready and self.connection is not None and self.n_bodies % 3 == 0)
    @rule()
    def drain(self) -> None:
        assert self.connection is not None
        self.connection.goaway(10_000, 1000, draining=True)
        self.collect()

    @rule(up=SHARES, down=SHARES, n_missed=st.integers(0, 3), data=st.data())
    def cut_and_come_back(self, up: float, down: float, n_missed: int, data: st.DataObject) -> None:
        self.cut(up, down)
        for _ in range(n_missed):
            self.others_say(data.draw(st.sampled_from(CHANNELS)), 1)
            if self.server.in_flight:
                self.server.commit()
        self.connect()
        self.pump()

    @precondition(lambda self: self.n_bodies % 3 == 1)
    @rule(up=SHARES, down=SHARES)
    def session_ends(self, up: float, down: float) -> None:
        """The ticket is void: the next login begins a new session."""
        self.cut(up, down)
        self.commit(len(self.server.in_flight), 1)
        self.server.void_tickets()
        self.connect()
        self.pump()

    @precondition(lambda self: self.session.ready and self.connection is not None)
    @rule()
    def new_ticket(self) -> None:
        assert self.connection is not None
        self.connection.give_ticket()
        self.collect()

    @precondition(lambda self: self.n_bodies % 3 == 2)
    @rule(absences=st.lists(st.sampled_from([0.3, 0.7, 1.2]), min_size=1, max_size=3))
    def long_absences(self, absences: list[float]) -> None:
        """Away for a part of the ticket's life, again and again, and each time before any acknowledgement came."""
        self.pump()
        for share in absences:
            self.cut(1.0, 0.0)
            self.commit(len(self.server.in_flight), 1)
            self.server.now_ms += int(self.server.ticket_ms * share)
            self.connect()
            self.pump()

    @rule(deferring=st.booleans())
    def defer_answers(self, deferring: bool) -> None:
        self.server.deferring = deferring

    # What moves things on

    @rule(n=st.integers(1, 5), copies=st.integers(1, 2))
    def commit(self, n: int, copies: int) -> None:
        for _ in range(min(n, len(self.server.in_flight))):
            self.server.commit(copies=copies)
        self.collect()

    @rule(n=st.integers(1, 3))
    def answer(self, n: int) -> None:
        if self.connection is not None:
            for _ in range(min(n, len(self.connection.requests))):
                self.connection.answer_one()
            self.collect()

    @rule(share=SHARES)
    def move_up(self, share: float) -> None:
        if self.connection is not None:
            size = int(len(self.up) * share)
            part, self.up = self.up[:size], self.up[size:]
            self.connection.receive(part)
            self.collect()

    @rule(share=SHARES)
    def move_down(self, share: float) -> None:
        size = int(len(self.down) * share)
        part, self.down = self.down[:size], self.down[size:]
        self.take(self.session.receive(part, self.server.now_ms))

    @rule(ms=st.integers(1, 3000))
    def time_passes(self, ms: int) -> None:
        self.server.now_ms += ms
        self.take(self.session.tick(self.server.now_ms))
        self.pump()

    @rule()
    def pump(self) -> None:
        while self.connection is not None and (self.up or self.down):
            self.move_up(1.0)
            self.move_down(1.0)

    def collect(self) -> None:
        if self.connection is not None:
            self.down += self.connection.take_output()

    # What must hold

    def check_view(self, channel: str) -> int:
        """What is shown is the beginning of the truth; returns how much of it is missing."""
        after, shown = self.views[channel]
        truth = self.server.visible("me", channel, after)
        told = [(message.id, message.sender, message.body) for message in shown]
        assert told == [(stored.id, stored.sender, stored.body) for stored in truth[: len(shown)]]
        assert all(message.own == (message.sender == "me") for message in shown)
        return len(truth) - len(shown)

    @invariant()
    def shows_the_truth_so_far(self) -> None:
        for channel in self.views:
            self.check_view(channel)

    @invariant()
    def ends_each_send_at_most_once(self) -> None:
        assert all(len(outcomes) <= 1 for outcomes in self.outcomes.values())

    def teardown(self) -> None:
        self.settle()
        for channel in self.views:
            assert self.check_view(channel) == 0, f"{channel} misses messages"
        for handle, outcomes in self.outcomes.items():
            self.check_outcome(handle, outcomes)

    def settle(self) -> None:
        """No more faults: everything must come to rest."""
        self.server.deferring = False
        self.server.faults.__init__()  # type: ignore[misc]
        for _ in range(200):
            if self.connection is None or self.connection.draining:
                self.cut(1.0, 1.0)
                self.connect()
            while self.connection is not None and self.connection.requests:
                self.connection.answer_one()
            while self.server.in_flight:
                self.server.commit()
            self.collect()
            self.pump()
            deadline = self.session.next_deadline_ms()
            if self.session.is_idle and (deadline is None or deadline > self.server.now_ms + 20_000):
                return
            self.server.now_ms = max(self.server.now_ms, deadline or 0)
            self.take(self.session.tick(self.server.now_ms))
        raise AssertionError("the session does not come to rest")

    def check_outcome(self, handle: int, outcomes: list[events.Acknowledged | events.SendFailed]) -> None:
        assert len(outcomes) == 1, f"send {handle} ended {len(outcomes)} times"
        body = self.bodies[handle]
        copies = sum(stored.body == body for entries in self.server.channels.values() for stored in entries)
        if isinstance(outcomes[0], events.Acknowledged):
            assert copies == 1
        elif outcomes[0].error.uncertain:
            assert copies <= 1
        else:
            assert copies == 0


class HidingServer(SessionAgainstModel):
    """The same, with a player whose messages are hidden from the first on."""

    def __init__(self) -> None:
        super().__init__()
        self.server.hidden.add(("me", "troll"))


SETTINGS = settings(
    max_examples=80, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestSessionAgainstModel = SessionAgainstModel.TestCase
TestSessionAgainstModel.settings = SETTINGS
TestHidingServer = HidingServer.TestCase
TestHidingServer.settings = SETTINGS
