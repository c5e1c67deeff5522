"""The embedded log's group commit: n messages appended at once, until all are on the disk (synchronous=FULL)."""

import asyncio
import tempfile
import time
from pathlib import Path

import pytest

from chatcore_ext.constants import RecordKind
from chatcore_ext.record import encode_record
from chatcore_server.backends import Outcome
from chatcore_server.embedded import EmbeddedStore
from measuring import Measure
from native import BUILD_FOLDER

pytest_plugins = "measuring_plugin"
# A disk that others use too: equal runs came apart by 60 %.
pytestmark = pytest.mark.compared(calibrated_by="disk", limit=1.0)

BODY = bytes(128)
CHANNELS = [b"room:%d" % i for i in range(100)]


class Appender:
    """Appends batches and waits for their outcomes, in a loop of its own that runs only meanwhile."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self._store = EmbeddedStore(folder)
        self._loop.run_until_complete(self._store.open())
        self._store.log.on_outcomes(self._count)
        self._waiting = 0
        self._seq = 0
        self._done = asyncio.Event()

    def _count(self, outcomes: list[Outcome]) -> None:
        assert all(outcome.code == 0 for outcome in outcomes)
        self._waiting -= len(outcomes)
        if self._waiting == 0:
            self._done.set()

    def append(self, n: int) -> None:
        self._loop.run_until_complete(self._append(n))

    async def _append(self, n: int) -> None:
        self._done.clear()
        self._waiting = n
        now = int(time.time() * 1000)
        for _ in range(n):
            self._seq += 1
            value = encode_record(RecordKind.RECORD_MESSAGE, 1, self._seq, now, b"somebody", BODY)
            self._store.log.append(CHANNELS[self._seq % len(CHANNELS)], value, None)
        await self._done.wait()

    def close(self) -> None:
        self._loop.run_until_complete(self._store.close())
        self._loop.close()


@pytest.mark.parametrize("n", [1, 100, 1000])
def test_group_commit(measure: Measure, n: int) -> None:
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    # Not pytest's temporary folder: that may lie in memory, where a commit costs nothing.
    with tempfile.TemporaryDirectory(dir=BUILD_FOLDER) as folder:
        appender = Appender(Path(folder))
        try:
            measure(lambda: appender.append(n), n)
        finally:
            appender.close()
