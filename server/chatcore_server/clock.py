"""The time that the server goes by where it must outlive the process: tickets, ends of sessions, records.

The machine's clock may be set back, rightly or wrongly. Time here goes on at half its pace until that has caught up, so
nothing that was over is valid again, and what is to end does end. Tokens are somebody else's, who goes by the right
time: `lead_ms` says how far they are to be judged by another. What only measures how long something takes uses the
loop's clock.
"""

import time
from collections.abc import Callable

from chatcore_server.buckets import monotonic_ms

# How far the machine's clock may have been set back without anybody believing it: more than a step of NTP or a leap
# second, less than a token lives.
DISBELIEVED_MS = 120_000


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Clock:
    """Ms since 1970 that never go back. Any thread; two that ask at the same moment may be told a ms apart."""

    def __init__(self, wall: Callable[[], int] = wall_clock_ms, monotonic: Callable[[], int] = monotonic_ms) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._believed = (0, 0)  # the last time of the machine's clock that was not behind, and the monotonic one then

    def now_ms(self) -> int:
        now, monotonic = self._wall(), self._monotonic()
        believed, since = self._believed
        least = believed + (monotonic - since) // 2
        if now < least:
            return least
        self._believed = (now, monotonic)
        return now

    def lead_ms(self) -> int:
        """By how much this is ahead of the machine's clock, beyond what that may have been set back for nothing."""
        return max(self.now_ms() - self._wall() - DISBELIEVED_MS, 0)


_server_clock = Clock(lambda: wall_clock_ms())  # looked up at each call, so that a test can set it back


def now_ms() -> int:
    """The server's time."""
    return _server_clock.now_ms()


def lead_ms() -> int:
    """To be added to times that are somebody else's before they are compared with `now_ms`; nearly always 0."""
    return _server_clock.lead_ms()
