"""From HELLO to WELCOME: who is this, which session goes on or begins, and which channels it is in again.

A resume asks the session store once, and the relations only about what the ticket cannot vouch for. When a backend that
has to be asked does not answer, the login fails with its retryable code; nothing is let in unchecked.
"""

import asyncio
import secrets
from collections import deque
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import msgspec

from chatcore.errors import (
    AuthenticationError,
    BadName,
    BadTicket,
    ChannelFull,
    ChatError,
    RateLimited,
    RequestError,
    TooManyChannels,
)
from chatcore.operations import (
    UNDECODABLE,
    ChannelState,
    ConversationState,
    Hello,
    Limits,
    Welcome,
    encode_body,
)
from chatcore_ext.constants import MAX_UNACKED_SENDS
from chatcore_ext.error_codes import ErrorCode, error_text
from chatcore_server.attendance import Attendance
from chatcore_server.authentication import Authenticator, claimed_player
from chatcore_server.backends import BackendUnavailable
from chatcore_server.channels import Channels, conversation_states
from chatcore_server.clock import now_ms
from chatcore_server.context import Context
from chatcore_server.logging import get_logger
from chatcore_server.login_failures import LoginFailures
from chatcore_server.permissions import Permissions, channel_name, is_direct_of
from chatcore_server.presence import PresenceKeeper
from chatcore_server.session_keeper import SessionKeeper
from chatcore_server.social import Social
from chatcore_server.ticket_keeper import TicketKeeper
from chatcore_server.tickets import ChannelSet, unpack_channels
from chatcore_server.token_keeper import TokenKeeper

_log = get_logger()
_hello_decoder = msgspec.msgpack.Decoder(Hello)
# A ticket is issued by the server's clock and control records bear the log's: the two may differ by as much.
_CLOCK_SLACK_MS = 10_000
# Logins that look things up at the same time: a wave of thousands would queue at the backends until all time out.
_LOGINS_AT_ONCE = 128


@dataclass(slots=True)
class _Admission:
    """A session that may come in, with all that was looked up for it."""

    session: int
    player: bytes
    resumed: bool
    token_expires_ms: int
    grants: ChannelSet | None
    blocks: list[bytes]
    conversations: dict[str, ConversationState]
    serial: int  # of the recent controls, before anything was looked up
    friends: list[bytes] | None = None
    roles: dict[bytes, str] = field(default_factory=dict)
    vouched: ChannelSet = frozenset()  # by the ticket
    issued_ms: int = 0
    channels: list[bytes] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)


class Login:
    """Answers EVENT_HELLO, by WELCOME or by CLOSE."""

    def __init__(
        self,
        context: Context,
        authenticator: Authenticator,
        failures: LoginFailures,
        permissions: Permissions,
        channels: Channels,
        attendance: Attendance,
        social: Social,
        presence: PresenceKeeper,
        sessions: SessionKeeper,
        tokens: TokenKeeper,
        tickets: TicketKeeper,
    ) -> None:
        self._context = context
        self._authenticator = authenticator
        self._failures = failures
        self._permissions = permissions
        self._channels = channels
        self._attendance = attendance
        self._social = social
        self._presence = presence
        self._sessions = sessions
        self._tokens = tokens
        self._tickets = tickets
        self._waiting: deque[tuple[int, int | None, Hello]] = deque()
        self._n_under_way = 0
        self._server = f"chatcore {chatcore_version()}"
        self.take_settings()

    def take_settings(self) -> None:
        """Those that the context has now. Who is logged in has been told the old limits, and is not told again."""
        limits = self._context.settings.limits
        self._limits = Limits(
            limits.frame_bytes,
            limits.largest_body,
            MAX_UNACKED_SENDS,
            limits.channels,
            limits.frames_per_second,
            limits.frame_burst,
        )

    def on_hello(self, connection: int, protocol_version: int, body: bytes) -> None:
        """The hub has checked the version: there is only one."""
        address = self._context.hub.limited_address(connection)
        try:
            self._failures.check(address)
            hello = _hello_decoder.decode(body)
        except RateLimited as error:
            self._refuse(connection, address, error)
        except UNDECODABLE as problem:
            self._refuse(connection, address, RequestError(str(problem)))
        else:
            self._waiting.append((connection, address, hello))
            self._let_in()

    def _let_in(self) -> None:
        """Those who wait cost no task: a wave would be thousands."""
        while self._waiting and self._n_under_way < _LOGINS_AT_ONCE:
            self._n_under_way += 1
            self._context.tasks.spawn(self._greet(*self._waiting.popleft()))

    def _refuse(
        self,
        connection: int,
        address: int | None,
        error: ChatError | BackendUnavailable,
        *,
        has_ticket: bool = False,
    ) -> None:
        code = error_text(error.code)
        self._context.counters["logins_failed_" + code] += 1
        if has_ticket:
            self._context.counters["resumes_failed_" + code] += 1
        self._failures.note(address, error.code)
        self._context.outbox.close(connection, error)

    async def _greet(self, connection: int, address: int | None, hello: Hello) -> None:
        try:
            try:
                admission = await self._admit(hello)
                await self._look_at_channels(hello, admission)
            finally:
                self._n_under_way -= 1
                self._let_in()
            if not self._sessions.is_here(admission.session, admission.player):
                await self._sessions.make_room(admission.player)
            self._enter(connection, admission, has_ticket=bool(hello.ticket))
        except (ChatError, BackendUnavailable) as error:
            self._tell_traces(hello, error)
            self._refuse(connection, address, error, has_ticket=bool(hello.ticket))
        except Exception as error:
            _log.error("login_failed", exc_info=error)
            internal = ChatError(code=ErrorCode.ERROR_INTERNAL)
            self._refuse(connection, address, internal, has_ticket=bool(hello.ticket))

    def _tell_traces(self, hello: Hello, error: ChatError | BackendUnavailable) -> None:
        """The hub does not know whose connection this would have been."""
        tracer = self._context.tracer
        if tracer.is_on:
            player = claimed_player(hello.token) or self._context.signer.claimed_player(hello.ticket)
            if tracer.is_followed(player):
                tracer.note("login_refused", player, code=error_text(error.code), message=str(error))

    # ---- Who it is ---------------------------------------------------------------------------------------------------

    async def _admit(self, hello: Hello) -> _Admission:
        """By the ticket, if it still works; otherwise by the token."""
        if hello.ticket:
            try:
                return await self._resume(hello.ticket)
            except BadTicket:
                if not hello.token:
                    raise
        if not hello.token:
            raise AuthenticationError("HELLO has neither token nor ticket")
        return await self._log_in(hello.token)

    async def _resume(self, data: bytes) -> _Admission:
        now = now_ms()
        ticket = self._context.signer.verify(data, now)
        serial = self._context.recent.serial
        limit = self._context.settings.limits.conversations
        state = await self._context.backends.sessions.resume(ticket.session, ticket.player, limit)
        if state.ended:
            raise BadTicket("the session is over")
        return _Admission(
            ticket.session,
            ticket.player,
            True,
            ticket.token_expires_ms,
            None if ticket.grants is None else unpack_channels(ticket.grants),
            state.blocks,
            conversation_states(state.directs),
            serial,
            vouched=unpack_channels(ticket.checked),
            issued_ms=ticket.issued_ms,
        )

    async def _log_in(self, token: str) -> _Admission:
        identity = self._authenticator.verify(token)
        serial = self._context.recent.serial
        backends = self._context.backends
        profile = await backends.relations.profile(identity.player)
        found = await backends.sessions.conversations(
            identity.player, [group for group, _ in profile.groups], self._context.settings.limits.conversations
        )
        return _Admission(
            secrets.randbelow((1 << 64) - 1) + 1,
            identity.player,
            False,
            identity.expires_ms,
            None if identity.channels is None else self._context.signer.channel_set(identity.channels),
            profile.blocks,
            conversation_states(found),
            serial,
            profile.friends,
            dict(profile.groups),
        )

    # ---- Which channels it is in again -------------------------------------------------------------------------------

    async def _look_at_channels(self, hello: Hello, admission: _Admission) -> None:
        """Fills in `channels` and `lost`."""
        limit = self._context.settings.limits.channels
        names = list(hello.channels)[:limit]
        admission.lost.update(dict.fromkeys(list(hello.channels)[limit:], TooManyChannels.code))
        asked = []
        for name in names:
            try:
                channel = channel_name(name)
            except BadName as error:
                admission.lost[name] = error.code
                continue
            if not self._context.signer.allows(admission.grants, channel):
                admission.lost[name] = ErrorCode.ERROR_NOT_ALLOWED
            elif self._is_vouched_for(admission, channel):
                admission.channels.append(channel)
            else:
                asked.append(channel)
        if asked:  # most logins need no task of their own for this
            await asyncio.gather(*(self._check(admission, channel) for channel in asked))
        await self._channels.learn_heads(admission.channels)

    async def _check(self, admission: _Admission, channel: bytes) -> None:
        try:
            await self._permissions.check_right(admission.player, channel)
            admission.channels.append(channel)
        except (ChatError, BackendUnavailable) as error:
            admission.lost[channel.decode("ascii")] = error.code

    def _is_vouched_for(self, admission: _Admission, channel: bytes) -> bool:
        """Rooms are open. A fresh login has read the player's groups; a ticket vouches for what it names, if nothing
        has changed since.
        """
        if channel.startswith(b"room:") or channel in admission.roles:
            return True
        if not admission.vouched or self._context.signer.digest(channel) not in admission.vouched:
            return False
        if is_direct_of(channel, admission.player) and set(channel.split(b":")[1:]) & set(admission.blocks):
            return False
        return not self._context.recent.changed_since(channel, admission.issued_ms - _CLOCK_SLACK_MS)

    # ---- Coming in, all in one turn ----------------------------------------------------------------------------------

    def _enter(self, connection: int, admission: _Admission, *, has_ticket: bool) -> None:
        hub, player = self._context.hub, admission.player
        if self._sessions.has_ended(admission.session):
            raise BadTicket("the session is over")
        was_here = self._sessions.is_here(admission.session, player)
        was_in = self._attendance.channels_of(admission.session, player)
        try:
            if not hub.attach(connection, admission.session, player):
                return  # it has hung up
        except ValueError as problem:
            raise BadTicket("the session is another player's") from problem
        self._context.counters["logins_resumed" if admission.resumed else "logins_new"] += 1
        self._context.counters["resumes_replaced"] += has_ticket and not admission.resumed
        self._attendance.reattached(admission.session, player, was_in)
        if admission.grants is not None:
            self._context.grants[connection] = admission.grants
        self._social.logged_in(player, admission.blocks, admission.serial)
        may_be_present = bool(was_in) or len(hub.sessions_of(player)) > 1
        states = self._enter_channels(connection, admission, may_be_present)
        self._tokens.admit(connection, admission.token_expires_ms)
        ticket, ticket_ms = self._tickets.first(connection, admission.session, player)
        settings = self._context.settings
        welcome = Welcome(
            player.decode("ascii"),
            admission.session,
            admission.resumed,
            ticket,
            ticket_ms,
            self._context.backends.log.epoch,
            now_ms(),
            settings.limits.heartbeat_ms,
            settings.limits.heartbeat_grace_ms,
            self._limits,
            states,
            admission.lost,
            self._channels.granted(connection, admission.conversations),
            self._server,
        )
        hub.welcome(connection, encode_body(welcome))
        self._tokens.begin(connection)
        self._context.outbox.wake()
        self._attendance.settled(admission.session)
        if not was_here:
            self._presence.change(player, admission.session, "online", admission.friends)

    def _enter_channels(self, connection: int, admission: _Admission, may_be_present: bool) -> dict[str, ChannelState]:
        hub, player = self._context.hub, admission.player
        states: dict[str, ChannelState] = {}
        for channel in admission.channels:
            name = channel.decode("ascii")
            if self._context.recent.changed_after(channel, admission.serial):
                # Rights changed while they were looked up. The client joins again, and then they are looked up again.
                admission.lost[name] = ErrorCode.ERROR_RELATIONS_UNAVAILABLE
                continue
            if not self._channels.has_room(connection, channel):
                admission.lost[name] = ChannelFull.code
                continue
            was_present = may_be_present and self._attendance.is_present(player, channel)
            generation = hub.begin_join(connection, channel)
            number = hub.complete_join(connection, channel, generation, True) if generation else 0
            if number:
                self._channels.entered(player, channel, connection, was_present)
                states[name] = ChannelState(number, *self._channels.known_head(channel))
            else:
                admission.lost[name] = TooManyChannels.code
        return states


def chatcore_version() -> str:
    try:
        return version("chatcore")
    except PackageNotFoundError:  # run from source roots that are not installed
        return "0"
