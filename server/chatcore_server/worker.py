"""One worker: a hub, its backends and the parts that decide, tied to the event loop.

Every turn appends output first and flushes once, at its end. Opens no sockets and no backends: that is serve.py's.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from chatcore.errors import ChatError
from chatcore.operations import Operation
from chatcore_ext.durations import DurationHistogram, Snapshot
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.hub import (
    EVENT_DISCONNECTED,
    EVENT_EXPIRED,
    EVENT_HELLO,
    EVENT_REQUEST,
    EVENT_SEND,
    Event,
    Hub,
)
from chatcore_ext.log_view import LogView
from chatcore_server.accepting import AcceptWatch
from chatcore_server.applied import AppliedOffsets, ControlLog
from chatcore_server.attendance import Attendance
from chatcore_server.authentication import Authenticator
from chatcore_server.backends import LogRecord, Outcome
from chatcore_server.channels import DIRECTS_BEYOND, Channels
from chatcore_server.clock import now_ms
from chatcore_server.context import Backends, Context
from chatcore_server.controls import Blocked, MembersChanged, RecentControls, Unblocked, decode_control
from chatcore_server.groups import Groups
from chatcore_server.logging import get_logger
from chatcore_server.login import Login
from chatcore_server.login_failures import LoginFailures
from chatcore_server.outbox import Outbox
from chatcore_server.permissions import Permissions
from chatcore_server.presence import PresenceKeeper
from chatcore_server.refresh import Refresh
from chatcore_server.requests import Handler, Requests
from chatcore_server.sends import Sends
from chatcore_server.session_keeper import SessionKeeper
from chatcore_server.settings import ServerSettings
from chatcore_server.social import Social
from chatcore_server.ticket_keeper import TicketKeeper
from chatcore_server.tickets import TicketSigner
from chatcore_server.token_keeper import TokenKeeper
from chatcore_server.tracing import Tracer

_TICK_S = 0.1
_TEND_S = 1.0  # how often a change of the keys' files is looked for
_log = get_logger()


class Worker:
    """Create it in a running loop. Then `start`, let the hub accept connections, `drain`, `close`."""

    def __init__(
        self, settings: ServerSettings, backends: Backends, authenticator: Authenticator, signer: TicketSigner
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._backends = backends
        self._flush_is_due = False
        self._is_accepting = False
        self._accepting = AcceptWatch()
        self._tick_timer: asyncio.TimerHandle | None = None
        self._tick_due_s = 0.0  # time.monotonic(): the loop's own time stands still during a turn
        self._loop_lag = DurationHistogram()
        self._tend_timer: asyncio.TimerHandle | None = None
        self._authenticator = authenticator
        self._since_ms = now_ms() - LogView(window_ms=settings.log.replay_window_ms).replay_ms
        self.hub = _make_hub(settings, self._since_ms, self._on_direct, self._on_control)
        self.context = Context(
            settings,
            self.hub,
            Outbox(self.hub, self.wake),
            backends,
            signer,
            RecentControls(settings.log.replay_window_ms),
            AppliedOffsets(),
            Tracer(self.hub),
        )
        self._make_parts()

    def _make_parts(self) -> None:
        context = self.context
        controls = ControlLog(self._backends.log, context.applied)
        permissions = Permissions(context)
        attendance = Attendance(context)
        self._presence = presence = PresenceKeeper(context, attendance)
        self._social = Social(context, controls)
        self._sessions = SessionKeeper(context, attendance, self._social, presence)
        self._tokens = TokenKeeper(context, self._sessions)
        self._tickets = TicketKeeper(context, self._social, self._tokens)
        self._sends = Sends(context)
        self._groups = Groups(context, permissions, controls, attendance)
        self._channels = Channels(context, permissions, attendance, self._social, self._tickets)
        self._failures = LoginFailures(context.settings.limits)
        self._refresh = Refresh(context, self._authenticator, self._failures, attendance, self._tokens, self._tickets)
        self._login = Login(
            context,
            self._authenticator,
            self._failures,
            permissions,
            self._channels,
            attendance,
            self._social,
            presence,
            self._sessions,
            self._tokens,
            self._tickets,
        )
        self._requests = Requests(context, self._handlers())
        self._on_event: dict[object, Callable[..., None]] = {
            EVENT_HELLO: self._login.on_hello,
            EVENT_REQUEST: self._requests.on_request,
            EVENT_SEND: self._sends.on_send,
            EVENT_DISCONNECTED: self._on_disconnected,
            EVENT_EXPIRED: self._sessions.on_expired,
        }

    def _handlers(self) -> dict[Operation, Handler]:
        return {
            Operation.JOIN: self._channels.join,
            Operation.LEAVE: self._channels.leave,
            Operation.SYNC: self._channels.sync,
            Operation.MEMBERS: self._channels.members,
            Operation.CONVERSATIONS: self._channels.conversations,
            Operation.MARK_READ: self._channels.mark_read,
            Operation.CREATE_GROUP: self._groups.create,
            Operation.ADD_MEMBER: self._groups.add,
            Operation.REMOVE_MEMBER: self._groups.remove,
            Operation.LEAVE_GROUP: self._groups.leave,
            Operation.SET_ROLE: self._groups.set_role,
            Operation.BLOCK: self._social.block,
            Operation.UNBLOCK: self._social.unblock,
            Operation.BLOCKS: self._social.blocks,
            Operation.ADD_FRIEND: self._social.add_friend,
            Operation.REMOVE_FRIEND: self._social.remove_friend,
            Operation.FRIENDS: self._social.friends,
            Operation.SET_PRESENCE: self._presence.set_presence,
            Operation.LOGOUT: self._sessions.logout,
            Operation.REFRESH: self._refresh.refresh,
        }

    # ---- Turns -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Reads through the replayed part of the log; when it returns, connections may come."""
        self._backends.log.on_outcomes(self.on_outcomes)
        await self._backends.log.tail(self._since_ms, self._on_records)
        self._loop.add_reader(self.hub.fileno(), self._on_readable)
        self._tick_due_s = time.monotonic()
        self._tick()
        self._tend()
        self._is_accepting = True

    def take_settings(self, settings: ServerSettings) -> None:
        """Runs on these from now on; they differ only in what may change. The keys are read again, too. Raises
        SettingsError if they cannot be, and then nothing has changed.
        """
        self._authenticator.reload(settings.authentication)
        self.hub.set_limits(**_hub_limits(settings))
        self.context.settings = settings
        self._failures.take_settings(settings.limits)
        self._refresh.take_settings()
        self._login.take_settings()
        self._channels.take_settings()
        self._presence.take_settings()
        self._groups.take_settings()

    def wake(self) -> None:
        """Flush at the end of this turn."""
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._end_turn)

    def _on_readable(self) -> None:
        self._dispatch(self.hub.run_burst())

    def _tick(self) -> None:
        now_s = time.monotonic()
        self._loop_lag.observe(now_s - self._tick_due_s)
        self._tick_due_s = now_s + _TICK_S
        self._tick_timer = self._loop.call_later(_TICK_S, self._tick)
        self._accepting.look(self.hub.accept_pauses, self._loop.time())
        self._dispatch(self.hub.tick())
        self._tokens.tick()
        self._tickets.tick()
        self._sends.tick()

    def _tend(self) -> None:
        self._tend_timer = self._loop.call_later(_TEND_S, self._tend)
        self._authenticator.refresh()

    def _end_turn(self) -> None:
        self._flush_is_due = False
        self.hub.flush()
        self._dispatch(self.hub.take_events())

    def _dispatch(self, events: list[Event]) -> None:
        if self.context.tracer.is_on:
            self.context.tracer.drain()
        for event in events:
            try:
                self._on_event[event[0]](*event[1:])
            except Exception as error:
                _log.error("event_failed", kind=event[0], exc_info=error)
                if event[0] is not EVENT_EXPIRED and isinstance(event[1], int):  # that is about a session
                    self.context.outbox.close(event[1], ChatError(code=ErrorCode.ERROR_INTERNAL))
        if self.hub.dirty:
            self.wake()

    def _on_disconnected(self, connection: int, session: int, player: bytes, code: int, channels: list[bytes]) -> None:
        self._login.on_disconnected(connection)
        self._sessions.on_disconnected(connection, session, player, code, channels)

    def on_outcomes(self, outcomes: list[Outcome]) -> None:
        """What became of appended records, from the log."""
        self._sends.on_outcomes(outcomes)

    # ---- The log -----------------------------------------------------------------------------------------------------

    def _on_records(self, partition: int, records: Sequence[LogRecord]) -> None:
        try:
            self.hub.deliver(partition, records)
        finally:
            self.context.applied.advance(partition, records[-1].offset)
            if self.hub.dirty:
                self.wake()

    def _on_direct(self, channel: bytes, connections: list[int]) -> None:
        self._channels.open_direct(channel, connections)

    def _on_control(self, channel: bytes, offset: int, time_ms: int, body: bytes) -> None:
        control = decode_control(body)
        if control is None:
            return
        self.context.recent.note(channel, time_ms, control)
        match control:
            case MembersChanged():
                self._groups.apply(channel, control)
            case Blocked():
                self._social.apply_blocked(channel, control)
            case Unblocked():
                self._social.apply_unblocked(channel, control)

    def counters(self) -> dict[str, int]:
        """Everything that is counted, by name: the hub's, and what Python decides (`logins_*`, `key_*`)."""
        counted = self.hub.counters()
        counted["connections_refused_by_server"] = counted["connections_refused"] - (
            counted["connections_refused_by_address"] + counted["connections_refused_by_pending"]
        )
        counted["sends_under_way"] = self._sends.n_under_way
        return {**counted, **self.context.counters, **self._authenticator.counters()}

    def histograms(self) -> dict[str, Snapshot]:
        """The hub's, and how late the loop is."""
        return self.hub.histograms() | {"loop_lag": self._loop_lag.snapshot()}

    # ---- The end -----------------------------------------------------------------------------------------------------

    @property
    def is_accepting(self) -> bool:
        return self._is_accepting

    @property
    def is_log_answering(self) -> bool:
        return self._sends.is_log_answering

    async def drain(self, deadline_s: float) -> bool:
        """Tell the clients to go, let them finish, answer all that is under way. True if nothing was left at the
        deadline.

        The caller has stopped accepting on sockets that are not the hub's.
        """
        drain = self.context.settings.drain
        end = self._loop.time() + deadline_s
        self._is_accepting = False
        self.hub.stop_accepting()
        goaway_s = min(drain.goaway_ms / 1000, deadline_s / 2)
        self.hub.goaway(int(goaway_s * 1000), drain.reconnect_window_ms)
        self.wake()
        await self._until(lambda: self.hub.counters()["connections"] == 0, self._loop.time() + goaway_s)
        self.context.is_draining = True
        answered = await self._until(lambda: not self._sends.n_under_way and not self._requests.n_under_way, end)
        self.hub.close_connections(ErrorCode.ERROR_SHUTTING_DOWN)
        self.wake()
        return await self._until(lambda: self.hub.pending_output == 0, end) and answered

    async def _until(self, is_done: Callable[[], bool], end: float) -> bool:
        while not is_done():
            if self._loop.time() >= end:
                return False
            await asyncio.sleep(0.01)
        return True

    async def close(self) -> None:
        """Drops what is still there. The backends stay open: they are the caller's."""
        for timer in (self._tick_timer, self._tend_timer):
            if timer is not None:
                timer.cancel()
        await self.context.tasks.cancel()
        self._loop.remove_reader(self.hub.fileno())
        self.hub.close()


def _make_hub(
    settings: ServerSettings,
    since_ms: int,
    on_direct: Callable[[bytes, list[int]], None],
    on_control: Callable[[bytes, int, int, bytes], None],
) -> Hub:
    view = LogView(
        window_ms=settings.log.replay_window_ms,
        max_heads=settings.log.heads,
        chain_idle_ms=settings.log.chain_idle_ms,
        since_ms=since_ms,
    )
    return Hub(
        view,
        on_direct=on_direct,
        on_control=on_control,
        flush_window_us=settings.limits.flush_window_ms * 1000,
        flush_window_rate=settings.limits.flush_window_rate,
        **_hub_limits(settings),
    )


def _hub_limits(settings: ServerSettings) -> dict[str, Any]:
    limits = settings.limits
    return {
        "max_frame_size": limits.frame_bytes,
        "max_pending_size": limits.pending_bytes,
        "pause_pending_size": limits.pause_bytes,
        "max_total_pending_size": limits.total_pending_bytes,
        "max_connections": limits.connections,
        "max_channels_per_connection": limits.channels + DIRECTS_BEYOND,
        "max_body_size": limits.body_bytes,
        "hello_timeout_ms": limits.hello_timeout_ms,
        "heartbeat_timeout_ms": limits.heartbeat_ms + limits.heartbeat_grace_ms,
        "frames_per_second": limits.frames_per_second,
        "frame_burst": limits.frame_burst,
        "player_frames_per_second": max(limits.player_frames_per_second, limits.frames_per_second),
        "player_frame_burst": max(limits.player_frame_burst, limits.frame_burst),
        "player_bytes_per_second": limits.player_bytes_per_second or None,
        "player_byte_burst": limits.player_byte_burst or None,
        "max_half_open": limits.half_open,
        "max_closing": limits.closing,
        "max_connections_per_address": limits.connections_per_address,
        "accepts_per_second": limits.accepts_per_second,
        "accept_burst": limits.accept_burst,
        "unlimited_addresses": limits.unlimited_addresses,
        "resume_grace_ms": settings.sessions.resume_grace_ms,
    }
