"""The server's clock, set forward by tests that would otherwise wait for tokens to expire."""

import pytest

from chatcore_server.clock import Clock, wall_clock_ms


class ShiftedClock:
    """Of all servers in this process. Back to what it was at the test's end, although it never goes back by itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead_ms = 0
        monkeypatch.setattr("chatcore_server.clock._server_clock", Clock(lambda: wall_clock_ms() + self._ahead_ms))

    def forward(self, seconds: float) -> None:
        self._ahead_ms += int(seconds * 1000)
