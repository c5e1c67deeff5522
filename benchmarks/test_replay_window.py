"""The replay window: what it costs to decide whether a record is the first copy of its send."""

import pytest

from chatcore_ext.replay_window import ReplayWindow
from measuring import Measure

pytest_plugins = "measuring_plugin"

N = 1000
PARTITIONS = 12


# The largest does not fit into a core's own caches, and the others are shared with whatever else runs.
@pytest.mark.parametrize("sessions", [1, 1_000, pytest.param(100_000, marks=pytest.mark.compared(limit=0.5))])
def test_admit_first_copies(measure: Measure, sessions: int) -> None:
    window = ReplayWindow()
    sends = iter(range(1 << 62))

    def batch() -> int:
        admitted = 0
        for _ in range(N):
            send = next(sends)
            session, seq = 1 + send % sessions, 1 + send // sessions
            admitted += window.admit(session, session % PARTITIONS, seq, 1_000_000 + send // 100)
        return admitted

    for _ in range(sessions // N):
        batch()
    assert measure(batch, N) == N


def test_refuse_later_copies(measure: Measure) -> None:
    window = ReplayWindow()
    for session in range(1, N + 1):
        window.admit(session, session % PARTITIONS, 1, 1_000_000)

    def batch() -> int:
        return sum(window.admit(session, session % PARTITIONS, 1, 1_000_000) for session in range(1, N + 1))

    assert measure(batch, N) == 0
