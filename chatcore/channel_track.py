"""One channel as a client session follows it: what comes next, what was seen, what is missing.

Decides which entries are shown and when a sync is needed (docs/protocol.md, "Receiving"). Sends nothing, knows no
clock.
"""

from dataclasses import dataclass, field

from chatcore.operations import Entry
from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.constants import NO_ID, UNKNOWN_ID, DeliverFlag

MAX_HELD = 500
"""Live entries held back during a sync. What comes beyond is dropped and comes by a later sync: the goal tells."""

MAX_EMPTY_SYNCS = 12
"""Syncs without progress before a hole is taken for good: with the delays of channel_book.py about half a minute."""


@dataclass(slots=True)
class Progress:
    """What an input led to, in this order: truncated (after, before), shown entries, wrong hashes (ids)."""

    shown: list[Entry] = field(default_factory=list)
    mismatches: list[int] = field(default_factory=list)
    truncated: list[tuple[int, int]] = field(default_factory=list)
    sync_after: int | None = None
    delayed: bool = False  # history has nothing new yet: sync, but not at once


class ChannelTrack:
    """The client's place in one channel.

    `last` and `hash` are the newest entry that was shown (or the channel's head when it was joined). `goal` is the
    highest id that the channel is known to have: a sync goes on until `last` is there. `number` is the channel's number
    on this connection, 0 while it has none. `anchored` False: the next entry is taken as it comes.
    """

    def __init__(self, channel: str, last: int = NO_ID, hash: int = 0, *, shown_from_ms: int = 0) -> None:
        self.channel = channel
        self.shown_from_ms = shown_from_ms  # what is older is passed over
        self.number = 0
        self.syncing = False
        self.empty_syncs = 0
        self._held: list[Entry] = []
        self.anchor(last, hash)

    def anchor(self, head: int, hash: int) -> None:
        """Go on from `head`, whatever was before."""
        self.anchored = head != UNKNOWN_ID
        self.last = head if self.anchored else NO_ID
        self.hash = hash if self.anchored else 0
        self.goal = self.last
        self.stop_sync()

    def stop_sync(self) -> None:
        """The connection is gone, and with it every answer under way; or there is nothing left to sync."""
        self.syncing = False
        self.empty_syncs = 0
        self._held.clear()

    def enter(self, head: int, hash: int) -> Progress:
        """The channel's head as told on entering it on a new connection: sync if it is ahead of what was shown."""
        progress = Progress()
        if not self.anchored:
            self.anchor(head, hash)
        elif head == UNKNOWN_ID:
            self._start_sync(progress)
        elif head >= self.last:
            self._reach(head, progress)
            if head == self.last and hash and self.hash and hash != self.hash:
                progress.mismatches.append(head)
                self.hash = hash
        elif head != NO_ID:
            # The log has lost what was shown. Its ids will be given again, so the old place means nothing.
            progress.mismatches.append(self.last)
            self.anchor(head, hash)
        # head 0: history has let everything go; the next message starts a new chain behind `last`.
        return progress

    def live(self, entry: Entry) -> Progress:
        """An entry from DELIVER."""
        progress = Progress()
        if self.anchored and entry.id <= self.last:
            return progress
        self.goal = max(self.goal, entry.id)
        if self.syncing:
            self._hold(entry)
        elif self._follows(entry):
            self._show(entry, progress)
        else:
            self._hold(entry)
            self._start_sync(progress)
        return progress

    def gap(self, first: int, last: int) -> Progress:
        """The server left out what lies in (first, last]."""
        progress = Progress()
        if not self.anchored:
            self.anchor(first, 0)
        if self.anchored:
            self._reach(last, progress)
        return progress

    def learn_goal(self, id: int) -> Progress:
        """The channel is known to have a message with this id."""
        progress = Progress()
        if self.anchored and id != UNKNOWN_ID:
            self._reach(id, progress)
        return progress

    def synced(self, entries: list[Entry], more: bool) -> Progress:
        """The answer to a sync after `last`."""
        progress = Progress()
        if not self.syncing:
            return progress
        before = self.last
        for entry in entries:
            if entry.id > self.last:
                self._take_from_history(entry, progress)
        if self.last > before:
            self.empty_syncs = 0
        elif not more:
            self.empty_syncs += 1
        if more and self.last > before:
            progress.sync_after = self.last
        else:
            self._release(progress)
        return progress

    # Private

    def _follows(self, entry: Entry) -> bool:
        return not self.anchored or entry.prev in (self.last, NO_ID)

    def _hold(self, entry: Entry) -> None:
        if len(self._held) < MAX_HELD:
            self._held.append(entry)

    def _reach(self, id: int, progress: Progress) -> None:
        self.goal = max(self.goal, id)
        if self.goal > self.last and not self.syncing:
            self._start_sync(progress)

    def _start_sync(self, progress: Progress) -> None:
        self.syncing = True
        progress.sync_after = self.last

    def _take_from_history(self, entry: Entry, progress: Progress) -> None:
        if not self._follows(entry):
            self._skip(entry.id, progress)
        self._show(entry, progress)

    def _skip(self, before: int, progress: Progress) -> None:
        progress.truncated.append((self.last, before))
        self.hash = 0

    def _show(self, entry: Entry, progress: Progress) -> None:
        self._check_hash(entry, progress)
        self.last = entry.id
        self.goal = max(self.goal, entry.id)
        self.anchored = True
        if not entry.flags & DeliverFlag.DELIVER_HIDDEN and entry.time >= self.shown_from_ms:
            progress.shown.append(entry)

    def _check_hash(self, entry: Entry, progress: Progress) -> None:
        starts = entry.prev == NO_ID
        if entry.flags & DeliverFlag.DELIVER_HIDDEN or not (starts or (self.hash and self.anchored)):
            self.hash = entry.hash  # nothing to compute it from: take it over
            return
        expected = chain_hash(0 if starts else self.hash, entry.id, entry.sender.encode(), entry.body)
        if entry.hash and entry.hash != expected:
            progress.mismatches.append(entry.id)
        self.hash = entry.hash or expected

    def _release(self, progress: Progress) -> None:
        """History has no more: go on with what was held back, or wait for history to catch up."""
        held, self._held = self._held, []
        patient = self.empty_syncs <= MAX_EMPTY_SYNCS
        for place, entry in enumerate(held):
            if entry.id <= self.last:
                continue
            if not self._follows(entry):
                if patient:
                    self._held = held[place:]
                    break
                self._skip(entry.id, progress)
            self._show(entry, progress)
        if self.last < self.goal and patient:
            progress.sync_after = self.last
            progress.delayed = self.empty_syncs > 0
            return
        if self.last < self.goal:
            self._skip(self.goal + 1, progress)
            self.last = self.goal
        self.stop_sync()
