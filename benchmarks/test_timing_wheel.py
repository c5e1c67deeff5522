"""The timing wheel: what a heartbeat (moving a deadline) and a tick cost, with few and with many deadlines waiting."""

import pytest

from chatcore_ext.timing_wheel import TimingWheel
from measuring import Measure

pytest_plugins = "measuring_plugin"

N_SLOTS = 1024
TICK_MS = 100
N_MOVED = 1000


def filled(n: int) -> TimingWheel:
    wheel = TimingWheel(N_SLOTS, TICK_MS, 0)
    for key in range(n):
        wheel.insert(key, 30_000 + key % 75_000)
    return wheel


@pytest.mark.parametrize("waiting", [1_000, 100_000])
def test_move_deadline(measure: Measure, waiting: int) -> None:
    wheel = filled(waiting)
    keys = list(range(0, waiting, waiting // N_MOVED))
    deadlines = iter(range(1 << 62))

    def batch() -> None:
        deadline = 40_000 + next(deadlines) % 50_000
        for key in keys:
            wheel.insert(key, deadline)

    measure(batch, N_MOVED)
    assert len(wheel) == waiting


# One call is as short as a few steps of the clock.
@pytest.mark.compared(limit=0.4)
@pytest.mark.parametrize("waiting", [1_000, 100_000])
def test_tick_without_a_deadline(measure: Measure, waiting: int) -> None:
    wheel = filled(waiting)
    # Time goes on by a tick per call but never reaches the first deadline's revolution.
    times = iter(range(1 << 62))

    def batch() -> int:
        return len(wheel.advance(min(TICK_MS * next(times), 29_000)))

    assert measure(batch, 1, rounds=250) == 0


# Few calls, each on a wheel just filled: where its memory lies shows.
@pytest.mark.compared(limit=0.3)
@pytest.mark.parametrize("waiting", [1_000, 100_000])
def test_fire_all(measure: Measure, waiting: int) -> None:
    def batch(wheel: TimingWheel) -> None:
        assert len(wheel.advance(200_000)) == waiting

    measure.each(batch, waiting, prepare=lambda: filled(waiting), rounds=1_000_000 // waiting)
