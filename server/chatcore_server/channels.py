"""Being in channels: join, leave, history, members, conversations, read marks, and private chats that open by
themselves.
"""

import asyncio
from collections.abc import Iterable, Sequence

from chatcore.errors import ChannelFull, ConnectionLost, NotAllowed, RateLimited, RequestError, TooManyChannels
from chatcore.names import direct_players
from chatcore.operations import (
    ChannelRequest,
    ClosedEvent,
    ConversationsReply,
    ConversationState,
    Empty,
    Entry,
    JoinReply,
    MarkReadRequest,
    MembersReply,
    MemberState,
    OpenedEvent,
    ReadEvent,
    SyncReply,
    SyncRequest,
)
from chatcore_ext.constants import HASH_UNKNOWN, NO_ID, UNKNOWN_ID, DeliverFlag
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.attendance import Attendance
from chatcore_server.backends import MAX_ID, BackendUnavailable, Conversation, HistoryEntry
from chatcore_server.buckets import KeyedBuckets, monotonic_ms
from chatcore_server.context import Caller, Context
from chatcore_server.permissions import Permissions, channel_name, is_direct
from chatcore_server.social import Social
from chatcore_server.ticket_keeper import TicketKeeper

MAX_SYNC = 500  # entries in one answer (docs/protocol.md)
DIRECTS_BEYOND = 1  # channels over limits.channels: a place that rooms and groups cannot take from private chats
_LAG_WAITS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4)


class Channels:
    """The requests about channels of every kind; who belongs to a group is groups.py's."""

    def __init__(
        self, context: Context, permissions: Permissions, attendance: Attendance, social: Social, tickets: TicketKeeper
    ) -> None:
        self._context = context
        self._permissions = permissions
        self._attendance = attendance
        self._social = social
        self._tickets = tickets
        limits = context.settings.limits
        self._joins: KeyedBuckets[bytes] = KeyedBuckets(limits.joins_per_second, limits.join_burst)

    # ---- Joining and leaving -----------------------------------------------------------------------------------------

    async def join(self, caller: Caller, request: ChannelRequest) -> JoinReply:
        """Answers in the same turn in which live delivery begins: history up to `head`, live after it."""
        channel = channel_name(request.channel)
        wait = self._joins.take(caller.player, monotonic_ms())
        if wait:
            raise RateLimited("too many joins", retry_after_ms=wait)
        for _ in range(2):
            number, role = await self._try_join(caller, channel)
            if number:
                head, hash = self.known_head(channel)
                return JoinReply(request.channel, number, head, hash, role)
            if self._context.hub.session(caller.connection) is None:
                raise ConnectionLost
        raise NotAllowed("the right to be there changed while joining")

    async def _try_join(self, caller: Caller, channel: bytes) -> tuple[int, str]:
        """The channel's number, 0 if rights changed after they had been looked up; and the role."""
        hub, connection = self._context.hub, caller.connection
        if not self.has_room(connection, channel):
            raise ChannelFull()
        generation = self._begin_join(connection, channel)
        if not generation:
            if hub.session(connection) is None:
                raise ConnectionLost
            raise TooManyChannels()
        serial = self._context.recent.serial
        try:
            role = await self._permissions.check_join(caller, channel)
            await self.learn_heads([channel])
            self._permissions.check_granted(connection, channel)  # a new token may have taken the place of the old
        except BaseException:
            hub.cancel_join(connection, channel, generation)
            raise
        # A kick makes the generation stale by itself; a block leaves those who are in the private chat in it.
        if is_direct(channel) and self._context.recent.changed_after(channel, serial):
            hub.cancel_join(connection, channel, generation)
            return 0, ""
        if not self.has_room(connection, channel):  # others came in meanwhile
            hub.cancel_join(connection, channel, generation)
            raise ChannelFull()
        was_present = self._attendance.is_present(caller.player, channel)
        number = hub.complete_join(connection, channel, generation, True)
        if number:
            self.entered(caller.player, channel, connection, was_present)
            self._tickets.joined(connection, channel)
        return number, role

    def too_many(self, player: bytes, channels: Sequence[bytes]) -> list[bytes]:
        """Those of the channels of a HELLO that the player may not join yet: they count as if joined one by one."""
        now = monotonic_ms()
        if not channels or not self._joins.take(player, now, len(channels)):
            return []
        return [channel for channel in channels if self._joins.take(player, now)]

    def take_settings(self) -> None:
        """Those that the context has now."""
        limits = self._context.settings.limits
        self._joins.set_limit(limits.joins_per_second, limits.join_burst)

    def _begin_join(self, connection: int, channel: bytes, beyond: int = 0) -> int:
        """As the hub's. Where the connection is in as many channels as it may be, the private chat that it has been in
        for longest gives way; the next message opens that again.
        """
        hub = self._context.hub
        channels = hub.channels_of(connection)  # newest first
        if channel not in channels and len(channels) >= self._context.settings.limits.channels:
            directs = [other for other in channels if is_direct(other)]
            if directs:
                hub.leave(connection, directs[-1])
                self._context.outbox.event(connection, ClosedEvent(directs[-1].decode("ascii"), TooManyChannels.code))
            elif len(channels) >= self._context.settings.limits.channels + beyond:
                return 0
        return hub.begin_join(connection, channel)

    def has_room(self, connection: int, channel: bytes) -> bool:
        """One more connection may come in, or this one is in already. Only rooms can be full: who is in a group or a
        private chat has been chosen."""
        if not channel.startswith(b"room:"):
            return True
        hub, limit = self._context.hub, self._context.settings.limits.room_members
        return hub.subscribers(channel) < limit or hub.is_joined(connection, channel)

    def entered(self, player: bytes, channel: bytes, connection: int, was_present: bool) -> None:
        """What follows from a join, whoever made it."""
        if is_direct(channel):
            self._social.joined(channel)
        elif not was_present:
            self._attendance.arrived(player, channel, connection)

    async def leave(self, caller: Caller, request: ChannelRequest) -> Empty:
        channel = channel_name(request.channel)
        if self._context.hub.leave(caller.connection, channel):
            self._attendance.departed(caller.player, [channel])
        return Empty()

    async def learn_heads(self, channels: Iterable[bytes]) -> None:
        """Ask history for what the log's tail has not told: heads, and the hashes of heads whose chain began before the
        tail did. Without an answer they stay unknown: chat goes on.
        """
        hub = self._context.hub
        unknown = [channel for channel in channels if not _is_whole(hub.head(channel))]
        if not unknown:
            return
        try:
            heads = await self._context.backends.history.heads(unknown)
        except BackendUnavailable:
            return
        for channel, head in zip(unknown, heads, strict=True):
            hub.learn_head(channel, head.id, head.hash, head.time)

    def known_head(self, channel: bytes) -> tuple[int, int]:
        """(id, hash) as a client is told them."""
        return self._context.hub.head(channel) or (UNKNOWN_ID, 0)

    def open_direct(self, channel: bytes, connections: list[int]) -> None:
        """A message of a private chat is about to be delivered to these connections, which are not in it.

        They may send at once. The message proves it: its sender was let in only while neither had blocked the other,
        and a block since then is a control record on this very channel, so it has come by here before the message.
        Asking the relations again could tell nothing more, so there is nothing here that depends on them.
        """
        hub = self._context.hub
        blocked = self._context.recent.is_blocked(channel)
        head, hash = self.known_head(channel)
        for connection in connections:
            if not self._context.is_granted(connection, channel):
                continue
            generation = self._begin_join(connection, channel, DIRECTS_BEYOND)
            number = hub.complete_join(connection, channel, generation, True) if generation else 0
            if number:
                self._context.outbox.event(connection, OpenedEvent(channel.decode("ascii"), number, head, hash))
                self._tickets.joined(connection, channel)
        if blocked:
            for player in channel.split(b":")[1:]:
                hub.set_may_send(player, channel, False, ErrorCode.ERROR_BLOCKED)
            self._social.opened_silenced(channel)

    # ---- History -----------------------------------------------------------------------------------------------------

    async def sync(self, caller: Caller, request: SyncRequest) -> SyncReply:
        channel = channel_name(request.channel)
        if request.after and request.before:
            raise RequestError("sync takes one of `after` and `before`")
        if request.limit < 1 or request.after < 0 or request.before < 0 or request.after > MAX_ID:
            raise RequestError("`limit` is at least 1, `after` and `before` are ids")
        await self._permissions.check_read(caller, channel)
        limit, size = min(request.limit, MAX_SYNC), self._context.settings.limits.sync_bytes
        history = self._context.backends.history
        if request.before:
            found = await history.before(channel, min(request.before, MAX_ID), limit, size)
        else:
            await self._await_history(channel, request.after)
            found = await history.after(channel, request.after, limit, size)
        head = await self._head(channel)
        return SyncReply(self._entries(caller.player, found.entries), found.more, head)

    async def _await_history(self, channel: bytes, after: int) -> None:
        """History may lag behind what was delivered live; a client that asks for what is missing should not get
        nothing.
        """
        for pause in _LAG_WAITS_S:
            live = self._context.hub.head(channel)
            if live is None or live[0] <= after:
                return
            [head] = await self._context.backends.history.heads([channel])
            if head.id >= live[0]:
                return
            await asyncio.sleep(pause)

    def _entries(self, player: bytes, entries: list[HistoryEntry]) -> list[Entry]:
        blocks = self._social.blocks_of(player)
        hidden = int(DeliverFlag.DELIVER_HIDDEN)
        return [
            Entry(id, prev, hash, time, hidden, "", b"")
            if sender in blocks
            else Entry(id, prev, hash, time, 0, sender.decode("ascii"), body)
            for id, prev, hash, time, sender, body in entries
        ]

    async def _head(self, channel: bytes) -> int:
        live = self._context.hub.head(channel)
        if live is not None:
            return live[0]
        [head] = await self._context.backends.history.heads([channel])
        return head.id

    # ---- Members, conversations, read marks --------------------------------------------------------------------------

    async def members(self, caller: Caller, request: ChannelRequest) -> MembersReply:
        channel = channel_name(request.channel)
        await self._permissions.check_join(caller, channel)  # presence is not for whom the other one has blocked
        limit = self._context.settings.limits.members
        if channel.startswith(b"group:"):
            found = await self._context.backends.relations.members(channel, limit + 1)
        elif is_direct(channel):
            found = [(player.encode("ascii"), "") for player in direct_players(request.channel)]
        else:
            found = [(player, "") for player in sorted(self._attendance.present(channel, limit + 1))]
        shown = found[:limit]
        presences = await self._context.backends.sessions.presence_of([player for player, _ in shown])
        members = [
            MemberState(player.decode("ascii"), role, presence)
            for (player, role), presence in zip(shown, presences, strict=True)
        ]
        return MembersReply(members, len(found) > limit)

    async def conversations(self, caller: Caller, request: Empty) -> ConversationsReply:
        backends, limit = self._context.backends, self._context.settings.limits.conversations
        [profile] = await backends.relations.profiles([caller.player])
        groups = [group for group, _ in profile.groups]
        [found] = await backends.sessions.conversations([(caller.player, groups)], limit)
        return ConversationsReply(self.granted(caller.connection, conversation_states(found)))

    def granted(self, connection: int, states: dict[str, ConversationState]) -> dict[str, ConversationState]:
        """Those that the connection's token lets it be in."""
        if not states or not self._context.grants:
            return states
        is_granted = self._context.is_granted
        return {name: state for name, state in states.items() if is_granted(connection, name.encode("ascii"))}

    async def mark_read(self, caller: Caller, request: MarkReadRequest) -> Empty:
        """A mark beyond the last message would hide the next ones, so it stops there. Without a message there is none:
        it would be a row for every name that somebody thinks of.
        """
        channel = channel_name(request.channel)
        if channel.startswith(b"room:"):
            raise RequestError("rooms have no read marks")
        await self._permissions.check_read(caller, channel)
        id = min(max(request.id, NO_ID), await self._head(channel), MAX_ID)
        if id != NO_ID and await self._context.backends.sessions.mark_read(caller.player, channel, id):
            event = ReadEvent(request.channel, id)
            for _, connection in self._context.hub.sessions_of(caller.player):
                if connection and connection != caller.connection:
                    self._context.outbox.event(connection, event)
        return Empty()


def _is_whole(head: tuple[int, int] | None) -> bool:
    """Both id and hash are known, or that there is no message."""
    return head is not None and (head[0] == NO_ID or head[1] != HASH_UNKNOWN)


def conversation_states(found: Iterable[Conversation]) -> dict[str, ConversationState]:
    return {
        conversation.channel.decode("ascii"): ConversationState(
            conversation.head, conversation.read, conversation.unread
        )
        for conversation in found
    }
