"""Players' presence, and telling it: to friends the first session in, the last session out and away; to those in the
same channels away and back. A channel's comings and goings themselves are attendance.py's.

A backend that does not answer costs the news, never a connection.
"""

from collections.abc import Iterable, Sequence

from chatcore.operations import Empty, PresenceEvent, SetPresenceRequest
from chatcore_server.attendance import Attendance
from chatcore_server.backends import BackendUnavailable
from chatcore_server.context import Caller, Context
from chatcore_server.logging import get_logger
from chatcore_server.tasks import Locks

_log = get_logger()


class PresenceKeeper:
    """Changes of one player are made one after the other, in the order of the calls."""

    def __init__(self, context: Context, attendance: Attendance) -> None:
        self._context = context
        self._attendance = attendance
        self._locks = Locks()

    def change(self, player: bytes, session: int, presence: str, friends: Sequence[bytes] | None = None) -> None:
        """In the background. `friends` saves a look-up if the caller has just made it."""
        self._context.tasks.spawn(self._change_quietly(player, session, presence, friends))

    async def _change_quietly(
        self, player: bytes, session: int, presence: str, friends: Sequence[bytes] | None
    ) -> None:
        try:
            await self.change_now(player, session, presence, friends)
        except BackendUnavailable as error:
            _log.warning("presence_not_told", reason=str(error))

    async def change_now(
        self, player: bytes, session: int, presence: str, friends: Sequence[bytes] | None = None
    ) -> None:
        """Raises BackendUnavailable."""
        sessions, relations = self._context.backends.sessions, self._context.backends.relations
        async with self._locks.hold(player):
            before = (await sessions.presence_of([player]))[0]
            after = await sessions.set_presence(player, session, presence)
            if before == after:
                return
            if friends is None:
                friends = (await relations.friends(player))[0]
            is_online_throughout = "offline" not in (before, after)
            others = self._attendance.companions(player) if is_online_throughout else set()
            self._tell(player, after, others.union(friends))

    def _tell(self, player: bytes, presence: str, others: Iterable[bytes]) -> None:
        event = PresenceEvent(player.decode("ascii"), presence)
        for other in others:
            self._context.outbox.event_to_player(other, event)

    async def set_presence(self, caller: Caller, request: SetPresenceRequest) -> Empty:
        await self.change_now(caller.player, caller.session, request.presence)
        return Empty()
