"""What Python tells clients: encodes it, hands it to the hub and sees to it that the hub flushes in this turn.

Everything that appends output outside the hub's own turn goes through here or calls `wake`. Decides nothing.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from msgspec import Struct

from chatcore.errors import ChatError
from chatcore.operations import EventBody, encode_body
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.hub import Hub
from chatcore_server.backends import BackendUnavailable

_LARGE = 4096  # bytes of an answer; smaller ones never wait, so `join` answers in its turn
_LOOK_AGAIN_S = 0.01
_UNREAD_S = 5.0  # nothing taken for so long while a large answer waits: it does not read, and the answer is let go


@dataclass(slots=True)
class _Wait:
    """For room for a large answer."""

    connection: int
    most_pending: int
    least: int  # bytes pending since it waits, and since when
    since: float
    done: "asyncio.Future[None]"


class Outbox:
    """Loop thread only. `wake` asks for one flush at the end of the turn; calling it again costs nothing."""

    def __init__(self, hub: Hub, wake: Callable[[], None]) -> None:
        self._hub = hub
        self.wake = wake
        self._waits: list[_Wait] = []

    def reply(self, connection: int, request_id: int, body: Struct) -> None:
        self._hub.reply(connection, request_id, encode_body(body))
        self.wake()

    async def reply_in_time(self, connection: int, request_id: int, body: Struct, most_pending: int) -> None:
        """As `reply`. A large answer waits until no more than `most_pending` bytes are unsent with it: who asks for
        much at once gets it as fast as it reads.
        """
        encoded = encode_body(body)
        if len(encoded) > _LARGE:
            await self.wait_for_room(connection, most_pending - len(encoded))
        self._hub.reply(connection, request_id, encoded)
        self.wake()

    async def wait_for_room(self, connection: int, most_pending: int) -> None:
        """Until no more than `most_pending` bytes are unsent to it, or it is gone. Who takes nothing at all is closed
        with `slow_receiver`.
        """
        most_pending = max(0, most_pending)
        pending = self._hub.pending(connection)
        if pending > most_pending:
            loop = asyncio.get_running_loop()
            self._waits.append(_Wait(connection, most_pending, pending, loop.time(), loop.create_future()))
            if len(self._waits) == 1:
                loop.call_later(_LOOK_AGAIN_S, self._look, loop)
            await self._waits[-1].done

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all who wait: those who do not read may be many."""
        now = loop.time()
        self._waits = [wait for wait in self._waits if not wait.done.done() and not self._is_over(wait, now)]
        if self._waits:
            loop.call_later(_LOOK_AGAIN_S, self._look, loop)

    def _is_over(self, wait: "_Wait", now: float) -> bool:
        pending = self._hub.pending(wait.connection)  # 0: it is gone
        if pending < wait.least:
            wait.least, wait.since = pending, now
        if pending > wait.most_pending:
            if now - wait.since <= _UNREAD_S:
                return False
            self._hub.close_connection(wait.connection, ErrorCode.ERROR_SLOW_RECEIVER)
            self.wake()
        wait.done.set_result(None)
        return True

    def fail(self, connection: int, request_id: int, error: ChatError | BackendUnavailable) -> None:
        self._hub.fail(connection, request_id, error.code, text_of(error), error.retry_after_ms)
        self.wake()

    def close(self, connection: int, error: ChatError | BackendUnavailable) -> None:
        """CLOSE with the reason, then the connection ends."""
        self._hub.close_connection(connection, error.code, text_of(error), error.retry_after_ms)
        self.wake()

    def event(self, connection: int, event: EventBody) -> None:
        self._hub.event(connection, encode_body(event))
        self.wake()

    def event_to_player(self, player: bytes, event: EventBody) -> None:
        """To all of the player's connections here."""
        if self._hub.event_to_player(player, encode_body(event)):
            self.wake()

    def event_to_players(self, players: Iterable[bytes], event: EventBody) -> None:
        """As to each of them, for what is told to thousands: encoded once."""
        body, send = encode_body(event), self._hub.event_to_player
        if sum([send(player, body) for player in players]):
            self.wake()

    def event_to_channel(self, channel: bytes, event: EventBody, except_connection: int = 0) -> None:
        if self._hub.event_to_channel(channel, encode_body(event), except_connection):
            self.wake()


def text_of(error: ChatError | BackendUnavailable) -> bytes:
    """What a client is told beside the code: a backend's reason is for the operator, not for players."""
    # A token's JSON may hold half a surrogate pair, which PyJWT quotes and UTF-8 cannot.
    return error.message.encode("utf-8", "replace") if isinstance(error, ChatError) else b""
