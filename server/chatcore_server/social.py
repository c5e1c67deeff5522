"""Blocks and friends. A block hides what the other one says, in private, room and group, live and in history, and
closes the private chat for both sides; it also ends a friendship.

A change is written to the relations, then told by a control record on the log of the private chat of the two, and takes
effect on every server when it comes by there: in order with the chat's messages. Presence itself is presence.py's.
"""

from collections.abc import Iterable, Sequence

from chatcore.errors import Blocked as BlockedError
from chatcore.errors import ListFull, NotAllowed
from chatcore.names import direct_channel, validate_player
from chatcore.operations import (
    AddFriendReply,
    BlocksReply,
    Empty,
    FriendsReply,
    PlayerRequest,
    PresenceEvent,
)
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.applied import ControlLog
from chatcore_server.clock import now_ms
from chatcore_server.context import Caller, Context
from chatcore_server.controls import Blocked, Unblocked
from chatcore_server.tasks import Locks

_SILENCED_SWEEP = 1_000  # silenced chats from which on those that nobody is in any more are forgotten


class Social:
    """Knows the blocks of the players that are online here, as far as they have any."""

    def __init__(self, context: Context, controls: ControlLog) -> None:
        self._context = context
        self._controls = controls
        self._locks = Locks()  # by private chat, then by the player whose list grows
        self._blocks: dict[bytes, set[bytes]] = {}
        # Private chats that somebody is in, here, who may not send because of a block. A ticket does not vouch for
        # these.
        self._silenced: set[bytes] = set()

    # ---- What delivery and history need ------------------------------------------------------------------------------

    def blocks_of(self, player: bytes) -> frozenset[bytes] | set[bytes]:
        """Whom a player who is online here has blocked."""
        return self._blocks.get(player, frozenset())

    def is_silenced(self, channel: bytes) -> bool:
        return channel in self._silenced

    def logged_in(self, player: bytes, blocks: Sequence[bytes], serial: int) -> None:
        """To be called when the player has a session here. `blocks` were looked up after `recent.serial` was `serial`:
        what control records said since then is newer than the look-up may be.
        """
        if not blocks and serial == self._context.recent.serial and player not in self._blocks:
            return
        now = set(blocks)
        for other, blocked in self._context.recent.blocks_after(serial, player):
            if blocked:
                now.add(other)
            else:
                now.discard(other)
        for other in self.blocks_of(player) - now:
            self._context.hub.show(player, other)
        for other in now:
            self._context.hub.hide(player, other)
        self._keep(player, now)

    def logged_out(self, player: bytes) -> None:
        """The player has no session here any more; the hub has forgotten its part by itself."""
        self._blocks.pop(player, None)

    def _keep(self, player: bytes, blocks: set[bytes]) -> None:
        if blocks:
            self._blocks[player] = blocks
        else:
            self._blocks.pop(player, None)

    # ---- Control records ---------------------------------------------------------------------------------------------

    def apply_blocked(self, channel: bytes, control: Blocked) -> None:
        hub = self._context.hub
        if hub.is_online(control.player):
            hub.hide(control.player, control.other)
            self._keep(control.player, {*self.blocks_of(control.player), control.other})
        if self._let_send(channel, control, False):
            self._silenced.add(channel)
            self._sweep()

    def apply_unblocked(self, channel: bytes, control: Unblocked) -> None:
        hub = self._context.hub
        hub.show(control.player, control.other)
        self._keep(control.player, set(self.blocks_of(control.player)) - {control.other})
        if not control.still_blocked and not self._context.recent.is_blocked(channel):
            self._let_send(channel, control, True)
            self._silenced.discard(channel)

    def _let_send(self, channel: bytes, control: Blocked | Unblocked, may_send: bool) -> int:
        code = 0 if may_send else ErrorCode.ERROR_BLOCKED
        both = (control.player, control.other)
        return sum(self._context.hub.set_may_send(player, channel, may_send, code) for player in both)

    def joined(self, channel: bytes) -> None:
        """Somebody was let into the private chat: it is not blocked."""
        self._silenced.discard(channel)

    def opened_silenced(self, channel: bytes) -> None:
        self._silenced.add(channel)
        self._sweep()

    def _sweep(self) -> None:
        if len(self._silenced) >= _SILENCED_SWEEP:
            self._silenced = {channel for channel in self._silenced if self._context.hub.subscribers(channel)}

    # ---- Requests ----------------------------------------------------------------------------------------------------

    async def block(self, caller: Caller, request: PlayerRequest) -> Empty:
        other, channel = self._other(caller, request)
        relations = self._context.backends.relations
        async with self._locks.hold(channel), self._locks.hold(caller.player):
            blocks = await relations.blocks(caller.player)
            if len(blocks) >= self._context.settings.limits.blocks and other not in blocks:
                raise ListFull("unblock somebody first")
            await relations.block(caller.player, other)
            await relations.remove_friend(caller.player, other)
            await self._controls.tell(channel, Blocked(caller.player, other), now_ms())
        return Empty()

    async def unblock(self, caller: Caller, request: PlayerRequest) -> Empty:
        other, channel = self._other(caller, request)
        relations = self._context.backends.relations
        async with self._locks.hold(channel):
            await relations.unblock(caller.player, other)
            still_blocked = await relations.blocked_between(caller.player, other)
            await self._controls.tell(channel, Unblocked(caller.player, other, still_blocked), now_ms())
        return Empty()

    async def blocks(self, caller: Caller, request: Empty) -> BlocksReply:
        return BlocksReply(_texts(await self._context.backends.relations.blocks(caller.player)))

    async def add_friend(self, caller: Caller, request: PlayerRequest) -> AddFriendReply:
        """Those who have now added each other are told each other's presence.

        What a player has added is limited, answered or not: so friends are, too, whoever was the second to add.
        """
        other, channel = self._other(caller, request)
        backends = self._context.backends
        async with self._locks.hold(channel), self._locks.hold(caller.player):
            if await backends.relations.blocked_between(caller.player, other):
                raise BlockedError()
            added = await backends.relations.added(caller.player)
            if len(added) >= self._context.settings.limits.friends and other not in added:
                raise ListFull("remove a friend first, or somebody who has not answered")
            mutual = await backends.relations.add_friend(caller.player, other)
        if mutual:
            mine, theirs = await backends.sessions.presence_of([caller.player, other])
            self._context.outbox.event_to_player(other, PresenceEvent(caller.player.decode("ascii"), mine))
            self._context.outbox.event_to_player(caller.player, PresenceEvent(request.player, theirs))
        return AddFriendReply(mutual)

    async def remove_friend(self, caller: Caller, request: PlayerRequest) -> Empty:
        other, channel = self._other(caller, request)
        async with self._locks.hold(channel):
            await self._context.backends.relations.remove_friend(caller.player, other)
        return Empty()

    async def friends(self, caller: Caller, request: Empty) -> FriendsReply:
        backends = self._context.backends
        friends, asked = await backends.relations.friends(caller.player)
        presences = await backends.sessions.presence_of(friends)
        return FriendsReply(dict(zip(_texts(friends), presences, strict=True)), _texts(asked))

    def _other(self, caller: Caller, request: PlayerRequest) -> tuple[bytes, bytes]:
        """The other player and the private chat of the two."""
        validate_player(request.player)
        player = caller.player.decode("ascii")
        if request.player == player:
            raise NotAllowed("nobody is their own friend or foe")
        return request.player.encode("ascii"), direct_channel(player, request.player).encode("ascii")


def _texts(names: Iterable[bytes]) -> list[str]:
    return [name.decode("ascii") for name in names]
