"""A process whose writes to an embedded store's file begin to fail, as on a broken disk, and work again later.

The kernel makes them fail: RLIMIT_FSIZE. Prints a JSON list of [body, code, uncertain, id], one for each append.
"""

import asyncio
import json
import resource
import sys
from pathlib import Path

import structlog
import uvloop

from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.record import encode_record
from chatcore_server.backends import Outcome
from chatcore_server.embedded import EmbeddedSettings, EmbeddedStore
from chatcore_server.embedded.database import FILE_NAME

CHANNEL = b"room:x"
SPARE_BYTES = 16_384
RETRY_MS = 5


class Writing:
    def __init__(self, store: EmbeddedStore) -> None:
        self.outcomes: list[tuple[str, int, bool, int]] = []
        self._store = store
        self._seq = 0
        self._done = asyncio.Event()
        store.log.on_outcomes(self._on_outcomes)

    def _on_outcomes(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self.outcomes.append((str(outcome.token), outcome.code, outcome.uncertain, outcome.offset))
        self._done.set()

    async def append(self) -> int:
        """The code of the outcome of one more append."""
        self._seq += 1
        body = f"{self._seq}-".encode() + b"x" * 4_000
        self._done.clear()
        self._store.log.append(CHANNEL, encode_record(1, 1, self._seq, 0, b"ann", body), self._seq)
        await self._done.wait()
        return self.outcomes[-1][1]


async def main(folder: Path) -> None:
    store = EmbeddedStore(folder, EmbeddedSettings(retry_ms=RETRY_MS))
    await store.open()
    writing = Writing(store)
    assert await writing.append() == 0
    size = len((folder / (FILE_NAME + "-wal")).read_bytes().rstrip(b"\0"))  # in use: the file is longer
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + SPARE_BYTES, hard))
    while await writing.append() == 0:
        pass
    for _ in range(3):
        assert await writing.append() == ErrorCode.ERROR_LOG_UNAVAILABLE
        await asyncio.sleep(RETRY_MS / 1000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for _ in range(1_000):
        if await writing.append() == 0:
            break
        await asyncio.sleep(RETRY_MS / 1000)
    for _ in range(5):
        assert await writing.append() == 0
    await store.close()
    print(json.dumps(writing.outcomes))


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    uvloop.run(main(Path(sys.argv[1])))
