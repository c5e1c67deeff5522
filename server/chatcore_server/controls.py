"""Control records: changes of rights, told to all servers through the log of the channel that they are about.

Each is written after the relations have the change, and applied by every reader alike, in the log's order. Holds what
they say and what was seen lately, not what is done about it: that is groups.py and social.py.
"""

from typing import NamedTuple

import msgspec


class Control(msgspec.Struct, tag_field="control", frozen=True, omit_defaults=True):
    """Base of all. The channel that it is about is the record's own and not repeated."""


class MembersChanged(Control, tag="members_changed", frozen=True, omit_defaults=True):
    """On a group: each player's new role, b"" of a role = no longer a member; `by` did it."""

    changes: list[tuple[bytes, str]]
    by: bytes
    ended: bool = False  # the last member has left: the group is no more


class Blocked(Control, tag="blocked", frozen=True, omit_defaults=True):
    """On the private chat of both: `player` wants nothing of `other` any more."""

    player: bytes
    other: bytes


class Unblocked(Control, tag="unblocked", frozen=True, omit_defaults=True):
    """On the private chat of both. `still_blocked`: the other one has blocked too, as the relations knew it."""

    player: bytes
    other: bytes
    still_blocked: bool = False


AnyControl = MembersChanged | Blocked | Unblocked

encode_control = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(AnyControl)


def decode_control(body: bytes) -> AnyControl | None:
    """None for one that this version does not know: servers of two versions share a log during an upgrade."""
    try:
        control: AnyControl = _decoder.decode(body)
        return control
    except msgspec.ValidationError:
        return None


class _Seen(NamedTuple):
    serial: int
    time_ms: int
    blocking: dict[
        bytes, bool
    ]  # private chats: who has blocked (True) or unblocked (False) the other within the window


class RecentControls:
    """Which channels had a control within the replay window, and who blocks in them, as far as the window tells.

    Answers what a ticket or a look-up that is under way cannot know. Bounded by the window's time and by
    `max_channels`.
    """

    def __init__(self, window_ms: int, max_channels: int = 100_000) -> None:
        self._window_ms = window_ms
        self._max_channels = max_channels
        self._seen: dict[bytes, _Seen] = {}  # oldest first: an entry moves to the end with each control
        self._complete_since_ms = 0
        self.serial = 0

    def note(self, channel: bytes, time_ms: int, control: AnyControl) -> None:
        """In log order within a channel. time_ms is the log's."""
        old = self._seen.pop(channel, None)
        blocking = dict(old.blocking) if old else {}
        if isinstance(control, (Blocked, Unblocked)):
            blocking[control.player] = isinstance(control, Blocked)
        self.serial += 1
        self._seen[channel] = _Seen(self.serial, time_ms, blocking)
        self._forget(time_ms - self._window_ms)

    def _forget(self, before_ms: int) -> None:
        while self._seen:
            channel, oldest = next(iter(self._seen.items()))
            if oldest.time_ms >= before_ms:
                if len(self._seen) <= self._max_channels:
                    return
                self._complete_since_ms = max(self._complete_since_ms, oldest.time_ms + 1)
            del self._seen[channel]

    def changed_since(self, channel: bytes, time_ms: int) -> bool:
        """There was, or may have been, a control on the channel at or after this time of the log."""
        seen = self._seen.get(channel)
        return time_ms < self._complete_since_ms or (seen is not None and seen.time_ms >= time_ms)

    def changed_after(self, channel: bytes, serial: int) -> bool:
        """There was a control on the channel after `self.serial` had this value."""
        seen = self._seen.get(channel)
        return seen is not None and seen.serial > serial

    def blocks_after(self, serial: int, player: bytes) -> list[tuple[bytes, bool]]:
        """Whom the player blocks (True) or not (False) by controls of channels that had one since `self.serial` was
        this.
        """
        found: list[tuple[bytes, bool]] = []
        for channel, seen in reversed(self._seen.items()):
            if seen.serial <= serial:
                break
            if player in seen.blocking:
                found.append((other_player(channel, player), seen.blocking[player]))
        return found

    def is_blocked(self, channel: bytes) -> bool:
        """One of the private chat's players is known to have blocked the other within the window."""
        seen = self._seen.get(channel)
        return seen is not None and any(seen.blocking.values())


def other_player(channel: bytes, player: bytes) -> bytes:
    """The other one of a private chat's two players."""
    _, first, second = channel.split(b":")
    return second if first == player else first
