"""Tells the operator when the server cannot accept connections for want of descriptors or memory: once, not each time.

The hub pauses and resumes by itself.
"""

from chatcore_server.logging import get_logger

_QUIET_S = 1.0  # without another pause: it is over
_log = get_logger()


class AcceptWatch:
    """`look` a few times a second."""

    def __init__(self) -> None:
        self._n_pauses = 0
        self._paused_at = 0.0
        self._is_paused = False

    def look(self, n_pauses: int, now_s: float) -> None:
        """`n_pauses`: so far; `now_s`: the loop's time."""
        if n_pauses != self._n_pauses:
            self._n_pauses, self._paused_at = n_pauses, now_s
            if not self._is_paused:
                self._is_paused = True
                _log.warning("accepting_paused", reason="out of file descriptors or memory", fix="raise ulimit -n")
        elif self._is_paused and now_s - self._paused_at > _QUIET_S:
            self._is_paused = False
            _log.info("accepting_resumed", pauses=n_pauses)
