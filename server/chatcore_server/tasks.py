"""The worker's running coroutines and locks by name. Keeps nothing of what is neither running nor waited for."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

from chatcore_server.logging import get_logger

_log = get_logger()


class Tasks:
    """Starts coroutines that nobody waits for, keeps them alive, and logs those that fail."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def spawn(self, coroutine: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._running.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", exc_info=error)

    @property
    def n_running(self) -> int:
        return len(self._running)

    async def cancel(self) -> None:
        """Ends all of them."""
        while self._running:  # one that ends may have started another
            tasks = list(self._running)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


class Locks:
    """A lock for each key that is in use: whoever changes the same thing waits, in the order of coming."""

    def __init__(self) -> None:
        self._locks: dict[bytes, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def hold(self, key: bytes) -> AsyncIterator[None]:
        lock, n_users = self._locks.get(key) or (asyncio.Lock(), 0)
        self._locks[key] = (lock, n_users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, n_users = self._locks[key]
            if n_users == 1:
                del self._locks[key]
            else:
                self._locks[key] = (lock, n_users - 1)
