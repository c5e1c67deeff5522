"""What the machine itself costs, in three kinds of work, at the beginning, in the middle and at the end of a run.

Nothing of chatcore runs here: a change of chatcore must not move these. tools/bench_compare.py divides each benchmark
by the calibration of its kind, so that runs on a slower or busier machine can be compared, and tells how far the
machine drifted meanwhile. measuring_plugin.py spreads the three places over the run.
"""

import os
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator

import pytest

from measuring import Measure
from native import BUILD_FOLDER

pytest_plugins = "measuring_plugin"

N = 1000
BODY = bytes(128)
NAMES = 100_000  # of a table that no cache of a core holds whole, as the hub's


@pytest.fixture
def compute() -> Callable[[], None]:
    """Calls of C functions from Python, with bytes that they make and tables that they look into."""
    pack, checksum = struct.Struct(">QQI").pack, zlib.crc32
    table = {b"p%d" % i: i for i in range(NAMES)}
    names = [b"p%d" % (i * 7919 % NAMES) for i in range(N)]

    def batch() -> None:
        for name in names:
            checksum(BODY, len(pack(table[name], 1, 2)))

    return batch


@pytest.fixture
def kernel() -> Iterator[Callable[[], None]]:
    """A short message through loopback TCP: the way of a delivery."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def batch() -> None:
            for _ in range(N):
                ours.send(BODY)
                theirs.recv(len(BODY))

        yield batch


@pytest.fixture
def disk() -> Iterator[Callable[[], None]]:
    """A page that is on the disk when the call returns: the floor of a commit."""
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=BUILD_FOLDER) as file:
        descriptor, page = file.fileno(), bytes(4096)

        def batch() -> None:
            os.pwrite(descriptor, page, 0)
            os.fdatasync(descriptor)

        yield batch


@pytest.mark.parametrize("place", ["beginning", "middle", "end"])
@pytest.mark.parametrize(("kind", "n"), [("compute", N), ("kernel", N), ("disk", 1)])
def test_calibration(measure: Measure, request: pytest.FixtureRequest, kind: str, n: int, place: str) -> None:
    batch: Callable[[], None] = request.getfixturevalue(kind)
    measure(batch, n)
