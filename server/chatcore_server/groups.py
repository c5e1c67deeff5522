"""Groups: who may change whose membership and role, and what a change does.

A change is written to the relations, then told by a control record on the group's own log, and takes effect on every
server when it comes by there: in order with the group's messages. So a request is answered when its change is durable
and in effect here. A request that is repeated tells the change again: one that died between the two steps is completed
so. When the relations do not answer, nothing is changed and the request fails with a retryable `relations_unavailable`.
"""

from chatcore.errors import AlreadyExists, Blocked, ListFull, NoSuchChannel, NoSuchMember, NotAllowed, RateLimited
from chatcore.names import validate_player
from chatcore.operations import ChannelRequest, ClosedEvent, Empty, MemberEvent, MemberRequest, RoleReply
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.applied import ControlLog
from chatcore_server.attendance import Attendance
from chatcore_server.buckets import KeyedBuckets, monotonic_ms
from chatcore_server.clock import now_ms
from chatcore_server.context import Caller, Context
from chatcore_server.controls import MembersChanged
from chatcore_server.permissions import Permissions, group_name
from chatcore_server.tasks import Locks

RANKS = {"": 0, "member": 1, "officer": 2, "owner": 3}


class Groups:
    """The requests about groups, and their control records."""

    def __init__(
        self, context: Context, permissions: Permissions, controls: ControlLog, attendance: Attendance
    ) -> None:
        self._context = context
        self._permissions = permissions
        self._controls = controls
        self._attendance = attendance
        # By group, then by the player who is to become a member: the checks and the change belong together.
        self._locks = Locks()
        limits = context.settings.limits
        self._creations: KeyedBuckets[bytes] = KeyedBuckets(limits.creations_per_second, limits.creation_burst)

    def take_settings(self) -> None:
        """Those that the context has now."""
        limits = self._context.settings.limits
        self._creations.set_limit(limits.creations_per_second, limits.creation_burst)

    # ---- Requests ----------------------------------------------------------------------------------------------------

    async def create(self, caller: Caller, request: ChannelRequest) -> RoleReply:
        group = self._group(caller, request.channel)
        wait = self._creations.take(caller.player, monotonic_ms())
        if wait:
            raise RateLimited("too many groups created", retry_after_ms=wait)
        relations = self._context.backends.relations
        async with self._locks.hold(group), self._locks.hold(caller.player):
            if not await relations.role(group, caller.player):
                await self._check_memberships(caller.player)
            role = await relations.create_group(group, caller.player)
            if not role:
                raise AlreadyExists("there is such a group already")
            await self._tell(caller, group, [(caller.player, role)])
        return RoleReply(role)

    async def add(self, caller: Caller, request: MemberRequest) -> Empty:
        """Only to a lower role than the caller's own; `set_role` is for those who are members already."""
        group, player = self._names(caller, request)
        async with self._locks.hold(group), self._locks.hold(player):
            mine = await self._permissions.role(group, caller.player)
            if RANKS[mine] < RANKS["officer"] or RANKS[request.role] >= RANKS[mine]:
                raise NotAllowed(f"a group's {mine} may not add a member as {request.role}")
            theirs = await self._context.backends.relations.role(group, player)
            if theirs not in ("", request.role):
                raise AlreadyExists(f"{request.player} is the group's {theirs} already")
            if not theirs:
                await self._check_new_member(caller, group, player)
            await self._set_role(group, player, request.role)
            await self._tell(caller, group, [(player, request.role)])
        return Empty()

    async def remove(self, caller: Caller, request: MemberRequest) -> Empty:
        group, player = self._names(caller, request)
        async with self._locks.hold(group):
            mine = await self._permissions.role(group, caller.player)
            theirs = await self._context.backends.relations.role(group, player)
            if RANKS[mine] < RANKS["officer"] or RANKS[theirs] >= RANKS[mine]:
                raise NotAllowed(f"a group's {mine} may not remove its {theirs or 'members'}")
            departure = await self._context.backends.relations.leave(group, player)
            await self._tell(caller, group, [(player, "")])
            if not departure.was_member:
                raise NoSuchMember(f"{request.player} is not a member of this group")
        return Empty()

    async def leave(self, caller: Caller, request: ChannelRequest) -> Empty:
        group = self._group(caller, request.channel)
        async with self._locks.hold(group):
            departure = await self._context.backends.relations.leave(group, caller.player)
            changes = [(caller.player, "")]
            if departure.heir:
                changes.append((departure.heir, "owner"))
            await self._tell(caller, group, changes, departure.ended)
            if not departure.was_member:
                raise NoSuchMember("not a member of this group")
        return Empty()

    async def set_role(self, caller: Caller, request: MemberRequest) -> Empty:
        """Giving "owner" away makes the caller an officer."""
        group, player = self._names(caller, request)
        async with self._locks.hold(group):
            mine = await self._permissions.role(group, caller.player)
            if mine != "owner":
                raise NotAllowed("only a group's owner sets roles")
            if player == caller.player:
                raise NotAllowed("an owner hands the group over by making somebody else its owner")
            if not await self._context.backends.relations.role(group, player):
                raise NoSuchMember(f"{request.player} is not a member of this group")
            await self._set_role(group, player, request.role)
            changes = [(player, str(request.role))]
            if request.role == "owner":
                changes.append((caller.player, "officer"))
            await self._tell(caller, group, changes)
        return Empty()

    def _group(self, caller: Caller, channel: str) -> bytes:
        group = group_name(channel)
        self._permissions.check_granted(caller.connection, group)
        return group

    def _names(self, caller: Caller, request: MemberRequest) -> tuple[bytes, bytes]:
        return self._group(caller, request.channel), validate_player(request.player).encode("ascii")

    async def _check_new_member(self, caller: Caller, group: bytes, player: bytes) -> None:
        """Nobody is asked before becoming a member; a block is how to keep somebody from filling one's list."""
        relations = self._context.backends.relations
        if await relations.blocked_between(caller.player, player):
            raise Blocked()
        if await relations.count_members(group) >= self._context.settings.limits.group_members:
            raise ListFull("the group has as many members as it may have")
        await self._check_memberships(player)

    async def _check_memberships(self, player: bytes) -> None:
        if await self._context.backends.relations.count_groups(player) >= self._context.settings.limits.groups:
            raise ListFull("the player is in as many groups as allowed")

    async def _set_role(self, group: bytes, player: bytes, role: str) -> None:
        if not await self._context.backends.relations.set_role(group, player, role):
            raise NoSuchChannel("there is no such group")

    async def _tell(self, caller: Caller, group: bytes, changes: list[tuple[bytes, str]], ended: bool = False) -> None:
        await self._controls.tell(group, MembersChanged(changes, caller.player, ended), now_ms())

    # ---- Control records ---------------------------------------------------------------------------------------------

    def apply(self, group: bytes, control: MembersChanged) -> None:
        """Tells those who are in the channel and the players concerned, and takes out who is no longer a member."""
        for player, role in control.changes:
            event = MemberEvent(group.decode("ascii"), player.decode("ascii"), role, control.by.decode("ascii"))
            self._context.outbox.event_to_channel(group, event)
            for _, connection in self._context.hub.sessions_of(player):
                if connection and not self._context.hub.is_joined(connection, group):
                    self._context.outbox.event(connection, event)
            if not role:
                self._take_out(group, player, control)

    def _take_out(self, group: bytes, player: bytes, control: MembersChanged) -> None:
        code = ErrorCode.ERROR_NO_SUCH_MEMBER if control.by == player else ErrorCode.ERROR_NOT_ALLOWED
        if control.ended:
            code = ErrorCode.ERROR_NO_SUCH_CHANNEL
        for connection in self._context.hub.remove_player(player, group):
            self._context.outbox.event(connection, ClosedEvent(group.decode("ascii"), code))
        self._attendance.departed(player, [group])
