"""The MessagePack bodies of the protocol as typed structs: HELLO, WELCOME, each request with its reply, each event.

Shared by client and server. Holds no behaviour; docs/protocol.md says what each means.
"""

from enum import IntEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

Role = Literal["owner", "officer", "member"]
Presence = Literal["online", "away", "offline"]


class Operation(IntEnum):
    JOIN = 1
    LEAVE = 2
    SYNC = 3
    MEMBERS = 4
    CONVERSATIONS = 5
    MARK_READ = 6
    CREATE_GROUP = 7
    ADD_MEMBER = 8
    REMOVE_MEMBER = 9
    LEAVE_GROUP = 10
    SET_ROLE = 11
    BLOCK = 12
    UNBLOCK = 13
    BLOCKS = 14
    ADD_FRIEND = 15
    REMOVE_FRIEND = 16
    FRIENDS = 17
    SET_PRESENCE = 18
    LOGOUT = 19
    REFRESH = 20


# ---- Life of a connection
# ---------------------------------------------------------------------------------------------


class Hello(Struct, omit_defaults=True):
    token: str = ""
    ticket: bytes = b""
    channels: dict[str, Annotated[int, Meta(ge=0)]] = field(default_factory=dict)
    client: str = ""
    capabilities: list[str] = field(default_factory=list)


class Limits(Struct):
    """Bytes, but for `unacked_sends` and `channels`, which are counts, and the rate: frames/s, and frames at once."""

    frame_bytes: int
    body_bytes: int
    unacked_sends: int
    channels: int
    frames_per_second: int
    frame_burst: int


class ChannelState(Struct, array_like=True):
    """A channel that the connection is in: its number, last id and the hash of that."""

    number: int
    head: int
    hash: int


class ConversationState(Struct, array_like=True):
    """Last id, read mark, number of messages after the mark (at most 1,000)."""

    head: int
    read: int
    unread: int


class Welcome(Struct):
    player: str
    session: int
    resumed: bool
    ticket: bytes
    ticket_ms: int
    epoch: str
    time_ms: int
    heartbeat_ms: int
    heartbeat_grace_ms: int
    limits: Limits
    channels: dict[str, ChannelState] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    conversations: dict[str, ConversationState] = field(default_factory=dict)
    server: str = ""


# ---- Requests and replies
# ---------------------------------------------------------------------------------------------


class Empty(Struct):
    """A request or reply without keys."""


class ChannelRequest(Struct):
    """join, leave, members, create_group, leave_group."""

    channel: str


class JoinReply(Struct, omit_defaults=True):
    channel: str
    number: int
    head: int
    hash: int
    role: str = ""


class SyncRequest(Struct, omit_defaults=True):
    channel: str
    after: int = 0
    before: int = 0
    limit: int = 100


class Entry(Struct, array_like=True):
    """One message of a channel's history; hidden (DELIVER_HIDDEN in `flags`): sender and body are empty."""

    id: int
    prev: int
    hash: int
    time: int
    flags: int
    sender: str
    body: bytes


class SyncReply(Struct):
    entries: list[Entry]
    more: bool
    head: int


class MemberState(Struct, array_like=True):
    player: str
    role: str
    presence: str


class MembersReply(Struct):
    members: list[MemberState]
    more: bool = False


class ConversationsReply(Struct):
    conversations: dict[str, ConversationState]


class MarkReadRequest(Struct):
    channel: str
    id: int


class RoleReply(Struct):
    role: str


class MemberRequest(Struct, omit_defaults=True):
    """add_member and set_role (which needs `role`), remove_member (which ignores it)."""

    channel: str
    player: str
    role: Role = "member"


class PlayerRequest(Struct):
    """block, unblock, add_friend, remove_friend."""

    player: str


class BlocksReply(Struct):
    players: list[str]


class AddFriendReply(Struct):
    mutual: bool


class FriendsReply(Struct):
    friends: dict[str, str]
    asked: list[str]


class SetPresenceRequest(Struct):
    presence: Literal["online", "away"]


class RefreshRequest(Struct):
    token: str


class RefreshReply(Struct):
    """`ticket_ms` and `token_ms`: how long from now either will work."""

    ticket: bytes
    ticket_ms: int
    token_ms: int


REQUEST_TYPES: dict[Operation, type[Struct]] = {
    Operation.JOIN: ChannelRequest,
    Operation.LEAVE: ChannelRequest,
    Operation.SYNC: SyncRequest,
    Operation.MEMBERS: ChannelRequest,
    Operation.CONVERSATIONS: Empty,
    Operation.MARK_READ: MarkReadRequest,
    Operation.CREATE_GROUP: ChannelRequest,
    Operation.ADD_MEMBER: MemberRequest,
    Operation.REMOVE_MEMBER: MemberRequest,
    Operation.LEAVE_GROUP: ChannelRequest,
    Operation.SET_ROLE: MemberRequest,
    Operation.BLOCK: PlayerRequest,
    Operation.UNBLOCK: PlayerRequest,
    Operation.BLOCKS: Empty,
    Operation.ADD_FRIEND: PlayerRequest,
    Operation.REMOVE_FRIEND: PlayerRequest,
    Operation.FRIENDS: Empty,
    Operation.SET_PRESENCE: SetPresenceRequest,
    Operation.LOGOUT: Empty,
    Operation.REFRESH: RefreshRequest,
}


# ---- Events ----------------------------------------------------------------------------------------------


class EventBody(Struct, tag_field="event"):
    """Base of the EVENT frame's bodies; the tag is the key `event`."""


class OpenedEvent(EventBody, tag="opened"):
    channel: str
    number: int
    head: int
    hash: int


class ClosedEvent(EventBody, tag="closed"):
    channel: str
    code: int


class JoinedEvent(EventBody, tag="joined"):
    channel: str
    player: str


class LeftEvent(EventBody, tag="left"):
    channel: str
    player: str


class MemberEvent(EventBody, tag="member"):
    """`role` "" = no longer a member."""

    channel: str
    player: str
    role: str
    by: str


class PresenceEvent(EventBody, tag="presence"):
    player: str
    presence: str


class ReadEvent(EventBody, tag="read"):
    channel: str
    id: int


class TicketEvent(EventBody, tag="ticket"):
    ticket: bytes
    ticket_ms: int


class TokenExpiringEvent(EventBody, tag="token_expiring"):
    in_ms: int


AnyEvent = (
    OpenedEvent
    | ClosedEvent
    | JoinedEvent
    | LeftEvent
    | MemberEvent
    | PresenceEvent
    | ReadEvent
    | TicketEvent
    | TokenExpiringEvent
)

# What msgspec raises for bytes from outside; RecursionError by values within values within values.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

encode_body = msgspec.msgpack.Encoder().encode
decode_event = msgspec.msgpack.Decoder(AnyEvent).decode
"""Raises msgspec.ValidationError for an event that this version does not know: a client ignores those."""
