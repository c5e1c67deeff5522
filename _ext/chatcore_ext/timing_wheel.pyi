from collections.abc import Callable
from typing import Self, final

@final
class TimingWheel:
    """Many deadlines, named by ints (64-bit). G. Varghese and A. Lauck, SOSP 1987, scheme 6. For tests and benchmarks
    of the C wheel.

    `n_slots` must be a power of two (ValueError); n_slots * tick_ms is one revolution, and deadlines may lie beyond it.
    """
    def __new__(cls, n_slots: int, tick_ms: int, now_ms: int) -> Self: ...
    def __len__(self) -> int: ...
    def insert(self, key: int, deadline_ms: int) -> None:
        """Set a deadline; if the key has one already, this one replaces it. One that has passed comes with the next
        tick."""
    def cancel(self, key: int) -> bool:
        """False if the key has no deadline."""
    def advance(self, now_ms: int, on_fired: Callable[[int], None] | None = None) -> list[int]:
        """The keys whose deadline has come, each once and never early; they are forgotten. Call it every tick: a
        deadline within a tick comes with the tick's end. A `now_ms` before an earlier one counts as that one.

        `on_fired(key)` is called for each in turn and may insert and cancel any key: what it inserts fires in a later
        call, what it cancels or moves does not fire in this one. Its first exception comes out at the end.
        RuntimeError if it calls `advance`."""
