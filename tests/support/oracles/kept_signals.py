"""A slow, obvious model of the signals that wait for one receiver: a list of all that it may still be told."""

from collections.abc import Callable

HEADER_SIZE = 4
ENTRY_SIZE = 16  # beside the frame
MOST = 4096  # bytes of entries; constants.pxd
TYPING, TYPING_MS = 1, 5000

Key = tuple[int, int, bytes]  # channel, kind, sender


class KeptSignalsModel:
    def __init__(self) -> None:
        self.kept: list[tuple[Key, bytes, int]] = []  # with body and time, the oldest first
        self.n_coalesced = 0
        self.n_left_out = 0

    def keep(self, key: Key, body: bytes, now_ms: int) -> None:
        self.n_coalesced += 1
        self._remove(lambda kept: kept == key)
        self.kept.append((key, body, now_ms))
        while sum(self._size(*entry) for entry in self.kept) > MOST:
            self.kept.pop(0)
            self.n_left_out += 1

    def leave(self, channel: int) -> None:
        self._remove(lambda kept: kept[0] == channel)

    def hide(self, sender: bytes) -> None:
        self._remove(lambda kept: kept[2] == sender)

    def tell(self, now_ms: int) -> list[tuple[int, int, bytes, bytes]]:
        told = [
            (channel, kind, sender, body)
            for (channel, kind, sender), body, since in self.kept
            if kind != TYPING or now_ms - since <= TYPING_MS
        ]
        self.n_left_out += len(self.kept) - len(told)
        self.kept = []
        return told

    def _remove(self, goes: Callable[[Key], bool]) -> None:
        staying = [entry for entry in self.kept if not goes(entry[0])]
        self.n_left_out += len(self.kept) - len(staying)
        self.kept = staying

    @staticmethod
    def _size(key: Key, body: bytes, _since: int) -> int:
        frame = HEADER_SIZE + 6 + len(key[2]) + len(body)
        return (ENTRY_SIZE + frame + 7) // 8 * 8
