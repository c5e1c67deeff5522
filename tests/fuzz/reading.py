"""Makes decisions out of a fuzzer's bytes, so that a small change of them is a small change of what a target does.

Never fails: bytes that are not there are zeros. It is what a target reads its input by, with the fuzzer and without.
"""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """There is something left."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """The next bytes; fewer where the input ends."""
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def number(self, size: int = 1) -> int:
        return int.from_bytes(self.take(size))

    def below(self, bound: int) -> int:
        """0 to bound - 1, at most 255."""
        return self.number() % bound

    def one_of(self, choices: Sequence[T]) -> T:
        return choices[self.below(len(choices))]

    def text(self, longest: int = 255) -> bytes:
        """Its length comes first, in one byte."""
        return self.take(min(self.number(), longest))
