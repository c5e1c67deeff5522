"""The writer thread: every durable change of the embedded store, many to a transaction (group commit).

Whatever is queued when it becomes free is one batch: one transaction, one fsync, one call into the loop. Appends and
other changes share it. Never blocks the loop: the loop's thread only puts into the queue and gets reports out.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

import structlog

from chatcore_ext.durations import DurationHistogram
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import BackendUnavailable, LogFull, LogRecord, Outcome
from chatcore_server.embedded.log_writer import Append, LogWriter, Placed
from chatcore_server.embedded.pending import Pending
from chatcore_server.embedded.retention import Retention
from chatcore_server.embedded.settings import EmbeddedSettings

T = TypeVar("T")
logger = structlog.get_logger(__name__)

# A COMMIT that fails so has written no commit frame: the batch is certainly not in the file. After any other failure of
# a COMMIT (an fsync's, mostly) the frames may be on the disk, and a crash now would bring them back.
CERTAIN_AT_COMMIT = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_CORRUPT)


class Change:
    """A durable change other than an append: `work` runs in the batch's transaction, `future` gets what it returns."""

    __slots__ = ("code", "error", "future", "result", "work")

    def __init__(
        self, work: Callable[[sqlite3.Connection], Any], future: "asyncio.Future[Any]", code: ErrorCode
    ) -> None:
        self.work = work
        self.future = future
        self.code = code
        self.result: Any = None
        self.error: Exception | None = None


class Report(NamedTuple):
    """What became of one batch, for the loop's thread."""

    outcomes: list[Outcome]
    records: dict[int, list[LogRecord]]
    changes: list[Change]
    n_bytes: int


class _Batch(NamedTuple):
    appends: list[Append]
    changes: list[Change]
    n_bytes: int


class _Failure(Exception):
    def __init__(self, uncertain: bool) -> None:
        self.uncertain = uncertain


_STOP = object()


class Writer:
    """Methods are for the loop's thread, those with a leading underscore for the writer's own, unless they say else."""

    def __init__(
        self, settings: EmbeddedSettings, on_report: Callable[[Report], None], clock: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._on_report = on_report
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._n_queued = 0  # loop thread only, as the two below
        self._queued_bytes = 0
        self._accepting = False
        self._pending = Pending(settings.write_timeout_ms)
        self._clock = clock
        self._log = LogWriter(settings, clock)
        self._retention = Retention(settings)
        self._thread: threading.Thread | None = None
        self._failing_until = 0.0  # time.monotonic(): until then batches fail without asking the disk
        self._trim_at = 0.0
        self._n_failures = 0
        self.commits = DurationHistogram()

    def counters(self) -> dict[str, int]:
        return {
            "log_queue_records": self._n_queued,
            "log_queue_bytes": self._queued_bytes,
            "log_commit_failures": self._n_failures,
        }

    def start(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Takes the connection over, which `load` has read: the thread closes it when it ends."""
        self._connection = connection
        self._loop = loop
        self._accepting = True
        self._thread = threading.Thread(target=self._run, name="chatcore-writer", daemon=True)
        self._thread.start()

    def load(self, connection: sqlite3.Connection) -> None:
        """Before `start`, in any thread: reads what the writer must know of the log."""
        self._log.load(connection)

    async def stop(self) -> None:
        """Everything taken in is written and reported when this returns."""
        self._accepting = False
        if self._thread is None:
            return
        self._queue.put(_STOP)
        await asyncio.to_thread(self._thread.join)
        self._thread = None
        await asyncio.sleep(0)  # the last report was scheduled before the thread ended
        self._pending.close()

    async def drain(self) -> None:
        """Everything taken in before has had its report when this returns, however long the disk takes."""
        if self._thread is None:
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._queue.put(Change(lambda connection: None, future, ErrorCode.ERROR_LOG_UNAVAILABLE))
        with contextlib.suppress(BackendUnavailable):
            await future

    def append(self, channel: bytes, value: bytes, token: object) -> None:
        """Raises LogFull; TypeError if these are not bytes."""
        if type(channel) is not bytes or type(value) is not bytes:
            raise TypeError("channel and value must be bytes")
        size = len(value)
        settings = self._settings
        if (
            self._n_queued >= settings.max_queued_records
            or self._queued_bytes + size > settings.max_queued_bytes
            or not self._accepting
        ):
            raise LogFull("the log's queue is full" if self._accepting else "the log is closed")
        self._n_queued += 1
        self._queued_bytes += size
        self._queue.put((channel, value, token))

    async def change(self, work: Callable[[sqlite3.Connection], T], code: ErrorCode) -> T:
        """Run `work` in the next batch's transaction; its result when that is durable. Raises BackendUnavailable(code).

        After a time-out the change may still happen: changes are idempotent, so they may be asked for again."""
        if not self._accepting:
            raise BackendUnavailable(code, "the store is closed")
        future = self._pending.add(self._loop, code)
        self._queue.put(Change(work, future, code))
        result: T = await future
        return result

    def find_recent(self, channel: bytes, session: int, seq: int) -> int:
        """The offset of a recent send's first copy, 0 = not known. Raises BackendUnavailable when closed."""
        if self._thread is None:
            raise BackendUnavailable(ErrorCode.ERROR_HISTORY_UNAVAILABLE, "the store is closed")
        return self._log.sends.find(channel, session, seq)

    def _run(self) -> None:
        going = True
        while going:
            batch, going = self._take()
            if batch.appends or batch.changes:
                self._tell(self._write_in_any_case(batch))
            self._trim_if_due()
        self._connection.close()

    def _take(self) -> tuple[_Batch, bool]:
        """Wait for something, then take what is there, up to a batch's bounds. False: nothing will come any more."""
        settings = self._settings
        appends: list[Append] = []
        changes: list[Change] = []
        n_bytes = 0
        get = self._queue.get
        try:
            item = get(timeout=max(0.001, self._trim_at - time.monotonic()))
            while True:
                if type(item) is tuple:
                    appends.append(item)
                    n_bytes += len(item[1])
                elif item is _STOP:
                    return _Batch(appends, changes, n_bytes), False
                else:
                    changes.append(item)
                if len(appends) + len(changes) >= settings.max_batch_records or n_bytes >= settings.max_batch_bytes:
                    break
                item = get(block=False)
        except Empty:
            pass
        return _Batch(appends, changes, n_bytes), True

    def _write_in_any_case(self, batch: _Batch) -> Report:
        """A defect costs its batch, never the thread on which everything durable hangs."""
        try:
            return self._write(batch)
        except Exception:
            logger.exception("log_writer_failed")
            self._roll_back()
            self._log.discard()
            return self._failed(batch, uncertain=True)

    def _write(self, batch: _Batch) -> Report:
        """All of the batch or nothing of it, durable when this returns."""
        if time.monotonic() < self._failing_until:
            return self._failed(batch, uncertain=False)
        began = time.monotonic()
        try:
            placed = self._transact(batch)
        except _Failure as failure:
            self._n_failures += 1
            self._failing_until = time.monotonic() + self._settings.retry_ms / 1000
            self._log.discard()
            return self._failed(batch, failure.uncertain)
        self.commits.observe(time.monotonic() - began)
        self._log.committed(placed)
        return Report(placed.outcomes, placed.records, batch.changes, batch.n_bytes)

    def _transact(self, batch: _Batch) -> Placed:
        connection = self._connection
        committing = False
        try:
            self._log.load(connection)
            connection.execute("BEGIN IMMEDIATE")
            placed = self._log.place(connection, batch.appends)
            self._log.insert(connection, placed)
            for change in batch.changes:
                self._apply(connection, change)
            committing = True
            connection.execute("COMMIT")
            return placed
        except Exception as error:
            uncertain = committing and _primary_code(error) not in CERTAIN_AT_COMMIT
            self._roll_back()
            logger.error("log_write_failed", reason=str(error), records=len(batch.appends), uncertain=uncertain)
            raise _Failure(uncertain) from error

    def _apply(self, connection: sqlite3.Connection, change: Change) -> None:
        """A change that fails by itself takes only itself back; one that the disk fails takes the batch with it."""
        if change.future.done():
            return  # timed out or cancelled in the queue: nobody waits for it
        connection.execute("SAVEPOINT change")
        try:
            change.result = change.work(connection)
        except sqlite3.OperationalError:
            raise
        except Exception as error:
            connection.execute("ROLLBACK TO change")
            change.error = error
        connection.execute("RELEASE change")

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            logger.exception("log_rollback_failed")

    def _failed(self, batch: _Batch, uncertain: bool) -> Report:
        code = int(ErrorCode.ERROR_LOG_UNAVAILABLE)
        outcomes = [Outcome(token, -1, 0, 0, code, uncertain) for _, _, token in batch.appends]
        for change in batch.changes:
            change.error = BackendUnavailable(
                change.code, "the store cannot write", retry_after_ms=self._settings.retry_ms
            )
        return Report(outcomes, {}, batch.changes, batch.n_bytes)

    def _tell(self, report: Report) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, report)
        except RuntimeError:
            pass  # the loop is closed: nobody is left to be told

    def _deliver(self, report: Report) -> None:
        """Loop thread."""
        self._n_queued -= len(report.outcomes)
        self._queued_bytes -= report.n_bytes
        for change in report.changes:
            if change.error is not None:
                self._pending.fail(change.future, change.error)
            else:
                self._pending.resolve(change.future, change.result)
        self._on_report(report)

    def _trim_if_due(self) -> None:
        now = time.monotonic()
        if now < self._trim_at or now < self._failing_until:
            self._trim_at = max(self._trim_at, self._failing_until)
            return
        more = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            more = self._retention.step(self._connection, self._log.now(), self._clock())
            self._connection.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            logger.error("log_trim_failed", reason=str(error))
        # With more to do the next step comes right after the next batch, or at once when there is none.
        self._trim_at = now if more else now + self._settings.trim_interval_ms / 1000


def _primary_code(error: Exception) -> int:
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF
