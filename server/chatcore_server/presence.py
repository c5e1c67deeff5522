"""Players' presence, and telling it: to friends the first session in, the last session out and away; to those in the
same channels away and back. A channel's comings and goings themselves are attendance.py's.

A backend that does not answer costs the news, never a connection.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from chatcore.errors import RateLimited
from chatcore.operations import Empty, PresenceEvent, SetPresenceRequest
from chatcore_server.attendance import Attendance
from chatcore_server.backends import BackendUnavailable, PresenceChange
from chatcore_server.buckets import KeyedBuckets, monotonic_ms
from chatcore_server.context import Caller, Context
from chatcore_server.logging import get_logger

_log = get_logger()
_MOST_AT_ONCE = 256  # changes that share a call of the session store


class _Change(NamedTuple):
    change: PresenceChange
    friends: Sequence[bytes] | None  # None: not looked up yet
    made: "asyncio.Future[None] | None"  # None: nobody waits


class PresenceKeeper:
    """Changes are made in the order of the calls, those that wait together: after a lost network they are thousands."""

    def __init__(self, context: Context, attendance: Attendance) -> None:
        self._context = context
        self._attendance = attendance
        self._waiting: list[_Change] = []
        self._is_running = False
        limits = context.settings.limits
        self._requests: KeyedBuckets[bytes] = KeyedBuckets(limits.presences_per_second, limits.presence_burst)

    def take_settings(self) -> None:
        """Those that the context has now."""
        limits = self._context.settings.limits
        self._requests.set_limit(limits.presences_per_second, limits.presence_burst)

    def change(self, player: bytes, session: int, presence: str, friends: Sequence[bytes] | None = None) -> None:
        """In the background. `friends` saves a look-up if the caller has just made it."""
        self._begin(_Change(PresenceChange(player, session, presence), friends, None))

    async def change_now(self, player: bytes, session: int, presence: str) -> None:
        """Raises BackendUnavailable."""
        made: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begin(_Change(PresenceChange(player, session, presence), None, made))
        await made

    def _begin(self, change: _Change) -> None:
        self._waiting.append(change)
        if not self._is_running:
            self._is_running = True
            self._context.tasks.spawn(self._run())

    async def _run(self) -> None:
        try:
            while self._waiting:
                changes = self._waiting[:_MOST_AT_ONCE]
                del self._waiting[:_MOST_AT_ONCE]
                await self._make(changes)
        finally:
            self._is_running = False

    async def _make(self, changes: list[_Change]) -> None:
        failure: Exception | None = None
        try:
            await self._change_all(changes)
        except BackendUnavailable as error:
            failure = error
            _log.warning("presence_not_told", changes=len(changes), reason=str(error))
        except Exception as error:
            failure = error
            _log.error("presence_failed", exc_info=error)
        for _, _, made in changes:
            if made is not None:
                _settle(made, failure)

    async def _change_all(self, changes: list[_Change]) -> None:
        backends = self._context.backends
        presences = await backends.sessions.set_presences([change.change for change in changes])
        news = [(change, *both) for change, both in zip(changes, presences, strict=True) if both[0] != both[1]]
        unknown = list(dict.fromkeys(change.change.player for change, *_ in news if change.friends is None))
        profiles = await backends.relations.profiles(unknown) if unknown else []
        friends = {player: profile.friends for player, profile in zip(unknown, profiles, strict=True)}
        for change, before, after in news:
            player = change.change.player
            told = friends[player] if change.friends is None else change.friends
            self._tell(player, before, after, told)

    def _tell(self, player: bytes, before: str, after: str, friends: Iterable[bytes]) -> None:
        is_online_throughout = "offline" not in (before, after)
        others = self._attendance.companions(player) if is_online_throughout else set()
        event = PresenceEvent(player.decode("ascii"), after)
        self._context.outbox.event_to_players(others.union(friends), event)

    async def set_presence(self, caller: Caller, request: SetPresenceRequest) -> Empty:
        wait = self._requests.take(caller.player, monotonic_ms())
        if wait:
            raise RateLimited("too many changes of presence", retry_after_ms=wait)
        await self.change_now(caller.player, caller.session, request.presence)
        return Empty()


def _settle(made: "asyncio.Future[None]", failure: Exception | None) -> None:
    if made.done():
        return  # whoever waited has gone
    if failure is None:
        made.set_result(None)
    else:
        made.set_exception(failure)
