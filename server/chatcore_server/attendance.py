"""Who is in a room or group channel, told to the others there: `joined` and `left`, without flapping.

A session that lost its connection still counts as present until it resumes or its grace period is over. Large channels
are told nothing. Private chats have no attendance.
"""

from collections.abc import Iterable

from chatcore.operations import JoinedEvent, LeftEvent
from chatcore_server.context import Context
from chatcore_server.permissions import is_direct

MAX_TOLD = 64  # connections in a channel up to which comings and goings are told (docs/protocol.md)


class Attendance:
    """Keeps the channels of detached sessions only; who is connected, the hub knows."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._detached: dict[int, tuple[bytes, frozenset[bytes]]] = {}  # session -> player, channels
        self._detached_in: dict[bytes, set[int]] = {}  # channel -> the same sessions; none is empty

    def is_present(self, player: bytes, channel: bytes) -> bool:
        """One of the player's sessions is in the channel, or was until its connection was lost."""
        hub = self._context.hub
        for session, connection in hub.sessions_of(player):
            if (connection and hub.is_joined(connection, channel)) or channel in self._channels(session):
                return True
        return False

    def present(self, channel: bytes, limit: int) -> list[bytes]:
        """At most `limit` players, in no order, those with a lost connection included."""
        players = dict.fromkeys(self._context.hub.players_in(channel, limit))
        for session in self._detached_in.get(channel, ()):
            if len(players) >= limit:
                break
            players[self._detached[session][0]] = None
        return list(players)[:limit]

    def companions(self, player: bytes) -> set[bytes]:
        """Who is told of the player's comings and goings: the others in the channels that the player is in."""
        hub = self._context.hub
        channels = {channel for _, other in hub.sessions_of(player) if other for channel in hub.channels_of(other)}
        found = {one for channel in channels if self._is_told(channel) for one in hub.players_in(channel, MAX_TOLD)}
        return found - {player}

    def arrived(self, player: bytes, channel: bytes, connection: int) -> None:
        """To be called after the join if `is_present` was false before it."""
        if self._is_told(channel):
            event = JoinedEvent(channel.decode("ascii"), player.decode("ascii"))
            self._context.outbox.event_to_channel(channel, event, connection)

    def departed(self, player: bytes, channels: Iterable[bytes]) -> None:
        """A session has left these channels for good."""
        for channel in channels:
            if self._is_told(channel) and not self.is_present(player, channel):
                event = LeftEvent(channel.decode("ascii"), player.decode("ascii"))
                self._context.outbox.event_to_channel(channel, event)

    def _is_told(self, channel: bytes) -> bool:
        return not is_direct(channel) and 0 < self._context.hub.subscribers(channel) <= MAX_TOLD

    def _channels(self, session: int) -> frozenset[bytes]:
        found = self._detached.get(session)
        return found[1] if found else frozenset()

    # ---- Sessions that lose their connection -------------------------------------------------------------------------

    def connection_lost(self, session: int, player: bytes, channels: list[bytes]) -> None:
        """What EVENT_DISCONNECTED told."""
        connections = dict(self._context.hub.sessions_of(player))
        if session not in connections:
            self.departed(player, channels)  # the session is over, too
        elif connections[session] == 0:
            self._keep(session, player, frozenset(channels))
        # else: it has a new connection already, see `reattached`

    def channels_of(self, session: int, player: bytes) -> frozenset[bytes]:
        """What the session is in, or was in until its connection was lost."""
        hub = self._context.hub
        connection = dict(hub.sessions_of(player)).get(session, 0)
        return frozenset(hub.channels_of(connection)) if connection else self._channels(session)

    def reattached(self, session: int, player: bytes, channels: frozenset[bytes]) -> None:
        """The session has a new connection, which is in no channel yet: what it was in counts until `settled`."""
        if channels:
            self._keep(session, player, channels)

    def settled(self, session: int) -> None:
        """The session has resumed and is in its channels again, or has expired: what it is no longer in, it has
        left."""
        found = self._take_out(session)
        if found is not None:
            self.departed(*found)

    def _keep(self, session: int, player: bytes, channels: frozenset[bytes]) -> None:
        self._take_out(session)
        self._detached[session] = (player, channels)
        for channel in channels:
            self._detached_in.setdefault(channel, set()).add(session)

    def _take_out(self, session: int) -> tuple[bytes, frozenset[bytes]] | None:
        """Whose it was, and where."""
        found = self._detached.pop(session, None)
        if found is not None:
            for channel in found[1]:
                sessions = self._detached_in[channel]
                sessions.discard(session)
                if not sessions:
                    del self._detached_in[channel]
        return found
