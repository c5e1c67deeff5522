"""How much of an embedded store's write-ahead log is in use: the file is longer from the start."""

from pathlib import Path

from chatcore_server.embedded.database import FILE_NAME


def journal_path(folder: Path) -> Path:
    return folder / (FILE_NAME + "-wal")


def used_journal_bytes(folder: Path) -> int:
    """Up to the last byte that is not zero. Of a store that has not written to its end yet."""
    return len(journal_path(folder).read_bytes().rstrip(b"\0"))
