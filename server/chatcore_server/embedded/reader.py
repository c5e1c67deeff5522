"""The reader thread: look-ups in the embedded store, off the loop. Reads only what is committed; never writes."""

import asyncio
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import BackendUnavailable
from chatcore_server.embedded.pending import Pending
from chatcore_server.embedded.settings import EmbeddedSettings

T = TypeVar("T")

MAX_BATCH_S = 0.002  # answers wait no longer than this for others to share one wake-up of the loop
_MAX_BATCH = 256  # look-ups of one snapshot, which keeps the write-ahead log from being reset
_Answer = tuple["asyncio.Future[Any]", Any, Exception | None]


class _Lookup(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    future: "asyncio.Future[Any]"
    code: ErrorCode
    is_large: bool


class Reader:
    """Methods are for the loop's thread, those with a leading underscore for the reader's own."""

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._queue: SimpleQueue[_Lookup | None] = SimpleQueue()
        self._large: deque[_Lookup] = deque()  # out of the queue; changed by the reader's thread alone
        self._max_queued = settings.max_queued_lookups
        self._pending = Pending(settings.lookup_timeout_ms)
        self._thread: threading.Thread | None = None

    def start(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Takes the connection over: the thread closes it when it ends."""
        self._connection = connection
        self._loop = loop
        self._thread = threading.Thread(target=self._run, name="chatcore-reader", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Look-ups still waiting fail."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            await asyncio.to_thread(thread.join)
            await asyncio.sleep(0)
        self._pending.close()

    async def look_up(self, work: Callable[[sqlite3.Connection], T], code: ErrorCode, *, is_large: bool = False) -> T:
        """What `work` returns. Raises BackendUnavailable(code) if the file cannot be read, or not in time, or too many
        wait: while the disk hangs, those that nobody waits for any more lie in the queue, too.

        Large ones let the others go first, which are what logins need.
        """
        if self._thread is None:
            raise BackendUnavailable(code, "the store is closed")
        if self._queue.qsize() + len(self._large) >= self._max_queued:
            raise BackendUnavailable(code, f"{self._max_queued} look-ups wait")
        future = self._pending.add(self._loop, code)
        self._queue.put(_Lookup(work, future, code, is_large))
        result: T = await future
        return result

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer_all(batch)
        self._connection.close()

    def _next_batch(self) -> list[_Lookup]:
        """What is queued, once there is something, and after it one of the large ones. Nothing: the end."""
        batch: list[_Lookup] = []
        while len(batch) < _MAX_BATCH:
            try:
                lookup = self._queue.get(block=not batch and not self._large)
            except Empty:
                break
            if lookup is None:
                if batch or self._large:
                    self._queue.put(None)  # the end comes after these
                break
            (self._large if lookup.is_large else batch).append(lookup)
        if self._large:
            batch.append(self._large.popleft())
        return batch

    def _answer_all(self, batch: list[_Lookup]) -> None:
        """In one snapshot, which spares each statement the locks of a transaction of its own. It begins after all of
        them were asked, so none misses what was durable when it was asked.
        """
        answers: list[_Answer] = []
        until = time.monotonic() + MAX_BATCH_S
        self._connection.execute("BEGIN")
        for lookup in batch:
            answers.append(self._answer(lookup))
            if time.monotonic() > until:
                self._tell(answers)
                answers, until = [], time.monotonic() + MAX_BATCH_S
        if self._connection.in_transaction:  # an error of the disk has ended it already
            self._connection.rollback()
        self._tell(answers)

    def _answer(self, lookup: _Lookup) -> _Answer:
        work, future, code, _ = lookup
        if future.done():
            return future, None, None  # nobody waits for it any more
        try:
            return future, work(self._connection), None
        except sqlite3.Error as error:
            return future, None, BackendUnavailable(code, f"the store cannot be read: {error}")
        except Exception as error:
            return future, None, error

    def _tell(self, answers: list[_Answer]) -> None:
        try:
            self._loop.call_soon_threadsafe(self._deliver, answers)
        except RuntimeError:
            pass  # the loop is closed: nobody waits

    def _deliver(self, answers: list[_Answer]) -> None:
        """Loop thread."""
        for future, result, error in answers:
            if error is not None:
                self._pending.fail(future, error)
            else:
                self._pending.resolve(future, result)
