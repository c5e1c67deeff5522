"""Who may be in a channel and read it. Asks the relations and fails closed: when they do not answer, the answer is a
retryable `relations_unavailable` (BackendUnavailable comes through), never a yes. Changes nothing.
"""

from functools import lru_cache

from chatcore.errors import Blocked, NoSuchChannel, NotAllowed
from chatcore.names import channel_kind, validate_channel
from chatcore_server.context import Caller, Context
from chatcore_server.controls import other_player


@lru_cache(maxsize=4096)  # the busiest: those of a match come together, and a look at a name costs a microsecond
def channel_name(name: str) -> bytes:
    """A channel's name as the server keeps it. Raises BadName."""
    return validate_channel(name).encode("ascii")


def group_name(name: str) -> bytes:
    """Raises BadName, and NoSuchChannel for what is no group."""
    channel = channel_name(name)
    if not channel.startswith(b"group:"):
        raise NoSuchChannel("only a group has members")
    return channel


def is_direct(channel: bytes) -> bool:
    return channel.startswith(b"dm:")


def is_direct_of(channel: bytes, player: bytes) -> bool:
    return is_direct(channel) and player in channel.split(b":")[1:]


class Permissions:
    """The checks. Rooms are open: only a token's grants close them."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def check_granted(self, connection: int, channel: bytes) -> None:
        if not self._context.is_granted(connection, channel):
            raise NotAllowed("the token does not name this channel")

    async def check_join(self, caller: Caller, channel: bytes) -> str:
        """The player's role in a group, "" elsewhere."""
        self.check_granted(caller.connection, channel)
        return await self.check_right(caller.player, channel)

    async def check_right(self, player: bytes, channel: bytes) -> str:
        """As `check_join` without the token's part in it."""
        kind = channel_kind(channel.decode("ascii"))
        if kind == "group":
            return await self.role(channel, player)
        if kind == "dm":
            self._check_direct(player, channel)
            if await self._context.backends.relations.blocked_between(player, other_player(channel, player)):
                raise Blocked()
        return ""

    async def check_read(self, caller: Caller, channel: bytes) -> None:
        """For history and members. A block does not take a private chat's past away."""
        self.check_granted(caller.connection, channel)
        if is_direct(channel):
            self._check_direct(caller.player, channel)
        elif channel.startswith(b"group:") and not self._context.hub.is_joined(caller.connection, channel):
            await self.role(channel, caller.player)

    def _check_direct(self, player: bytes, channel: bytes) -> None:
        if not is_direct_of(channel, player):
            raise NotAllowed("a private chat is for its two players")

    async def role(self, group: bytes, player: bytes) -> str:
        """Raises NotAllowed for who is no member, NoSuchChannel if there is no such group."""
        relations = self._context.backends.relations
        role = await relations.role(group, player)
        if not role:
            if not await relations.members(group, 1):
                raise NoSuchChannel("there is no such group")
            raise NotAllowed("not a member of this group")
        return role
