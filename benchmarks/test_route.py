"""Routing tables: joining and leaving small and large channels, and the look-ups that a server's decisions need."""

from collections.abc import Iterator

import pytest

from crowd import CHANNEL, Crowd
from measuring import Measure

pytest_plugins = "measuring_plugin"

N = 1000


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    with Crowd(N) as crowd:
        yield crowd


@pytest.mark.parametrize("members", [1, N], ids=["each-its-own", "all-in-one"])
def test_join_and_leave(measure: Measure, crowd: Crowd, members: int) -> None:
    hub = crowd.hub
    places = [(connection, b"room:join-%d" % (i // members)) for i, connection in enumerate(crowd.connections)]

    def batch() -> int:
        joined = 0
        for connection, channel in places:
            joined += hub.complete_join(connection, channel, hub.begin_join(connection, channel), True) > 0
        for connection, channel in places:
            assert hub.leave(connection, channel)
        return joined

    assert measure(batch, N) == N
    hub.check_invariants()


def test_look_up_membership(measure: Measure, crowd: Crowd) -> None:
    hub = crowd.hub
    assert measure(lambda: sum(hub.is_joined(connection, CHANNEL) for connection in crowd.connections), N) == N


def test_look_up_player(measure: Measure, crowd: Crowd) -> None:
    hub = crowd.hub
    players = [b"p%d" % i for i in range(N)]
    assert measure(lambda: sum(len(hub.sessions_of(player)) for player in players), N) == N


def test_look_up_channel(measure: Measure, crowd: Crowd) -> None:
    hub = crowd.hub
    assert measure(lambda: sum(hub.subscribers(CHANNEL) for _ in range(N)), N) == N * N
