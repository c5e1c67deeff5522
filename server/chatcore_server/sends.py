"""Messages into the log, and their acknowledgements out of it. What may be sent where, the hub has decided before."""

import asyncio

from chatcore_ext.constants import SendFlag
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.record import decode_record
from chatcore_server.backends import BackendUnavailable, LogFull, Outcome
from chatcore_server.clock import now_ms
from chatcore_server.context import Context

_RETRY_AFTER_MS = 500  # many commits of a log that works again; less than a player waits for before sending anew
_PATIENCE_S = 5.0  # a log that is silent for longer does not answer: several times the slowest fsync of a busy disk
_FIND_WAITS_S = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


# What comes back with the outcome of a send: serial, connection, seq, flags, channel, session (0 unless it is sent
# again), loop time of its append. No NamedTuple: one is made for every message.
_Send = tuple[int, int, int, int, bytes, int, float]


class Sends:
    """Loop thread only. Every append of a message gets exactly one answer, if its connection is still there."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._serial = 0
        self._appended: dict[int, _Send] = {}  # without an answer, by serial: oldest first
        self._n_finding = 0  # durable, and not answered until their first copy is found
        self._now = asyncio.get_running_loop().time
        self._heard_at = 0.0  # loop time of the last sign of life of the log, while something is under way
        self._failed_at = -_PATIENCE_S
        self._is_log_owing = False  # outcomes of sends that were refused meanwhile

    @property
    def n_under_way(self) -> int:
        """Taken and not answered."""
        return len(self._appended) + self._n_finding

    @property
    def is_log_answering(self) -> bool:
        """False while it keeps an append waiting, and for a while after it failed one."""
        now = self._now()
        return not self._is_log_silent(now) and now - self._failed_at > _PATIENCE_S

    def on_send(self, connection: int, seq: int, flags: int, channel: bytes, record: bytes) -> None:
        now = self._now()
        if self._context.is_draining:
            self._context.hub.refuse(connection, seq, ErrorCode.ERROR_SHUTTING_DOWN, _RETRY_AFTER_MS)
            return
        if self._is_log_silent(now):
            self._context.hub.refuse(connection, seq, ErrorCode.ERROR_LOG_UNAVAILABLE, _RETRY_AFTER_MS)
            return
        session = decode_record(record)[1] if flags & SendFlag.SEND_RESEND else 0
        self._serial += 1
        send = (self._serial, connection, seq, flags, channel, session, now)
        try:
            self._context.backends.log.append(channel, record, send)
        except LogFull:
            self._context.hub.refuse(connection, seq, ErrorCode.ERROR_OVERLOADED, _RETRY_AFTER_MS)
            return
        if not self._appended:
            self._heard_at = now
        self._appended[self._serial] = send
        if flags & SendFlag.SEND_ACCEPTED:
            self._context.hub.ack([(connection, seq, 0, now_ms())])

    def on_outcomes(self, outcomes: list[Outcome]) -> None:
        """A batch of the log's. Outcomes of control records complete their futures; see applied.py."""
        self._heard_at = self._now()
        self._is_log_owing = False
        acks: list[tuple[int, int, int, int]] = []
        for outcome in outcomes:
            token = outcome.token
            if isinstance(token, asyncio.Future):
                if not token.done():
                    token.set_result(outcome)
                continue
            assert isinstance(token, tuple)
            if self._appended.pop(token[0], None) is not None:
                self._settle(token, outcome, acks)
        if acks:
            self._context.hub.ack(acks)
        self._context.outbox.wake()

    def tick(self) -> None:
        """To be called a few times a second: nobody waits longer than _PATIENCE_S for a log that does not answer."""
        now = self._now()
        if not self._is_log_silent(now):
            return
        late = [send for send in self._appended.values() if send[-1] <= now - _PATIENCE_S]
        for serial, connection, seq, flags, _, _, _ in late:
            del self._appended[serial]
            if not flags & SendFlag.SEND_ACCEPTED:
                self._context.hub.refuse(
                    connection, seq, ErrorCode.ERROR_LOG_UNAVAILABLE, _RETRY_AFTER_MS, uncertain=True
                )
        if late:
            self._is_log_owing = True
            self._context.outbox.wake()

    def _is_log_silent(self, now: float) -> bool:
        """It owes outcomes and has given no sign of life for so long that another record would only wait with them."""
        return bool(self._appended or self._is_log_owing) and now - self._heard_at > _PATIENCE_S

    def _settle(self, send: _Send, outcome: Outcome, acks: list[tuple[int, int, int, int]]) -> None:
        _, connection, seq, flags, channel, session, _ = send
        if outcome.code:
            self._failed_at = self._heard_at
        if session and not outcome.code and not flags & SendFlag.SEND_ACCEPTED:
            self._n_finding += 1
            self._context.tasks.spawn(self._acknowledge_first(connection, seq, channel, session, outcome))
            return
        if flags & SendFlag.SEND_ACCEPTED:
            return  # answered when it was appended
        if outcome.code:
            self._context.hub.refuse(connection, seq, outcome.code, _RETRY_AFTER_MS, outcome.uncertain)
        else:
            acks.append((connection, seq, outcome.offset, outcome.time))

    async def _acknowledge_first(
        self, connection: int, seq: int, channel: bytes, session: int, outcome: Outcome
    ) -> None:
        """The message is durable in any case; only which copy of it counts has to be found out, 0 = nobody knows any
        more.
        """
        first = 0
        try:
            for pause in _FIND_WAITS_S:
                await asyncio.sleep(pause)
                first = await self._context.backends.history.find(channel, session, seq)
                if first:
                    break
        except BackendUnavailable:
            pass
        finally:
            self._n_finding -= 1
        self._context.hub.ack([(connection, seq, first, outcome.time)])
        self._context.outbox.wake()
