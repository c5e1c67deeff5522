"""Gives every session its tickets: with WELCOME, again before they grow old, and after joins that a ticket should vouch
for.

Keeps 8 bytes for an idle connection and no Python object.
"""

from array import array

from chatcore.operations import TicketEvent
from chatcore_ext.hub import Hub
from chatcore_server.clock import now_ms
from chatcore_server.context import Context
from chatcore_server.permissions import is_direct
from chatcore_server.social import Social
from chatcore_server.token_keeper import TokenKeeper

_RENEWALS = 3  # tickets in a lifetime: a resume may come two thirds of a lifetime after the connection was lost
_SLOTS = 128  # parts of a renewal period: 20,000 connections are renewed by 160 at a time
_JOIN_DELAY_MS = 1_000


class TicketKeeper:
    """`tick` is to be called a few times a second. Each connection is looked at `_RENEWALS` times in a ticket's
    lifetime; the keeper of the tokens is told then."""

    def __init__(self, context: Context, social: Social, tokens: TokenKeeper) -> None:
        self._context = context
        self._social = social
        self._tokens = tokens
        self._slots = [
            array("Q") for _ in range(_SLOTS)
        ]  # handles of connections; those that are gone fall out in time
        self._slot_ms = max(context.signer.lifetime_ms // (_RENEWALS * _SLOTS), 1)
        self._current = 0
        self._next_slot_ms = now_ms() + self._slot_ms
        self._due: set[int] = set()
        self._next_due_ms = 0

    def first(self, connection: int, session: int, player: bytes, now: int) -> tuple[bytes, int]:
        """The ticket for WELCOME and its ms; from now on the connection's ticket is kept fresh."""
        self._slots[self._current].append(connection)
        return self.issue(connection, session, player, now)

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
                self._renew(connection, now)
        turns = 0
        while now >= self._next_slot_ms and turns < _SLOTS:
            turns += 1
            self._current = (self._current + 1) % _SLOTS
            self._renew_slot(self._current, now, self._next_slot_ms - _SLOTS * self._slot_ms)
            self._next_slot_ms += self._slot_ms
        if turns == _SLOTS:
            self._next_slot_ms = now + self._slot_ms

    def _renew_slot(self, slot: int, now: int, last_ms: int) -> None:
        kept = array("Q")
        for connection in self._slots[slot]:
            if self._renew(connection, now):
                kept.append(connection)
                self._tokens.look_ahead(connection, now, last_ms)
        self._slots[slot] = kept

    def _renew(self, connection: int, now: int) -> bool:
        who = self._context.hub.session(connection)
        if who is None:
            return False
        ticket, lifetime_ms = self.issue(connection, *who, now)
        if lifetime_ms:
            self._context.outbox.event(connection, TicketEvent(ticket, lifetime_ms))
        return True

    def issue(self, connection: int, session: int, player: bytes, now: int) -> tuple[bytes, int]:
        """A ticket by what is known of the connection now, and its ms."""
        return self._context.signer.issue(
            session,
            player,
            now,
            self._tokens.expires_ms(connection),
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
