"""Ends sessions whose token expires, after a warning. Verifies nothing: refresh.py puts a new token in place.

Keeps 8 bytes for an idle connection and no Python object: when its token expires. Only connections for which something
happens soon are also in a calendar, whose days are a quarter of a second.
"""

from array import array
from heapq import heappop, heappush

from chatcore.operations import TokenExpiringEvent
from chatcore_server.clock import now_ms
from chatcore_server.context import Context
from chatcore_server.session_keeper import SessionKeeper

_DAY_MS = 250  # how much too late a session may end, beside the time between two ticks
_AT_ONCE = 500  # connections looked at in one tick: when a wave of tokens expires together, the loop must not stall


class TokenKeeper:
    """`tick` is to be called a few times a second, and `look_ahead` for each connection once in `horizon_ms`."""

    def __init__(self, context: Context, sessions: SessionKeeper) -> None:
        self._context = context
        self._sessions = sessions
        self._warning_ms = context.settings.sessions.expiry_warning_ms
        self.horizon_ms = context.signer.lifetime_ms // 2
        self._expires_ms = array("Q")  # by the index of the connection's slot in the hub
        self._days: dict[int, array[int]] = {}  # connections; those that are gone or have a new token drop out
        self._next_days: list[int] = []  # heap
        self._day = 0  # that is being worked through: what is left of it
        self._due = array("Q")

    def admit(self, connection: int, expires_ms: int) -> None:
        """From now on this is when its token expires. `begin` has to follow."""
        index = _index(connection)
        if index >= len(self._expires_ms):
            self._expires_ms.extend(bytes(8 * (index + 1 - len(self._expires_ms))))
        self._expires_ms[index] = expires_ms

    def expires_ms(self, connection: int) -> int:
        return self._expires_ms[_index(connection)]

    def begin(self, connection: int, now: int) -> None:
        """After its WELCOME or the answer to its `refresh`: a token that has not long to live is told of at once."""
        if self.expires_ms(connection) - self._warning_ms <= now:
            self._warn(connection, now)
        self.look_ahead(connection, now, now)

    def look_ahead(self, connection: int, now: int, last_ms: int) -> None:
        """Put what happens within the horizon into the calendar. A second time does no harm. `last_ms`: when this was
        called last for the connection, or earlier."""
        expires_ms = self.expires_ms(connection)
        warning_ms = expires_ms - self._warning_ms
        if now < warning_ms <= now + self.horizon_ms:
            self._note(connection, warning_ms)
        elif last_ms + self.horizon_ms < warning_ms <= now:  # the clock was set forward, or the machine slept
            self._warn(connection, now)
        if expires_ms <= now + self.horizon_ms:
            self._note(connection, max(expires_ms, now))

    def _note(self, connection: int, time_ms: int) -> None:
        day = _day(time_ms)
        if day not in self._days:
            self._days[day] = array("Q")
            heappush(self._next_days, day)
        self._days[day].append(connection)

    def tick(self) -> None:
        now = now_ms()
        left = _AT_ONCE
        while left and self._has_due(now):
            left -= 1
            self._look_at(self._due.pop(), now)

    def _has_due(self, now: int) -> bool:
        if not self._due and self._next_days and self._next_days[0] * _DAY_MS <= now:
            self._day = heappop(self._next_days)
            self._due = array("Q", set(self._days.pop(self._day)))
        return bool(self._due)

    def _look_at(self, connection: int, now: int) -> None:
        who = self._context.hub.session(connection)
        if who is None:
            return
        expires_ms = self.expires_ms(connection)
        if expires_ms <= now:
            self._sessions.end_expired(*who)
        elif _day(expires_ms - self._warning_ms) == self._day:  # otherwise it has got a new token meanwhile
            self._warn(connection, now)

    def _warn(self, connection: int, now: int) -> None:
        in_ms = self.expires_ms(connection) - now
        if self._warning_ms and in_ms > 0:
            self._context.outbox.event(connection, TokenExpiringEvent(in_ms))


def _index(connection: int) -> int:
    """A handle is a generation and, in its low half, the index of the connection's slot in the hub."""
    return connection & 0xFFFF_FFFF


def _day(time_ms: int) -> int:
    """The first one at whose beginning the time has come."""
    return -(-time_ms // _DAY_MS)
