"""One channel as a client session follows it: what comes next, what was seen, what is missing.

Decides which entries are shown and when a sync is needed (docs/protocol.md, "Receiving"). Sends nothing, knows no
clock.
"""

from dataclasses import dataclass, field

from chatcore.operations import Entry
from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.constants import NO_ID, UNKNOWN_ID, DeliverFlag

MAX_HELD = 1000
"""Live entries held back during a sync. What comes beyond is dropped: it shows as a hole later and is synced then."""

MAX_EMPTY_SYNCS = 12
"""Syncs without progress before a hole is taken for good: with the delays of session.py about half a minute."""


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

    `last` and `hash` are the newest entry that was shown (or the channel's head when it was joined). `number` is the
    channel's number on this connection, 0 while it has none. `anchored` False: the next entry is taken as it comes.
    """

    def __init__(self, channel: str, last: int = NO_ID, hash: int = 0, *, wanted: bool = True) -> None:
        self.channel = channel
        self.number = 0
        self.wanted = wanted  # the player joined it: join it again after a reconnect
        self.last = last
        self.hash = hash
        self.anchored = last != UNKNOWN_ID
        self.syncing = False
        self.empty_syncs = 0
        self._held: list[Entry] = []
        if not self.anchored:
            self.last = NO_ID

    def anchor(self, head: int, hash: int) -> None:
        """Forget what was before `head`."""
        self.anchored = head != UNKNOWN_ID
        self.last = head if self.anchored else NO_ID
        self.hash = hash if self.anchored else 0
        self.stop_sync()

    def stop_sync(self) -> None:
        """The connection is gone, and with it every answer under way."""
        self.syncing = False
        self.empty_syncs = 0
        self._held.clear()

    def compare(self, head: int, hash: int) -> Progress:
        """The channel's head on a new connection: sync if it is ahead."""
        progress = Progress()
        if not self.anchored:
            self.anchor(head, hash)
        elif head == UNKNOWN_ID or head > self.last:
            self._start_sync(progress)
        elif head < self.last:
            # An idle channel starts a new chain (head 0). Anything else lost what was shown before.
            if head != NO_ID:
                progress.mismatches.append(self.last)
            self.anchor(head, hash)
        elif hash and self.hash and hash != self.hash:
            progress.mismatches.append(head)
            self.hash = hash
        return progress

    def live(self, entry: Entry) -> Progress:
        """An entry from DELIVER."""
        progress = Progress()
        if entry.id <= self.last and self.anchored:
            return progress
        if self.syncing:
            self._hold(entry)
        elif self._follows(entry):
            self._show(entry, progress)
        else:
            self._hold(entry)
            self._start_sync(progress)
        return progress

    def gap(self, last: int) -> Progress:
        """The server left out everything up to `last`."""
        progress = Progress()
        if self.anchored and last > self.last and not self.syncing:
            self._start_sync(progress)
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
        self.empty_syncs = 0 if self.last > before else self.empty_syncs + 1
        if more and self.last > before:
            progress.sync_after = self.last
        else:
            self._release(progress)
        return progress

    def sync_failed(self) -> Progress:
        """The sync was refused for now: it counts as one without progress."""
        return self.synced([], False)

    # Private

    def _follows(self, entry: Entry) -> bool:
        return not self.anchored or entry.prev in (self.last, NO_ID)

    def _hold(self, entry: Entry) -> None:
        if len(self._held) < MAX_HELD:
            self._held.append(entry)

    def _start_sync(self, progress: Progress) -> None:
        self.syncing = True
        progress.sync_after = self.last

    def _take_from_history(self, entry: Entry, progress: Progress) -> None:
        if not self._follows(entry):
            progress.truncated.append((self.last, entry.id))
            self.hash = 0
        self._show(entry, progress)

    def _show(self, entry: Entry, progress: Progress) -> None:
        self._check_hash(entry, progress)
        self.last = entry.id
        self.anchored = True
        if not entry.flags & DeliverFlag.DELIVER_HIDDEN:
            progress.shown.append(entry)

    def _check_hash(self, entry: Entry, progress: Progress) -> None:
        if entry.flags & DeliverFlag.DELIVER_HIDDEN or not (self.hash or entry.prev == NO_ID) or not self.anchored:
            self.hash = entry.hash  # nothing to compute it from: take it over
            return
        base = 0 if entry.prev == NO_ID else self.hash
        expected = chain_hash(base, entry.id, entry.sender.encode(), entry.body)
        if entry.hash and entry.hash != expected:
            progress.mismatches.append(entry.id)
        self.hash = entry.hash or expected

    def _release(self, progress: Progress) -> None:
        """History has no more: go on with what was held back, or wait for history to catch up."""
        held, self._held = self._held, []
        for place, entry in enumerate(held):
            if entry.id <= self.last:
                continue
            if not self._follows(entry):
                if self.empty_syncs <= MAX_EMPTY_SYNCS:
                    self._held = held[place:]
                    progress.sync_after = self.last
                    progress.delayed = True
                    return
                progress.truncated.append((self.last, entry.id))
                self.hash = 0
            self._show(entry, progress)
        self.stop_sync()
