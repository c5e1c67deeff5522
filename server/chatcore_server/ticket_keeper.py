"""Gives every session its tickets: with WELCOME, again before they grow old, and after joins that a ticket should vouch
for.

Keeps 16 bytes for an idle connection and no Python object.
"""

from array import array

from chatcore.operations import TicketEvent
from chatcore_ext.hub import Hub
from chatcore_server.clock import now_ms
from chatcore_server.context import Context
from chatcore_server.permissions import is_direct
from chatcore_server.social import Social

_RENEWALS = 3  # tickets in a lifetime: a resume may come two thirds of a lifetime after the connection was lost
_SLOTS = 128  # parts of a renewal period: 20,000 connections are renewed by 160 at a time
_JOIN_DELAY_MS = 1_000


class TicketKeeper:
    """`tick` is to be called a few times a second."""

    def __init__(self, context: Context, social: Social) -> None:
        self._context = context
        self._social = social
        self._slots = [
            array("Q") for _ in range(_SLOTS)
        ]  # handles of connections; those that are gone fall out in time
        self._slot_ms = max(context.signer.lifetime_ms // (_RENEWALS * _SLOTS), 1)
        self._current = 0
        self._next_slot_ms = now_ms() + self._slot_ms
        self._token_expires_ms = array("Q")  # by the index of the connection's slot in the hub
        self._due: set[int] = set()
        self._next_due_ms = 0

    def first(self, connection: int, session: int, player: bytes, token_expires_ms: int) -> tuple[bytes, int]:
        """The ticket for WELCOME and its ms; from now on the connection's ticket is kept fresh."""
        index = _index(connection)
        if index >= len(self._token_expires_ms):
            self._token_expires_ms.extend(bytes(8 * (index + 1 - len(self._token_expires_ms))))
        self._token_expires_ms[index] = token_expires_ms
        self._slots[self._current].append(connection)
        return self._issue(connection, session, player)

    def joined(self, connection: int, channel: bytes) -> None:
        """A resume right after this should need no look-up either, so a new ticket follows soon."""
        if not channel.startswith(b"room:"):
            self._due.add(connection)

    def tick(self) -> None:
        now = now_ms()
        if now >= self._next_due_ms and self._due:
            due, self._due = self._due, set()
            self._next_due_ms = now + _JOIN_DELAY_MS
            for connection in due:
                self._renew(connection)
        turns = 0
        while now >= self._next_slot_ms and turns < _SLOTS:
            turns += 1
            self._next_slot_ms += self._slot_ms
            self._current = (self._current + 1) % _SLOTS
            self._renew_slot(self._current)
        if turns == _SLOTS:
            self._next_slot_ms = now + self._slot_ms

    def _renew_slot(self, slot: int) -> None:
        kept = array("Q")
        for connection in self._slots[slot]:
            if self._renew(connection):
                kept.append(connection)
        self._slots[slot] = kept

    def _renew(self, connection: int) -> bool:
        who = self._context.hub.session(connection)
        if who is None:
            return False
        ticket, lifetime_ms = self._issue(connection, *who)
        if lifetime_ms:
            self._context.outbox.event(connection, TicketEvent(ticket, lifetime_ms))
        return lifetime_ms > 0

    def _issue(self, connection: int, session: int, player: bytes) -> tuple[bytes, int]:
        return self._context.signer.issue(
            session,
            player,
            now_ms(),
            self._token_expires_ms[_index(connection)],
            self._context.grants.get(connection),
            self._vouched_for(self._context.hub, connection),
        )

    def _vouched_for(self, hub: Hub, connection: int) -> list[bytes]:
        """The channels that a resume may be in again without asking the relations; rooms need no asking."""
        return [
            channel
            for channel in hub.channels_of(connection)
            if channel.startswith(b"group:") or (is_direct(channel) and not self._social.is_silenced(channel))
        ]


def _index(connection: int) -> int:
    """A handle is a generation and, in its low half, the index of the connection's slot in the hub."""
    return connection & 0xFFFF_FFFF
