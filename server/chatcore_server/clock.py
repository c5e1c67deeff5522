"""The time that the server goes by where it must outlive the process: tickets, ends of sessions, records.

The machine's clock may be set back. Time here stands still until it has caught up, so nothing that was over is valid
again. What only measures how long something takes uses the loop's clock.
"""

import time
from collections.abc import Callable


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Clock:
    """Ms since 1970 that never go back. Any thread; two that ask at the same moment may be told a ms apart."""

    def __init__(self, wall: Callable[[], int] = wall_clock_ms) -> None:
        self._wall = wall
        self._last = 0

    def now_ms(self) -> int:
        now = self._wall()
        if now > self._last:
            self._last = now
        return self._last


_server_clock = Clock(lambda: wall_clock_ms())  # looked up at each call, so that a test can set it back


def now_ms() -> int:
    """The server's time."""
    return _server_clock.now_ms()
