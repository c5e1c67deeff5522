"""Answers that are awaited, with one deadline for all: who waits longer gets BackendUnavailable. Loop thread only.

The deadline is the same for every answer, so the oldest is always due first and one timer serves them all.
"""

import asyncio
from collections import deque
from typing import Any

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import BackendUnavailable


class Pending:
    def __init__(self, timeout_ms: int) -> None:
        self._timeout_s = timeout_ms / 1000
        self._waiting: deque[tuple[float, asyncio.Future[Any], ErrorCode]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, loop: asyncio.AbstractEventLoop, code: ErrorCode) -> "asyncio.Future[Any]":
        """A future that fails with BackendUnavailable(code) when the time is over."""
        future: asyncio.Future[Any] = loop.create_future()
        while self._waiting and self._waiting[0][1].done():
            self._waiting.popleft()
        self._waiting.append((loop.time() + self._timeout_s, future, code))
        if self._timer is None:
            self._timer = loop.call_later(self._timeout_s, self._expire, loop)
        return future

    @staticmethod
    def resolve(future: "asyncio.Future[Any]", result: Any) -> None:
        if not future.done():
            future.set_result(result)

    @staticmethod
    def fail(future: "asyncio.Future[Any]", error: Exception) -> None:
        if not future.done():
            future.set_exception(error)

    def close(self) -> None:
        """Fail whatever still waits; no timer is left."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for _, future, code in self._waiting:
            self.fail(future, BackendUnavailable(code, "the store is closed"))
        self._waiting.clear()

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        while self._waiting and (self._waiting[0][1].done() or self._waiting[0][0] <= loop.time()):
            _, future, code = self._waiting.popleft()
            self.fail(future, BackendUnavailable(code, f"no answer within {self._timeout_s:g} s"))
        if self._waiting:
            self._timer = loop.call_at(self._waiting[0][0], self._expire, loop)
