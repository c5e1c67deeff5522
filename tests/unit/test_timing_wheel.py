"""The timing wheel against a dict of deadlines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from chatcore_ext.timing_wheel import TimingWheel
from support.memory import resident_bytes
from support.oracles.timing import TimersModel

N_SLOTS = 8
KEYS = st.integers(-5, 30)


class WheelMachine(RuleBasedStateMachine):
    @initialize(tick_ms=st.sampled_from([1, 7, 100]), now_ms=st.integers(0, 10**6))
    def start(self, tick_ms: int, now_ms: int) -> None:
        self.wheel = TimingWheel(N_SLOTS, tick_ms, now_ms)
        self.model = TimersModel(tick_ms, now_ms)
        self.newly_late: set[int] = set()

    @rule(key=KEYS, ahead=st.one_of(st.integers(-300, 3000), st.integers(0, 10**6)))
    def insert(self, key: int, ahead: int) -> None:
        deadline = max(0, self.model.now_ms + ahead)
        self.wheel.insert(key, deadline)
        # Set with a deadline that had passed: it owes us nothing before the next tick's end.
        self.model.insert(key, max(deadline, self.model.now_ms + 1))

    @rule(key=KEYS)
    def cancel(self, key: int) -> None:
        assert self.wheel.cancel(key) == self.model.cancel(key)

    @rule(elapsed=st.one_of(st.integers(-200, 200), st.integers(0, 10**4), st.integers(0, 10**7)))
    def advance(self, elapsed: int) -> None:
        now = max(0, self.model.now_ms + elapsed)
        fired = self.wheel.advance(now)
        self.model.now_ms = max(now, self.model.now_ms)
        assert len(fired) == len(set(fired))
        assert self.model.overdue(self.model.now_ms) <= set(fired) <= self.model.due(self.model.now_ms)
        for key in fired:
            self.model.cancel(key)

    @invariant()
    def same_size(self) -> None:
        if hasattr(self, "wheel"):
            assert len(self.wheel) == len(self.model.deadlines)


TestWheelMachine = WheelMachine.TestCase
TestWheelMachine.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


@settings(max_examples=100, deadline=None)
@given(tick_ms=st.integers(1, 50), now=st.integers(0, 10**6), ahead=st.integers(1, 5000))
def test_fires_at_the_end_of_its_tick_and_not_before(tick_ms: int, now: int, ahead: int) -> None:
    wheel = TimingWheel(N_SLOTS, tick_ms, now)
    deadline = now + ahead
    end_of_tick = -(-deadline // tick_ms) * tick_ms
    wheel.insert(1, deadline)
    assert wheel.advance(end_of_tick - 1) == []
    assert wheel.advance(end_of_tick) == [1]
    assert wheel.advance(end_of_tick + 10**6) == []


def test_deadlines_many_revolutions_away_wait_for_theirs() -> None:
    wheel = TimingWheel(N_SLOTS, 10, 0)
    for revolution in range(5):
        wheel.insert(revolution, 30 + revolution * N_SLOTS * 10)
    fired = {now: wheel.advance(now) for now in range(0, 500, 10)}
    assert {now: keys for now, keys in fired.items() if keys} == {30: [0], 110: [1], 190: [2], 270: [3], 350: [4]}


def test_a_jump_of_an_age_costs_one_revolution() -> None:
    wheel = TimingWheel(N_SLOTS, 1, 0)
    far = 2**62
    wheel.insert(1, 5)
    wheel.insert(2, far + 1)
    assert wheel.advance(far) == [1]
    assert wheel.advance(far + 1) == [2]


def test_moving_a_deadline_replaces_it() -> None:
    wheel = TimingWheel(N_SLOTS, 10, 0)
    wheel.insert(1, 50)
    wheel.insert(1, 90)
    assert (len(wheel), wheel.advance(80), wheel.advance(90)) == (1, [], [1])


@settings(max_examples=100, deadline=None)
@given(
    deadlines=st.dictionaries(st.integers(0, 12), st.integers(1, 60), max_size=12),
    cancels=st.dictionaries(st.integers(0, 12), st.lists(st.integers(0, 12), max_size=4)),
    moves=st.dictionaries(st.integers(0, 12), st.lists(st.tuples(st.integers(0, 12), st.integers(0, 90)), max_size=4)),
)
def test_callbacks_may_set_and_cancel_anything(
    deadlines: dict[int, int], cancels: dict[int, list[int]], moves: dict[int, list[tuple[int, int]]]
) -> None:
    wheel = TimingWheel(N_SLOTS, 1, 0)
    for key, deadline in deadlines.items():
        wheel.insert(key, deadline)
    waiting, moved = dict(deadlines), dict[int, int]()

    def on_fired(key: int) -> None:
        assert waiting.pop(key) <= 50
        for other in cancels.get(key, []):
            was_set = [waiting.pop(other, None), moved.pop(other, None)] != [None, None]
            assert wheel.cancel(other) == was_set
        for other, deadline in moves.get(key, []):
            wheel.insert(other, deadline)
            waiting.pop(other, None)
            moved[other] = deadline

    wheel.advance(50, on_fired)
    assert all(deadline > 50 for deadline in waiting.values())
    left = waiting | moved
    assert len(wheel) == len(left)
    assert set(wheel.advance(51)) == {key for key, deadline in left.items() if deadline <= 51}


def test_the_first_exception_of_a_callback_comes_out_and_the_others_still_fire() -> None:
    wheel = TimingWheel(N_SLOTS, 1, 0)
    seen: list[int] = []

    def on_fired(key: int) -> None:
        seen.append(key)
        raise LookupError(key)

    wheel.insert(1, 1)
    wheel.insert(2, 2)
    with pytest.raises(LookupError, match="1"):
        wheel.advance(5, on_fired)
    assert (seen, wheel.advance(9)) == ([1, 2], [])


@pytest.mark.parametrize(("n_slots", "tick_ms"), [(0, 1), (3, 1), (8, 0)])
def test_a_wheel_that_cannot_turn_is_refused(n_slots: int, tick_ms: int) -> None:
    with pytest.raises(ValueError, match="cannot turn"):
        TimingWheel(n_slots, tick_ms, 0)


@pytest.mark.resident_memory
def test_memory_is_given_back() -> None:
    def cycle() -> None:
        wheel = TimingWheel(1024, 10, 0)
        for key in range(5000):
            wheel.insert(key, key * 7)
        for key in range(0, 5000, 3):
            wheel.cancel(key)
        wheel.advance(20_000)

    for _ in range(5):
        cycle()
    before = resident_bytes()
    for _ in range(100):
        cycle()
    # One cycle holds 200 kB of timers: keeping them would show as 20 MB.
    assert resident_bytes() - before < 5_000_000
