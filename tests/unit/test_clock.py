"""Time that never goes back, and what the operator hears of a server that cannot accept."""

import msgspec
from structlog.testing import capture_logs

from chatcore_server.accepting import AcceptWatch
from chatcore_server.clock import DISBELIEVED_MS, Clock
from chatcore_server.serve import _fitting_descriptors
from chatcore_server.settings import ServerSettings
from chatcore_server.settings_layers import load_settings

HOUR_MS = 3_600_000


def test_a_clock_that_is_set_back_slows_down_until_the_machine_has_caught_up() -> None:
    times = iter([(1000, 10), (1005, 15), (400, 15), (402, 17), (500, 115), (1040, 125), (1200, 130), (1199, 131)])
    clock = Clock(lambda: machine[0], lambda: machine[1])
    told = []
    for machine in times:  # noqa: B007 - the clock reads it
        told.append(clock.now_ms())
    assert told == [1000, 1005, 1005, 1006, 1055, 1060, 1200, 1200]


def test_the_lead_over_a_clock_that_is_set_back() -> None:
    """A little of it is not believed, so that nothing comes back that a moment ago was over."""
    wall = [HOUR_MS]
    clock = Clock(lambda: wall[0], lambda: 0)
    assert clock.lead_ms() == 0
    wall[0] += HOUR_MS
    assert clock.lead_ms() == 0
    wall[0] -= DISBELIEVED_MS
    assert clock.lead_ms() == 0
    wall[0] -= HOUR_MS
    assert clock.lead_ms() == HOUR_MS
    wall[0] += 2 * HOUR_MS
    assert clock.lead_ms() == 0


def test_a_pause_is_told_once_and_so_is_its_end() -> None:
    watch = AcceptWatch()
    with capture_logs() as logs:
        watch.look(0, 0.0)
        for tick in range(20):
            watch.look(tick + 1, tick / 10)
        for tick in range(20, 50):
            watch.look(20, tick / 10)
        watch.look(21, 9.0)
    assert [entry["event"] for entry in logs] == ["accepting_paused", "accepting_resumed", "accepting_paused"]


def test_connections_follow_the_descriptors() -> None:
    settings = ServerSettings()
    enough = settings.limits.connections + settings.limits.closing + 128
    with capture_logs() as logs:
        few = _fitting_descriptors(settings, 1024).limits
        assert (few.connections, few.closing) == (840, 56), "one in sixteen is ending, and 128 are the process's own"
        none = _fitting_descriptors(settings, 129).limits
        assert (none.connections, none.closing) == (1, 1)
        assert _fitting_descriptors(settings, enough - 1).limits.closing == settings.limits.closing
        assert _fitting_descriptors(settings, enough) is settings
    assert logs == [], "nobody has asked for as many"
    wished = load_settings({"limits": {"connections": 5000}})
    with capture_logs() as logs:
        assert _fitting_descriptors(wished, 1024).limits.connections == 840
        modest = load_settings({"limits": {"connections": 500}})
        assert _fitting_descriptors(modest, 1024).limits.closing == 396, "what the connections leave"
    assert [entry["event"] for entry in logs] == ["connections_limited"]
    fewer = _fitting_descriptors(settings, 1024)
    assert msgspec.structs.replace(fewer, limits=settings.limits) == settings, "nothing else has changed"
