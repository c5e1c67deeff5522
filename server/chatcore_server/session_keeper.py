"""A player's sessions here: how many there may be, and what follows when one loses its connection, expires or is ended.

The sessions themselves are in the hub's tables.
"""

from chatcore.errors import TooManySessions
from chatcore.operations import Empty
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.attendance import Attendance
from chatcore_server.clock import now_ms
from chatcore_server.context import Caller, Context
from chatcore_server.presence import PresenceKeeper
from chatcore_server.social import Social


class SessionKeeper:
    """The device policy, `logout`, and the hub's events about sessions."""

    def __init__(self, context: Context, attendance: Attendance, social: Social, presence: PresenceKeeper) -> None:
        self._context = context
        self._attendance = attendance
        self._social = social
        self._presence = presence
        self._ended: dict[int, int] = {}  # session -> ms until which its tickets would work; oldest first

    def is_here(self, session: int, player: bytes) -> bool:
        return session in dict(self._context.hub.sessions_of(player))

    def has_room(self, session: int, player: bytes) -> bool:
        """It is here already, or the player may have one more."""
        n_sessions = len(self._context.hub.sessions_of(player))
        return n_sessions < self._context.settings.sessions.sessions_per_player or self.is_here(session, player)

    async def make_room(self, player: bytes) -> None:
        """Returns, without a turn of the loop in between, when one more session is allowed. Raises TooManySessions.

        Sessions that are waiting for their resume give way first, whatever the policy: a device that crashed must not
        lock its player out.
        """
        settings = self._context.settings.sessions
        while len(sessions := self._context.hub.sessions_of(player)) >= settings.sessions_per_player:
            detached = [session for session, connection in sessions if not connection]
            if not detached and settings.on_excess == "refuse":
                raise TooManySessions(f"a player may have {settings.sessions_per_player} sessions")
            oldest = (detached or [session for session, _ in sessions])[0]
            await self._end(oldest)
            self._end_here(oldest, player, ErrorCode.ERROR_SESSION_REPLACED)

    async def logout(self, caller: Caller, request: Empty) -> None:
        await self._end(caller.session)
        self._context.outbox.reply(caller.connection, caller.request_id, Empty())
        self._end_here(caller.session, caller.player, ErrorCode.ERROR_LOGGED_OUT)

    def end_expired(self, session: int, player: bytes) -> None:
        """Its token has expired. Its tickets have too, so nobody else needs to know."""
        self._end_here(session, player, ErrorCode.ERROR_TOKEN_EXPIRED)

    async def _end(self, session: int) -> None:
        """It can not resume any more, here or elsewhere."""
        now = now_ms()
        until_ms = now + self._context.signer.lifetime_ms
        self._ended[session] = until_ms
        while (oldest := next(iter(self._ended))) != session and self._ended[oldest] < now:
            del self._ended[oldest]
        try:
            await self._context.backends.sessions.end(session, until_ms)
        except BaseException:
            del self._ended[session]  # it has not: the player may ask again
            raise

    def has_ended(self, session: int) -> bool:
        """It was ended here: what a resume that is under way may have looked up before."""
        return session in self._ended

    def _end_here(self, session: int, player: bytes, code: int) -> None:
        if self._context.hub.end_session(session, code):
            self._context.outbox.wake()
            self._forget(session, player)

    def _forget(self, session: int, player: bytes) -> None:
        self._attendance.settled(session)
        self._presence.change(player, session, "offline")
        if not self._context.hub.is_online(player):
            self._social.logged_out(player)

    # ---- The hub's events --------------------------------------------------------------------------------------------

    def on_disconnected(self, connection: int, session: int, player: bytes, code: int, channels: list[bytes]) -> None:
        self._context.grants.pop(connection, None)
        if session:
            self._attendance.connection_lost(session, player, channels)

    def on_expired(self, session: int, player: bytes, sessions_left: int) -> None:
        self._forget(session, player)
