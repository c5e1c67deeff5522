"""What the server asks of its four backends: message log, history, session store, relations.

Each is a Protocol class with one contract suite in tests/contracts that every implementation passes. Look-ups may be
slow or fail; a failure is a `BackendUnavailable`, never an empty answer. Holds no implementation.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from chatcore_ext.constants import RETRY_AFTER_MS
from chatcore_ext.error_codes import ErrorCode

MAX_ID = (1 << 63) - 1  # ids are the log's offsets: no log has more
# Bytes of a history entry beside its sender and its body, in an answer, at most: four integers, flags, MessagePack.
ENTRY_OVERHEAD = 48


class BackendUnavailable(Exception):
    """A backend did not answer, or not in time. `code` is what the client is told."""

    def __init__(self, code: ErrorCode, reason: str, *, retry_after_ms: int = RETRY_AFTER_MS) -> None:
        super().__init__(reason)
        self.code = code
        self.retry_after_ms = retry_after_ms


class LogFull(Exception):
    """The log's queue is full, or the log is closed: the record was not taken in. Refuse the send, retryable."""


class LogRecord(NamedTuple):
    """One record of the log. `offset` >= 1 grows by partition; `time` is the log's own (ms since 1970)."""

    offset: int
    time: int
    channel: bytes
    value: bytes


class Outcome(NamedTuple):
    """What became of an appended record. `code` 0: durable at `offset`, with the log's `time` of it.

    Otherwise `code` says why not, partition is -1, offset and time are 0, and the record is not in the log, unless
    `uncertain`.
    """

    token: object
    partition: int
    offset: int
    time: int
    code: int = 0
    uncertain: bool = False


class MessageLog(Protocol):
    """The durable, partitioned, append-only log. Keeps whatever it is given: it knows no sessions and drops no copies.

    All callbacks come on the loop's thread, in batches. One that raises is reported to the loop's exception handler and
    disturbs no other.
    """

    @property
    def epoch(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    def partition_of(self, channel: bytes) -> int:
        """One channel lies in one partition, for as long as the epoch lasts."""

    async def open(self) -> None: ...
    async def close(self) -> None:
        """Writes out what was appended; every append has had its outcome when this returns."""

    def append(self, channel: bytes, value: bytes, token: object) -> None:
        """Take a record in without waiting; its outcome comes through `on_outcomes` once, never before this returns.

        Records of one partition get their offsets in the order in which they were appended. Raises LogFull."""

    def on_outcomes(self, callback: Callable[[list[Outcome]], None]) -> None:
        """Outcomes come in batches, to every callback given; outcomes of different partitions in any order."""

    async def tail(self, since_ms: int, on_records: Callable[[int, Sequence[LogRecord]], None]) -> None:
        """Replay every partition from the first record with time >= since_ms, then go on live, for ever.

        Calls on_records(partition, records) in offset order without a gap or a repetition. Returns when all that was in
        the log when it was called has been handed over; live records go on coming after that. Any number of tails may
        run. Raises BackendUnavailable if the log cannot be read; then no more records come.
        """


class HistoryEntry(NamedTuple):
    """One message as its channel's history has it: later copies of a send are not there. `hash`: the chain after it."""

    id: int
    prev: int
    hash: int
    time: int
    sender: bytes
    body: bytes


class HistoryPage(NamedTuple):
    """`more`: there are others beyond these, in the direction that was asked for."""

    entries: list[HistoryEntry]
    more: bool


class Head(NamedTuple):
    """A channel's last message; id 0 and hash 0: it has none. `time` is the log's."""

    id: int
    hash: int
    time: int


class History(Protocol):
    """What was said, by channel. May lag behind the log; says nothing of what the log does not hold."""

    async def heads(self, channels: Sequence[bytes]) -> list[Head]: ...
    async def after(self, channel: bytes, after: int, limit: int, size: int) -> HistoryPage:
        """The first entries with id > after, ascending: as many as fit into `size` bytes, but one at least and `limit`
        at most. Each takes its sender, its body and ENTRY_OVERHEAD. Reads little more than that: many ask."""

    async def before(self, channel: bytes, before: int, limit: int, size: int) -> HistoryPage:
        """The last entries with id < before, ascending; as many as `after` says."""

    async def find(self, channel: bytes, session: int, seq: int) -> int:
        """The id of the first copy of this send, 0 if history does not have it (yet)."""


class Conversation(NamedTuple):
    """A group or private chat of a player: last id, read mark, messages of others after it (at most 1,000)."""

    channel: bytes
    head: int
    read: int
    unread: int


class ResumeState(NamedTuple):
    """All that a resume needs beside its ticket."""

    ended: bool  # the session was logged out or replaced: the ticket is void
    directs: list[Conversation]  # private chats, newest first
    blocks: list[bytes]  # whom the player has blocked


class PresenceChange(NamedTuple):
    """`presence` "offline" removes the session."""

    player: bytes
    session: int
    presence: str


class SessionStore(Protocol):
    """Sessions, presence, read marks, inboxes. A view: losing it loses no message.

    What logins and resumes need is asked for many players at once: after a lost network they come by thousands. Answers
    are in the order of what was asked; a failure is one of the whole call."""

    async def resume(self, asked: Sequence[tuple[int, bytes]], limit: int) -> list[ResumeState]:
        """Of (session, player) each, with at most `limit` private chats."""

    async def end(self, session: int, until_ms: int) -> None:
        """The session may not resume any more; remembered until its last ticket is void. Durable when it returns."""

    async def conversations(
        self, asked: Sequence[tuple[bytes, Sequence[bytes]]], limit: int
    ) -> list[list[Conversation]]:
        """Of (player, groups) each: the player's private chats and these groups, by the time of the last message,
        newest first, at most `limit`.

        A private chat is there for both its players from its first message on, for as long as its head is known."""

    async def mark_read(self, player: bytes, channel: bytes, id: int) -> bool:
        """Move the read mark forward; False if it was there already, or if nothing is known of the channel: then
        nothing is stored. Durable when it returns."""

    async def set_presences(self, changes: Sequence[PresenceChange]) -> list[tuple[str, str]]:
        """In their order. Returns each player's presence before and after, over all sessions: online > away >
        offline."""

    async def presence_of(self, players: Sequence[bytes]) -> list[str]: ...


class Profile(NamedTuple):
    """What a login needs of a player."""

    groups: list[tuple[bytes, str]]  # (channel, role)
    friends: list[bytes]  # mutual
    blocks: list[bytes]  # whom the player has blocked


class Departure(NamedTuple):
    """What leaving did: was_member False = nothing; heir = the new owner or b""; ended = the group is no more."""

    was_member: bool
    heir: bytes
    ended: bool


class Relations(Protocol):
    """Players, friends, blocks, groups and roles. Every change is idempotent and durable when it returns.

    Checks no permissions: that is groups.py's. An unknown group has no members; an unknown player has no relations.
    """

    async def profiles(self, players: Sequence[bytes]) -> list[Profile]:
        """In their order, of many at once, as SessionStore says why."""

    async def create_group(self, group: bytes, owner: bytes) -> str:
        """The role of `owner` in it afterwards; "" if the group is somebody else's, or has ended: its name is not given
        again, since its history would come with it."""

    async def role(self, group: bytes, player: bytes) -> str:
        """ "owner", "officer", "member" or "" (none)."""

    async def roles(self, group: bytes, players: Sequence[bytes]) -> list[str]: ...
    async def members(self, group: bytes, limit: int) -> list[tuple[bytes, str]]:
        """Oldest first; at most limit. Empty: there is no such group."""

    async def count_members(self, group: bytes) -> int: ...
    async def count_groups(self, player: bytes) -> int:
        """Those that the player is a member of."""

    async def set_role(self, group: bytes, player: bytes, role: str) -> bool:
        """Add a member or change a role; giving "owner" makes the old owner an officer in the same step.

        False: no such group. A group always has one owner: any other role for the owner changes nothing. Raises
        ValueError for an unknown role."""

    async def leave(self, group: bytes, player: bytes) -> Departure:
        """Remove a member; the last one ends the group.

        An owner's place goes to the oldest officer, else to the oldest member."""

    async def block(self, player: bytes, other: bytes) -> None: ...
    async def unblock(self, player: bytes, other: bytes) -> None: ...
    async def blocks(self, player: bytes) -> list[bytes]: ...
    async def blocked_between(self, player: bytes, other: bytes) -> bool:
        """True if either has blocked the other."""

    async def add_friend(self, player: bytes, other: bytes) -> bool:
        """True if each has now added the other."""

    async def added(self, player: bytes) -> list[bytes]:
        """Whom this player has added, in no order, whether or not they have added the player."""

    async def remove_friend(self, player: bytes, other: bytes) -> None:
        """Removes both directions."""

    async def friends(self, player: bytes) -> tuple[list[bytes], list[bytes]]:
        """(mutual friends, players who have added this one and wait)."""
