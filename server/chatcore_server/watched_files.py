"""Tells when files have changed on disk, by looking at them now and then. Never reads them."""

import os
from collections.abc import Iterable


class WatchedFiles:
    """A change is a new time, size or inode: a file that was written over, replaced, or is behind a link that leads
    elsewhere now. A file that comes or goes has changed, too.
    """

    def __init__(self, files: Iterable[str]) -> None:
        """Create it before reading them: what changes in between is then seen at the next look."""
        self._files = tuple(files)
        self._seen = self._look()

    def have_changed(self) -> bool:
        """Since the last call, or since it was created."""
        before, self._seen = self._seen, self._look()
        return self._seen != before

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_state(file) for file in self._files]


def _state(file: str) -> tuple[int, int, int] | None:
    """None: it is not there, or out of reach."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
