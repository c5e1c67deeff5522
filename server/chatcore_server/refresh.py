"""The request `refresh`: a new token in place of the one that the session was opened or refreshed with.

The session goes on, on its connection; only how long it may live and where it may be are the new token's. Verifies by
the Authenticator, and ends nothing: that is token_keeper.py's.
"""

from chatcore.errors import ChatError, NotAllowed, RateLimited
from chatcore.operations import ClosedEvent, RefreshReply, RefreshRequest
from chatcore_ext.error_codes import error_text
from chatcore_server.attendance import Attendance
from chatcore_server.authentication import Authenticator, Identity
from chatcore_server.buckets import KeyedBuckets, monotonic_ms
from chatcore_server.clock import now_ms
from chatcore_server.context import Caller, Context
from chatcore_server.login_failures import LoginFailures
from chatcore_server.ticket_keeper import TicketKeeper
from chatcore_server.token_keeper import TokenKeeper


class Refresh:
    """Answers in one turn: no other request of the connection sees half of it."""

    def __init__(
        self,
        context: Context,
        authenticator: Authenticator,
        failures: LoginFailures,
        attendance: Attendance,
        tokens: TokenKeeper,
        tickets: TicketKeeper,
    ) -> None:
        self._context = context
        self._authenticator = authenticator
        self._failures = failures
        self._attendance = attendance
        self._tokens = tokens
        self._tickets = tickets
        limits = context.settings.limits
        self._refreshes: KeyedBuckets[bytes] = KeyedBuckets(limits.refreshes_per_second, limits.refresh_burst)

    def take_settings(self) -> None:
        """Those that the context has now."""
        limits = self._context.settings.limits
        self._refreshes.set_limit(limits.refreshes_per_second, limits.refresh_burst)

    async def refresh(self, caller: Caller, request: RefreshRequest) -> None:
        address = self._context.hub.limited_address(caller.connection)
        try:
            identity = self._verify(caller, address, request.token)
        except ChatError as error:
            self._context.counters["token_refreshes_failed_" + error_text(error.code)] += 1
            self._failures.note(address, error.code)
            raise
        self._context.counters["token_refreshes"] += 1
        self._put_in_place(caller, identity)

    def _verify(self, caller: Caller, address: int | None, token: str) -> Identity:
        self._failures.check(address)
        wait = self._refreshes.take(caller.player, monotonic_ms())
        if wait:
            raise RateLimited("too many new tokens", retry_after_ms=wait)
        identity = self._authenticator.verify(token)
        if identity.player != caller.player:
            raise NotAllowed("the token is another player's")
        return identity

    def _put_in_place(self, caller: Caller, identity: Identity) -> None:
        connection = caller.connection
        if identity.channels is None:
            self._context.grants.pop(connection, None)
        else:
            self._context.grants[connection] = self._context.signer.channel_set(identity.channels)
            self._leave_what_is_not_granted(caller)
        is_new = identity.expires_ms != self._tokens.expires_ms(connection)
        self._tokens.admit(connection, identity.expires_ms)
        now = now_ms()
        ticket, ticket_ms = self._tickets.issue(connection, caller.session, caller.player, now)
        reply = RefreshReply(ticket, ticket_ms, identity.expires_ms - now)
        self._context.outbox.reply(connection, caller.request_id, reply)
        if is_new:  # a client that has only its old token would otherwise be warned again, and try again, without end
            self._tokens.begin(connection, now)

    def _leave_what_is_not_granted(self, caller: Caller) -> None:
        """A join that is under way looks at the grants once more before it is complete."""
        hub = self._context.hub
        joined = hub.channels_of(caller.connection)
        lost = [channel for channel in joined if not self._context.is_granted(caller.connection, channel)]
        for channel in lost:
            hub.leave(caller.connection, channel)
            self._context.outbox.event(caller.connection, ClosedEvent(channel.decode("ascii"), NotAllowed.code))
        self._attendance.departed(caller.player, lost)
