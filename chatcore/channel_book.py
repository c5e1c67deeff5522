"""All channels of a client session: where it is in each, under which number, and what must be asked for next.

Joins again what a reconnect lost, syncs what is missing, and follows the private chats that nobody joined. Sends
nothing itself: it asks through its `ChannelOwner`. Knows no clock.
"""

from collections.abc import Callable
from typing import Protocol

import msgspec
from msgspec import Struct

from chatcore import events
from chatcore.channel_track import ChannelTrack, Progress
from chatcore.errors import ChatError, error_from_code
from chatcore.names import channel_kind
from chatcore.operations import (
    ChannelRequest,
    Entry,
    JoinReply,
    OpenedEvent,
    Operation,
    SyncReply,
    SyncRequest,
    Welcome,
)
from chatcore_ext.constants import NO_ID, UNKNOWN_ID

SYNC_LIMIT = 500  # entries a page: the most that the protocol allows
FIRST_DELAY_MS = 50  # before asking again, where history lags or a backend is away; doubled up to the limit
LAST_DELAY_MS = 5000
PLACE_OVERHEAD = 11  # bytes of MessagePack around a channel's name in HELLO, with its id
MAX_CONVERSATIONS = 256  # in WELCOME: with as many, there may be older ones that it does not tell
CLOCK_SLACK_MS = 10_000  # a message's time is the log's, WELCOME's is the server's

Answer = Callable[[bytes | ChatError, int], None]
"""Called once with the reply's body or the error, and the time."""

_decode_sync_reply = msgspec.msgpack.Decoder(SyncReply).decode
_decode_join_reply = msgspec.msgpack.Decoder(JoinReply).decode


class ChannelOwner(Protocol):
    """What the book needs of the session."""

    def request_quietly(self, operation: Operation, body: Struct, answer: Answer, now_ms: int) -> None: ...
    def emit(self, event: events.SessionEvent) -> None: ...
    def channel_entered(self, channel: str, now_ms: int) -> None: ...
    def channel_lost(self, channel: str, error: ChatError) -> None: ...


class ChannelBook:
    """Channels by name and by number. A channel is in the book from its join until it is left, closed or lost."""

    def __init__(self, owner: ChannelOwner) -> None:
        self._owner = owner
        self._player = ""
        self._tracks: dict[str, ChannelTrack] = {}
        self._by_number: dict[int, ChannelTrack] = {}
        self._due: dict[str, int] = {}  # when a sync (or a join, for a channel without number) is to be tried again
        self._failures: dict[str, int] = {}  # refusals in a row
        # Private chats that are not in the book: the last id that was there, or was shown.
        self._direct_heads: dict[str, int] = {}
        self._knows_all_directs = False
        self._known_from_ms = 0  # the server's time of the first welcome

    def __contains__(self, channel: str) -> bool:
        return channel in self._tracks

    def names(self) -> list[str]:
        return list(self._tracks)

    def places(self, max_size: int) -> dict[str, int]:
        """The channels with the last id held: HELLO's `channels`, as many as `max_size` bytes of MessagePack hold.

        The others are joined after WELCOME.
        """
        places: dict[str, int] = {}
        for track in self._tracks.values():
            max_size -= len(track.channel) + PLACE_OVERHEAD
            if max_size < 0:
                break
            places[track.channel] = track.last
        return places

    def number(self, channel: str) -> int:
        """The channel's number on this connection, 0 while it has none."""
        track = self._tracks.get(channel)
        return track.number if track else 0

    def name(self, number: int) -> str | None:
        track = self._by_number.get(number)
        return track.channel if track else None

    # The connection

    def connected(self, welcome: Welcome, *, first: bool, now_ms: int) -> None:
        """`first`: nothing is known from before (the session's first welcome, or a new epoch)."""
        self._player = welcome.player
        if first:
            self._forget_places(welcome)
        for channel, state in welcome.channels.items():
            if channel in self._tracks:
                self._enter(self._tracks[channel], state.number, state.head, state.hash, now_ms)
        for channel, code in welcome.lost.items():
            if channel in self._tracks:
                self._join_refused(channel, error_from_code(code, f"{channel} could not be joined again"), now_ms)
        for track in list(self._tracks.values()):
            if not track.number and track.channel not in self._due:
                self._join_again(track.channel, now_ms)
        for channel, conversation in welcome.conversations.items():
            if channel_kind(channel) == "dm" and not first:
                self._take_direct(channel, conversation.head, conversation.read, now_ms)

    def disconnected(self) -> None:
        self._by_number.clear()
        self._due.clear()
        self._failures.clear()
        for track in self._tracks.values():
            track.number = 0
            track.stop_sync()

    @property
    def next_due_ms(self) -> int | None:
        return min(self._due.values(), default=None)

    def tick(self, now_ms: int) -> None:
        for channel in [channel for channel, due in self._due.items() if due <= now_ms]:
            del self._due[channel]
            track = self._tracks.get(channel)
            if track is None:
                continue
            if not track.number:
                self._join_again(channel, now_ms)
            if track.syncing:
                self._sync(track, now_ms)

    # Coming and going

    def joined(self, reply: JoinReply, now_ms: int) -> None:
        track = self._tracks.get(reply.channel)
        if track is None:
            last = self._direct_heads.get(reply.channel, reply.head)
            hash = reply.hash if last == reply.head else 0
            track = self._tracks[reply.channel] = ChannelTrack(reply.channel, last, hash)
        self._enter(track, reply.number, reply.head, reply.hash, now_ms)

    def opened(self, event: OpenedEvent, now_ms: int) -> None:
        self.joined(JoinReply(event.channel, event.number, event.head, event.hash), now_ms)

    def forget(self, channel: str) -> None:
        """The session is no longer in it, and does not want to be."""
        track = self._tracks.pop(channel, None)
        if track is None:
            return
        self._by_number.pop(track.number, None)
        self._due.pop(channel, None)
        self._failures.pop(channel, None)
        if track.anchored and channel_kind(channel) == "dm":
            self._direct_heads[channel] = track.last

    # What comes in

    def deliver(self, number: int, entry: Entry, now_ms: int) -> None:
        track = self._by_number.get(number)
        if track is not None:
            self._apply(track, track.live(entry), now_ms)

    def gap(self, number: int, first: int, last: int, now_ms: int) -> None:
        track = self._by_number.get(number)
        if track is not None:
            self._apply(track, track.gap(first, last), now_ms)

    # Private

    def _forget_places(self, welcome: Welcome) -> None:
        for track in self._tracks.values():
            track.anchor(UNKNOWN_ID, 0)
        directs = {name: state.head for name, state in welcome.conversations.items() if channel_kind(name) == "dm"}
        self._direct_heads = directs
        self._known_from_ms = welcome.time_ms - CLOCK_SLACK_MS
        self._knows_all_directs = len(welcome.conversations) < MAX_CONVERSATIONS

    def _enter(self, track: ChannelTrack, number: int, head: int, hash: int, now_ms: int) -> None:
        is_new = not track.number
        self._by_number.pop(track.number, None)
        track.number = number
        self._by_number[number] = track
        self._direct_heads.pop(track.channel, None)
        self._failures.pop(track.channel, None)
        # An answer to a join on a connection that is in the channel already may be older than what was delivered.
        self._apply(track, track.enter(head, hash) if is_new else track.learn_goal(head), now_ms)
        self._owner.channel_entered(track.channel, now_ms)

    def _take_direct(self, channel: str, head: int, read: int, now_ms: int) -> None:
        """A private chat, as WELCOME tells it after the session was away."""
        track = self._tracks.get(channel)
        if track is None:
            track = self._unjoined_direct(channel, read)
            if head <= track.last:
                return
            self._tracks[channel] = track
            self._join_again(channel, now_ms)
        self._apply(track, track.learn_goal(head), now_ms)

    def _unjoined_direct(self, channel: str, read: int) -> ChannelTrack:
        if channel in self._direct_heads:
            return ChannelTrack(channel, self._direct_heads[channel])
        if self._knows_all_directs:
            return ChannelTrack(channel, NO_ID)  # it was not there at the first welcome: it began since
        return ChannelTrack(channel, read, shown_from_ms=self._known_from_ms)

    def _join_again(self, channel: str, now_ms: int) -> None:
        def answered(answer: bytes | ChatError, now: int) -> None:
            if channel not in self._tracks:
                return  # left in the meantime
            if isinstance(answer, bytes):
                self.joined(_decode_join_reply(answer), now)
            else:
                self._join_refused(channel, answer, now)

        self._owner.request_quietly(Operation.JOIN, ChannelRequest(channel), answered, now_ms)

    def _join_refused(self, channel: str, error: ChatError, now_ms: int) -> None:
        if error.retry:
            self._due[channel] = now_ms + self._delay_ms(channel, error)
            return
        self.forget(channel)
        self._owner.channel_lost(channel, error)

    def _delay_ms(self, channel: str, error: ChatError) -> int:
        failures = self._failures.get(channel, 0)
        self._failures[channel] = failures + 1
        return max(error.retry_after_ms, min(FIRST_DELAY_MS << failures, LAST_DELAY_MS))

    def _apply(self, track: ChannelTrack, progress: Progress, now_ms: int) -> None:
        channel = track.channel
        for after, before in progress.truncated:
            self._owner.emit(events.HistoryTruncated(channel, after, before))
        for id in progress.mismatches:
            self._owner.emit(events.HashMismatch(channel, id))
        for entry in progress.shown:
            own = entry.sender == self._player
            self._owner.emit(events.Message(channel, entry.id, entry.sender, entry.body, entry.time, own))
        if progress.sync_after is None:
            return
        if progress.delayed:
            self._due[channel] = now_ms + min(FIRST_DELAY_MS << track.empty_syncs, LAST_DELAY_MS)
        else:
            self._sync(track, now_ms)

    def _sync(self, track: ChannelTrack, now_ms: int) -> None:
        def answered(answer: bytes | ChatError, now: int) -> None:
            if self._tracks.get(track.channel) is not track:
                return
            if isinstance(answer, bytes):
                self._failures.pop(track.channel, None)
                reply = _decode_sync_reply(answer)
                self._apply(track, track.synced(reply.entries, reply.more), now)
            elif answer.retry:
                self._due[track.channel] = now + self._delay_ms(track.channel, answer)
            else:
                self.forget(track.channel)
                self._owner.channel_lost(track.channel, answer)

        request = SyncRequest(track.channel, after=track.last, limit=SYNC_LIMIT)
        self._owner.request_quietly(Operation.SYNC, request, answered, now_ms)
