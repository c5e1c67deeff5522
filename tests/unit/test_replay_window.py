"""The replay window: its rule against a model that keeps everything, its determinism, what honest senders rely on."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chatcore_ext.constants import MAX_UNACKED_SENDS
from chatcore_ext.replay_window import REACH, ReplayWindow
from support.memory import resident_bytes
from support.oracles import replay
from support.oracles.replay import ReplayModel

WINDOW_MS = 1000

# Near one another, and far: within reach, at its edge, beyond it, and at the ends of the integers.
SEQS = st.one_of(
    st.integers(0, 20),
    st.integers(0, 600),
    st.integers(0, 48).map(lambda blocks: blocks * 32),
    st.sampled_from([191, 192, 193, 255, 256, 257, 2**63, 2**64 - 2, 2**64 - 1]),
)
SESSIONS = st.sampled_from([0, 1, 2, 3, 2**64 - 1])


class WindowMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.window = ReplayWindow(WINDOW_MS)
        self.model = ReplayModel(WINDOW_MS)
        self.time = 10**6

    @rule(session=SESSIONS, partition=st.integers(0, 2), seq=SEQS, late=st.integers(0, 1500))
    def admit(self, session: int, partition: int, seq: int, late: int) -> None:
        time = self.time - late
        assert self.window.admit(session, partition, seq, time) == self.model.admit(session, partition, seq, time)

    @rule(seqs=st.lists(SEQS, max_size=20), session=SESSIONS, partition=st.integers(0, 2))
    def admit_many(self, seqs: list[int], session: int, partition: int) -> None:
        for seq in seqs:
            self.admit(session, partition, seq, 0)

    @rule(elapsed=st.one_of(st.integers(0, 600), st.integers(0, 10 * WINDOW_MS)))
    def pass_time(self, elapsed: int) -> None:
        self.time += elapsed

    @invariant()
    def same_highest(self) -> None:
        for session in (0, 1, 2, 3, 2**64 - 1):
            assert self.window.highest(session) == self.model.highest(session)

    @invariant()
    def same_size(self) -> None:
        assert self.window.n_entries == self.model.n_entries()


TestWindowMachine = WindowMachine.TestCase
TestWindowMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@dataclass(frozen=True)
class Record:
    session: int
    partition: int
    seq: int
    time: int


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    """Any log: senders that obey nothing, and times that mostly grow."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    n_sessions, spread = draw(st.integers(1, 3)), draw(st.sampled_from([3, 30, 300, 3000]))
    time, records = 5 * WINDOW_MS, []
    for _ in range(draw(st.integers(1, 300))):
        time += chance.choice([0, 0, 1, 10, 100, 100, 400])
        stamp = max(0, time - chance.choice([0, 0, 0, 50, 900]))
        seq = chance.choice([time // 100, chance.randrange(spread)])
        records.append(Record(chance.randrange(n_sessions + 1), chance.randrange(2), seq, stamp))
    return records


def verdicts(window: ReplayWindow, records: list[Record]) -> list[bool]:
    return [window.admit(record.session, record.partition, record.seq, record.time) for record in records]


@settings(max_examples=100, deadline=None)
@given(log=logs(), pressure=st.integers(0, 2000))
def test_other_partitions_and_sessions_change_no_verdict(log: list[Record], pressure: int) -> None:
    crowded = ReplayWindow(WINDOW_MS)
    together = verdicts(crowded, log)
    for partition in range(2):
        mine = [record for record in log if record.partition == partition]
        alone, beside = ReplayWindow(WINDOW_MS), ReplayWindow(WINDOW_MS)
        expected = verdicts(alone, mine)
        assert expected == [first for record, first in zip(log, together, strict=True) if record.partition == partition]
        for other in range(pressure):
            beside.admit(1000 + other, partition, other % 7, mine[0].time if mine else 0)
        assert verdicts(beside, mine) == expected


@settings(max_examples=200, deadline=None)
@given(log=logs(), start=st.integers(0, 30 * WINDOW_MS))
def test_a_reader_that_starts_later_decides_alike_once_it_has_replayed(log: list[Record], start: int) -> None:
    log = [record for record in log if record.partition == 0]
    always, late = ReplayWindow(WINDOW_MS), ReplayWindow(WINDOW_MS)
    expected = verdicts(always, log)
    first = next((index for index, record in enumerate(log) if record.time >= start), len(log))
    decided = verdicts(late, log[first:])
    live_ms = start + late.replay_ms
    live = next((index for index, record in enumerate(log) if index >= first and record.time >= live_ms), len(log))
    assert decided[live - first :] == expected[live:]


@dataclass
class Sender:
    """A session that keeps the rules: at most MAX_UNACKED_SENDS unanswered, a resend under the same seq and in time."""

    session: int
    chance: random.Random
    sent: int = 0
    unanswered: dict[int, int] = field(default_factory=dict)  # seq -> time of the first send

    def may_send(self) -> bool:
        return all(seq > self.sent + 1 - MAX_UNACKED_SENDS for seq in self.unanswered)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.1, 0.5]), burst=st.sampled_from([1, 20, 200]))
def test_every_message_of_honest_senders_shows_exactly_once(seed: int, loss: float, burst: int) -> None:
    chance = random.Random(seed)
    window = ReplayWindow(WINDOW_MS)
    senders = [Sender(session, chance) for session in (1, 2)]
    shown: list[tuple[int, int]] = []
    landed = set[tuple[int, int]]()
    # The time at which a copy reaches the log, sender, seq: gateways are slow, and slow to die.
    in_flight: list[tuple[int, Sender, int]] = []
    now = 10**6

    def send(sender: Sender, seq: int) -> None:
        # Every copy is in the log within the window of the first send; some never get there.
        if chance.random() >= loss:
            latest = sender.unanswered[seq] + WINDOW_MS - 1
            in_flight.append((chance.randint(now, max(now, min(latest, now + chance.choice([5, 400])))), sender, seq))

    def land_copies() -> None:
        due = sorted((copy for copy in in_flight if copy[0] <= now), key=lambda copy: copy[0])
        in_flight[:] = [copy for copy in in_flight if copy[0] > now]
        for time, sender, seq in due:
            landed.add((sender.session, seq))
            if window.admit(sender.session, 0, seq, time):
                shown.append((sender.session, seq))
            if chance.random() >= loss:
                sender.unanswered.pop(seq, None)

    for _ in range(60):
        for sender in senders:
            for _ in range(chance.randrange(burst + 1)):
                if sender.may_send():
                    sender.sent += 1
                    sender.unanswered[sender.sent] = now
                    send(sender, sender.sent)
            if chance.random() < 0.3:  # the connection was cut: resend all, in order
                for seq, first_sent in list(sender.unanswered.items()):
                    # Later it may not be resent; then the session comes to a stop unless it is answered.
                    if now < first_sent + WINDOW_MS - 100:
                        send(sender, seq)
        now += chance.choice([1, 20, 90])
        land_copies()
    now += WINDOW_MS
    land_copies()
    assert len(shown) == len(set(shown))
    assert set(shown) == landed


def test_the_reach_leaves_room_for_every_unanswered_send() -> None:
    assert REACH == replay.REACH
    assert REACH >= MAX_UNACKED_SENDS


def test_the_largest_hole_an_honest_sender_can_leave_is_still_filled() -> None:
    window = ReplayWindow(WINDOW_MS)
    newest = 1000 + MAX_UNACKED_SENDS - 1
    for seq in range(1001, newest + 1):
        assert window.admit(1, 0, seq, 0)
    assert window.admit(1, 0, 1000, 0)
    assert not window.admit(1, 0, 1000, 0)
    assert not window.admit(1, 0, newest - REACH, 0)


def test_the_servers_own_messages_are_never_copies() -> None:
    window = ReplayWindow(WINDOW_MS)
    assert [window.admit(0, 0, 1, 0) for _ in range(3)] == [True] * 3
    assert window.n_entries == 0


def test_a_copy_at_the_windows_end_is_recognised_and_one_two_windows_later_is_forgotten() -> None:
    for phase in range(0, WINDOW_MS, 37):
        window = ReplayWindow(WINDOW_MS)
        assert window.admit(1, 0, 1, phase)
        assert not window.admit(1, 0, 1, phase + WINDOW_MS)
        assert window.admit(1, 0, 1, phase + WINDOW_MS + window.replay_ms)


def test_a_later_copy_is_remembered_as_long_as_a_first_one() -> None:
    # Otherwise a reader that starts between the two copies and the third would take the second for the first.
    window = ReplayWindow(WINDOW_MS)
    assert [window.admit(1, 0, 1, time * WINDOW_MS) for time in range(5)] == [True, False, False, False, False]


def test_a_clock_that_steps_back_does_not_forget() -> None:
    window = ReplayWindow(WINDOW_MS)
    assert window.admit(1, 0, 1, 50 * WINDOW_MS)
    assert not window.admit(1, 0, 1, 0)


def test_memory_follows_the_live_sessions() -> None:
    window = ReplayWindow(WINDOW_MS)
    for session in range(1, 50_001):
        window.admit(session, 0, 1, 0)
    assert window.n_entries == 50_000
    window.admit(1, 0, 2, WINDOW_MS)
    assert window.n_entries == 50_001
    window.admit(1, 0, 3, 2 * WINDOW_MS)
    assert window.n_entries == 2


@pytest.mark.resident_memory
def test_memory_is_given_back() -> None:
    def cycle() -> None:
        window = ReplayWindow(WINDOW_MS)
        for time in range(0, 6 * WINDOW_MS, WINDOW_MS // 2):
            for session in range(1, 1000):
                window.admit(session, session % 12, 1, time)

    for _ in range(3):
        cycle()
    before = resident_bytes()
    for _ in range(60):
        cycle()
    # One cycle fills 300 kB of tables several times over.
    assert resident_bytes() - before < 5_000_000


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="0 ms"):
        ReplayWindow(0)
    with pytest.raises(ValueError, match="65536"):
        ReplayWindow(WINDOW_MS).admit(1, 65536, 1, 0)
