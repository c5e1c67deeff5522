"""chatcore under the load generator: every delivery exactly once and in order, as in a measurement, only shorter."""

import pytest

from our_server import chatcore_server
from processes import Load, idle_connections, run_load
from whole_server import resident_bytes

BUSY = Load("busy", rooms=3, members=20, talkers=5, window=8)
BRIEF = ["--warm=0.1", "--seconds=0.5"]


@pytest.mark.parametrize("mode", ["signals", "messages"])
@pytest.mark.parametrize("rate", [0, 500], ids=["closed-loop", "open-loop"])
def test_every_delivery_is_right(mode: str, rate: int) -> None:
    load = BUSY._replace(mode=mode, rate=rate)
    with chatcore_server(load.connections) as server:
        answer = run_load(server, [*load.arguments, *BRIEF])
    assert answer["right"], answer
    assert answer["deliveries"] > 0
    assert answer["server_cpu_seconds"] > 0


def test_idle_connections_stay() -> None:
    with chatcore_server(100) as server, idle_connections(server, 100, 2, timeout=20):
        assert resident_bytes(server.pid) > 1 << 20
