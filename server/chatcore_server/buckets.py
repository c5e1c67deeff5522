"""Token buckets for what happens per login or request and not per frame: one for each address or player that used any.

The limits per frame are the hub's. Decides nothing but how long somebody has to wait.
"""

import time
from collections.abc import Hashable
from typing import Generic, TypeVar

from chatcore_ext.token_bucket import TokenBucket

Key = TypeVar("Key", bound=Hashable)
MAX_KEYS = 65_536  # about 200 bytes each; beyond it the one that was used longest ago is forgotten
_FORGOTTEN_AT_ONCE = 2  # with every new key, so the memory follows the use


def monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class KeyedBuckets(Generic[Key]):
    """A bucket is made full when its key is first used, and forgotten when it is full again. Loop thread only."""

    def __init__(self, rate_per_second: int, burst: int) -> None:
        self._buckets: dict[Key, tuple[TokenBucket, int]] = {}  # and when it was used last; the longest ago is first
        self._rate = self._burst = 0
        self.set_limit(rate_per_second, burst)

    def set_limit(self, rate_per_second: int, burst: int) -> None:
        """Another one makes all buckets full."""
        if (rate_per_second, burst) == (self._rate, self._burst):
            return
        self._rate = rate_per_second
        self._burst = burst
        self._full_after_ms = burst * 1000 // rate_per_second + 1
        self._buckets.clear()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: Key, now_ms: int, amount: int = 1) -> int:
        """0: taken. Otherwise nothing is, and it is the ms after which it would be."""
        found = self._buckets.pop(key, None)
        if found is None:
            self._forget(now_ms)
            found = (TokenBucket(self._rate, self._burst, now_ms), now_ms)
        self._buckets[key] = (found[0], now_ms)
        return found[0].take(now_ms, amount)

    def wait(self, key: Key, now_ms: int) -> int:
        """What `take` would answer, and nothing is taken."""
        found = self._buckets.get(key)
        return found[0].wait(now_ms) if found else 0

    def _forget(self, now_ms: int) -> None:
        for _ in range(_FORGOTTEN_AT_ONCE):
            oldest = next(iter(self._buckets.items()), None)
            if oldest is None:
                return
            key, (_, used_ms) = oldest
            if len(self._buckets) < MAX_KEYS and now_ms - used_ms < self._full_after_ms:
                return
            del self._buckets[key]
