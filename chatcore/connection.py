"""One connection of a ClientSession on an asyncio loop: moves its bytes and keeps its deadlines. Never reconnects."""

import asyncio
import time
from collections.abc import Callable
from typing import cast

from chatcore.errors import ChatError
from chatcore.events import ConnectionClosed, SessionEvent
from chatcore.session import ClientSession


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Connection(asyncio.Protocol):
    """Says hello once it is open; `ended` then becomes the error that ended it, None for an end without a reason.

    `on_events` is called on the loop with all that the session tells. Loop thread only.
    """

    def __init__(self, session: ClientSession, token: str, on_events: Callable[[list[SessionEvent]], None]) -> None:
        self._session = session
        self._token = token
        self._on_events = on_events
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self.ended: asyncio.Future[ChatError | None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's do not inherit it
        self._session.connect(now_ms(), self._token)
        self.flush()

    def data_received(self, data: bytes) -> None:
        self._on_events(self._session.receive(data, now_ms()))
        self.flush()

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        lost = self._session.disconnected(now_ms())
        self._on_events(lost)
        reasons = [event.error for event in lost if isinstance(event, ConnectionClosed)]
        if not self.ended.done():
            self.ended.set_result(reasons[-1])

    def flush(self) -> None:
        """Send what the session has to send; to be called after every call of its methods."""
        transport = self._transport
        if transport is None:
            return
        data = self._session.data_to_send()
        if data:
            transport.write(data)
        if self._session.closing:
            transport.abort()  # not close(): a peer that is silent may never take what is still to be sent
        self._set_timer()

    def set_paused(self, is_paused: bool) -> None:
        """Stop reading (TCP then slows the server down), or go on."""
        if self._transport is None or is_paused == self._is_paused:
            return
        self._is_paused = is_paused
        if is_paused:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def close(self) -> None:
        """Send what is written, then end the connection."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _set_timer(self) -> None:
        """One timer, moved only when it would ring too late: most flushes push the deadline back."""
        deadline = self._session.next_deadline_ms()
        if deadline is None:
            return
        when = self._loop.time() + max(0, deadline - now_ms()) / 1000
        if self._timer is not None and not self._timer.cancelled():
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._is_paused:
            self._session.excuse_silence()
        deadline = self._session.next_deadline_ms()
        if deadline is not None and deadline <= now_ms():
            self._on_events(self._session.tick(now_ms()))
        self.flush()
