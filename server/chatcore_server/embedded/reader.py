"""The reader thread: look-ups in the embedded store, off the loop. Reads only what is committed; never writes."""

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import BackendUnavailable
from chatcore_server.embedded.pending import Pending
from chatcore_server.embedded.settings import EmbeddedSettings

T = TypeVar("T")

MAX_BATCH_S = 0.002  # answers wait no longer than this for others to share one wake-up of the loop
_MAX_BATCH = 256  # look-ups of one snapshot, which keeps the write-ahead log from being reset
_Lookup = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]", ErrorCode]
_Answer = tuple["asyncio.Future[Any]", Any, Exception | None]


class Reader:
    """Methods are for the loop's thread, those with a leading underscore for the reader's own."""

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._queue: SimpleQueue[_Lookup | None] = SimpleQueue()
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

    async def look_up(self, work: Callable[[sqlite3.Connection], T], code: ErrorCode) -> T:
        """What `work` returns. Raises BackendUnavailable(code) if the file cannot be read, or not in time."""
        if self._thread is None:
            raise BackendUnavailable(code, "the store is closed")
        future = self._pending.add(self._loop, code)
        self._queue.put((work, future, code))
        result: T = await future
        return result

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer_all(batch)
        self._connection.close()

    def _next_batch(self) -> list[_Lookup]:
        """What is queued, once there is something. Nothing: the end."""
        batch: list[_Lookup] = []
        lookup = self._queue.get()
        while lookup is not None:
            batch.append(lookup)
            if len(batch) == _MAX_BATCH:
                return batch
            try:
                lookup = self._queue.get(block=False)
            except Empty:
                return batch
        if batch:
            self._queue.put(None)  # the end comes after these
        return batch

    def _answer_all(self, batch: list[_Lookup]) -> None:
        """In one snapshot, which spares each statement the locks of a transaction of its own. It begins after all of
        them were asked, so none misses what was durable when it was asked.
        """
        answers: list[_Answer] = []
        until = time.monotonic() + MAX_BATCH_S
        self._connection.execute("BEGIN")
        for lookup in batch:
            answers.append(self._answer(*lookup))
            if time.monotonic() > until:
                self._tell(answers)
                answers, until = [], time.monotonic() + MAX_BATCH_S
        if self._connection.in_transaction:  # an error of the disk has ended it already
            self._connection.rollback()
        self._tell(answers)

    def _answer(
        self, work: Callable[[sqlite3.Connection], Any], future: "asyncio.Future[Any]", code: ErrorCode
    ) -> _Answer:
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
