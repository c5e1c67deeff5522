"""The embedded store: one SQLite file in a data folder that is log, history, session store and relations of a server.

Opens and closes the parts in their order; holds no logic of theirs.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path

from chatcore_ext.durations import Snapshot
from chatcore_server.clock import now_ms
from chatcore_server.embedded.database import (
    FILE_NAME,
    FolderLock,
    connect_reader,
    connect_writer,
    open_error,
    read_epoch,
)
from chatcore_server.embedded.history import EmbeddedHistory
from chatcore_server.embedded.log import EmbeddedLog
from chatcore_server.embedded.reader import Reader
from chatcore_server.embedded.relations import EmbeddedRelations
from chatcore_server.embedded.sessions import EmbeddedSessions
from chatcore_server.embedded.settings import EmbeddedSettings
from chatcore_server.embedded.writer import Report, Writer


class EmbeddedStore:
    """All backends of a server that needs no services. Use from one event loop, whichever; open once, close once.

    A process that is killed at any moment loses nothing whose outcome was reported; see EmbeddedSettings.synchronous
    for power cuts. The folder is locked: two servers never share it.
    """

    def __init__(
        self, folder: Path, settings: EmbeddedSettings | None = None, *, clock: Callable[[], int] = now_ms
    ) -> None:
        """`clock`: ms since 1970; the log's times are its, except that they never go back."""
        self.settings = settings or EmbeddedSettings()
        self.folder = folder
        self._lock: FolderLock | None = None
        self._writer = Writer(self.settings, self._deliver, clock)
        self._reader = Reader(self.settings)
        self.log = EmbeddedLog(self.settings, self._writer, self._reader)
        self.history = EmbeddedHistory(self.settings, self._writer, self._reader)
        self.sessions = EmbeddedSessions(self.settings, self._writer, self._reader)
        self.relations = EmbeddedRelations(self._writer, self._reader)

    async def open(self) -> None:
        """Ready when it returns; reads through the replay window before. Raises EmbeddedStoreError, with what to do."""
        self._lock = FolderLock(self.folder)
        try:
            writing, reading = await asyncio.to_thread(self._connect)
        except BaseException:
            self._lock.release()
            raise
        loop = asyncio.get_running_loop()
        self._writer.start(writing, loop)
        self._reader.start(reading, loop)

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection]:
        path = self.folder / FILE_NAME
        writing = connect_writer(path, self.settings.synchronous, self.settings.partitions)
        try:
            self._writer.load(writing)
            self.log.epoch = read_epoch(writing)
            return writing, connect_reader(path)
        except sqlite3.Error as error:
            writing.close()
            raise open_error(path, error) from error
        except BaseException:
            writing.close()
            raise

    async def close(self) -> None:
        """Writes what was taken in, reports it, then lets go of the file and the folder."""
        if self._lock is None:
            return
        await self._writer.stop()
        await self._reader.stop()
        self.log.forget_tails()
        self._lock.release()
        self._lock = None

    def counters(self) -> dict[str, int]:
        return self._writer.counters()

    def histograms(self) -> dict[str, Snapshot]:
        """`log_commit`: of the writer's transactions, in seconds."""
        return {"log_commit": self._writer.commits.snapshot()}

    def _deliver(self, report: Report) -> None:
        self.log.deliver(report)
