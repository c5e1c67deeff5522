"""From HELLO to WELCOME. Those who say hello together are looked up together; then each enters in one turn of the loop,
with its session, channels, ticket and presence. Who may is admission.py's to say.
"""

from collections import OrderedDict
from importlib.metadata import PackageNotFoundError, version

import msgspec

from chatcore.errors import (
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
    Hello,
    Limits,
    Welcome,
    encode_body,
)
from chatcore_ext.constants import MAX_UNACKED_SENDS
from chatcore_ext.error_codes import ErrorCode, error_text
from chatcore_server.admission import Admission, Admissions, Candidate
from chatcore_server.attendance import Attendance
from chatcore_server.authentication import Authenticator, claimed_player
from chatcore_server.backends import BackendUnavailable
from chatcore_server.channels import Channels
from chatcore_server.clock import now_ms
from chatcore_server.context import Context
from chatcore_server.logging import get_logger
from chatcore_server.login_failures import LoginFailures
from chatcore_server.permissions import Permissions
from chatcore_server.presence import PresenceKeeper
from chatcore_server.session_keeper import SessionKeeper
from chatcore_server.social import Social
from chatcore_server.ticket_keeper import TicketKeeper
from chatcore_server.token_keeper import TokenKeeper

_log = get_logger()
_hello_decoder = msgspec.msgpack.Decoder(Hello)
# Logins that look things up at the same time: a wave of thousands would queue at the backends until all time out.
_LOGINS_AT_ONCE = 128
# Of these so many share their look-ups, which then cost next to nothing; they also enter in one turn of the loop, 2 ms
# in which nobody else is served.
_BATCH = 32


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
        self._admissions = Admissions(context, authenticator, permissions)
        self._failures = failures
        self._channels = channels
        self._attendance = attendance
        self._social = social
        self._presence = presence
        self._sessions = sessions
        self._tokens = tokens
        self._tickets = tickets
        self._waiting: OrderedDict[int, Candidate] = OrderedDict()  # by connection
        self._is_calling = False  # a task for those who wait is on its way
        self._n_under_way = 0
        self._server = f"chatcore {chatcore_version()}"
        self.take_settings()

    def take_settings(self) -> None:
        """Those that the context has now. Who is logged in has been told the old limits, and is not told again."""
        limits = self._context.settings.limits
        self._limits = Limits(
            limits.frame_bytes,
            limits.body_bytes,
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
            self._close(connection, address, error)
        except UNDECODABLE as problem:
            self._close(connection, address, RequestError(str(problem)))
        else:
            self._waiting[connection] = Candidate(connection, address, hello)
            self._call_in()

    def on_disconnected(self, connection: int) -> None:
        """While the backends hang, those who wait are as many as are connected, however many have given up."""
        self._waiting.pop(connection, None)

    # ---- Looking up, many at once ------------------------------------------------------------------------------------

    def _call_in(self) -> None:
        """Who waits costs no task; those who said hello in the same turn share one."""
        if self._waiting and not self._is_calling and self._n_under_way < _LOGINS_AT_ONCE:
            self._is_calling = True
            self._context.tasks.spawn(self._greet_some())

    async def _greet_some(self) -> None:
        self._is_calling = False
        batch = self._next_batch()
        try:
            await self._admissions.admit(batch)
            ready = self._without_questions(batch)
            await self._channels.learn_heads({channel for _, one in ready for channel in one.channels})
        except Exception as error:
            for candidate in batch:
                self._refuse(candidate, error)
        else:
            for candidate, admission in ready:
                self._come_in(candidate, admission)
        finally:
            self._n_under_way -= len(batch)
            self._call_in()

    def _next_batch(self) -> list[Candidate]:
        n = min(len(self._waiting), _BATCH, _LOGINS_AT_ONCE - self._n_under_way)
        self._n_under_way += n
        batch = [self._waiting.popitem(last=False)[1] for _ in range(n)]
        self._call_in()
        return batch

    def _without_questions(self, batch: list[Candidate]) -> list[tuple[Candidate, Admission]]:
        """Those with nothing more to look up but heads. The others must not keep them waiting."""
        ready = []
        for candidate in batch:
            admission = candidate.admission
            if admission is None:
                self._refuse(candidate, candidate.error)
            elif unknown := self._sort_channels(candidate.hello, admission):
                self._n_under_way += 1
                self._context.tasks.spawn(self._ask(candidate, admission, unknown))
            else:
                ready.append((candidate, admission))
        return ready

    def _sort_channels(self, hello: Hello, admission: Admission) -> list[bytes]:
        """As `Admissions.sort_channels`, within the player's limit of joins. What the session is in costs none."""
        unknown = self._admissions.sort_channels(hello.channels, admission)
        channels = admission.channels + unknown
        if admission.resumed:
            is_in = self._attendance.channels_of(admission.session, admission.player)
            channels = [channel for channel in channels if channel not in is_in]
        refused = set(self._channels.too_many(admission.player, channels))
        if refused:
            admission.lost.update((channel.decode("ascii"), RateLimited.code) for channel in refused)
            admission.channels = [channel for channel in admission.channels if channel not in refused]
            unknown = [channel for channel in unknown if channel not in refused]
        return unknown

    async def _ask(self, candidate: Candidate, admission: Admission, channels: list[bytes]) -> None:
        """Whether it may be in these."""
        try:
            await self._admissions.check_rights(channels, admission)
            await self._channels.learn_heads(admission.channels)
        except Exception as error:
            self._refuse(candidate, error)
        else:
            self._come_in(candidate, admission)
        finally:
            self._n_under_way -= 1
            self._call_in()

    # ---- Who may not -------------------------------------------------------------------------------------------------

    def _refuse(self, candidate: Candidate, error: Exception | None) -> None:
        if not isinstance(error, (ChatError, BackendUnavailable)):
            _log.error("login_failed", exc_info=error)
            error = ChatError(code=ErrorCode.ERROR_INTERNAL)
        self._tell_traces(candidate.hello, error)
        if candidate.hello.ticket:
            self._context.counters["resumes_failed_" + error_text(error.code)] += 1
        self._close(candidate.connection, candidate.address, error)

    def _close(self, connection: int, address: int | None, error: ChatError | BackendUnavailable) -> None:
        self._context.counters["logins_failed_" + error_text(error.code)] += 1
        self._failures.note(address, error.code)
        self._context.outbox.close(connection, error)

    def _tell_traces(self, hello: Hello, error: ChatError | BackendUnavailable) -> None:
        """The hub does not know whose connection this would have been."""
        tracer = self._context.tracer
        if tracer.is_on:
            player = claimed_player(hello.token) or self._context.signer.claimed_player(hello.ticket)
            if tracer.is_followed(player):
                tracer.note("login_refused", player, code=error_text(error.code), message=str(error))

    # ---- Coming in, all in one turn ----------------------------------------------------------------------------------

    def _come_in(self, candidate: Candidate, admission: Admission) -> None:
        try:
            if self._sessions.has_room(admission.session, admission.player):
                self._enter(candidate, admission)
            else:
                self._context.tasks.spawn(self._come_in_later(candidate, admission))
        except Exception as error:
            self._refuse(candidate, error)

    async def _come_in_later(self, candidate: Candidate, admission: Admission) -> None:
        """When one of the player's sessions has given way."""
        try:
            await self._sessions.make_room(admission.player)
            self._enter(candidate, admission)
        except Exception as error:
            self._refuse(candidate, error)

    def _enter(self, candidate: Candidate, admission: Admission) -> None:
        hub, connection, player = self._context.hub, candidate.connection, admission.player
        if self._sessions.has_ended(admission.session):
            raise BadTicket("the session is over")
        was_here = self._sessions.is_here(admission.session, player)
        was_in = self._attendance.channels_of(admission.session, player) if was_here else frozenset()
        try:
            n_sessions = hub.attach(connection, admission.session, player)
            if not n_sessions:
                return  # it has hung up
        except ValueError as problem:
            raise BadTicket("the session is another player's") from problem
        self._context.counters["logins_resumed" if admission.resumed else "logins_new"] += 1
        if candidate.hello.ticket and not admission.resumed:
            self._context.counters["resumes_replaced"] += 1
        self._attendance.reattached(admission.session, player, was_in)
        if admission.grants is not None:
            self._context.grants[connection] = admission.grants
        self._social.logged_in(player, admission.blocks, admission.serial)
        states = self._enter_channels(connection, admission, was_in, n_sessions > 1)
        for code in admission.lost.values():
            self._context.counters["lost_" + error_text(code)] += 1
        self._welcome(connection, admission, states)
        self._attendance.settled(admission.session)
        if not was_here:
            self._presence.change(player, admission.session, "online", admission.friends)

    def _welcome(self, connection: int, admission: Admission, states: dict[str, ChannelState]) -> None:
        self._tokens.admit(connection, admission.token_expires_ms)
        now = now_ms()
        ticket, ticket_ms = self._tickets.first(connection, admission.session, admission.player, now)
        limits = self._context.settings.limits
        welcome = Welcome(
            admission.player.decode("ascii"),
            admission.session,
            admission.resumed,
            ticket,
            ticket_ms,
            self._context.backends.log.epoch,
            now,
            limits.heartbeat_ms,
            limits.heartbeat_grace_ms,
            self._limits,
            states,
            admission.lost,
            self._channels.granted(connection, admission.conversations),
            self._server,
        )
        self._context.hub.welcome(connection, encode_body(welcome))
        self._tokens.begin(connection, now)
        self._context.outbox.wake()

    def _enter_channels(
        self, connection: int, admission: Admission, was_in: frozenset[bytes], has_others: bool
    ) -> dict[str, ChannelState]:
        """`has_others`: the player has more sessions here."""
        hub, recent, player = self._context.hub, self._context.recent, admission.player
        states: dict[str, ChannelState] = {}
        for channel in admission.channels:
            name = channel.decode("ascii")
            if recent.serial > admission.serial and recent.changed_after(channel, admission.serial):
                # Rights changed while they were looked up. The client joins again, and then they are looked up again.
                admission.lost[name] = ErrorCode.ERROR_RELATIONS_UNAVAILABLE
                continue
            if not self._channels.has_room(connection, channel):
                admission.lost[name] = ChannelFull.code
                continue
            was_present = channel in was_in or (has_others and self._attendance.is_present(player, channel))
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
