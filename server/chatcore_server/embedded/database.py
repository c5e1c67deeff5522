"""The file of the embedded store: its folder's lock, its identity, its tables, its connections.

Never holds a thread, and knows nothing of what the tables mean.
"""

import contextlib
import fcntl
import os
import secrets
import sqlite3
from pathlib import Path
from typing import Literal

FILE_NAME = "chatcore.sqlite3"
LOCK_NAME = "chatcore.lock"
APPLICATION_ID = 0x63686174  # "chat"; SQLite's file format, section 1.3.16
SCHEMA_VERSION = 1
OLDEST_SQLITE = (3, 38, 0)  # the first whose JSON functions are always there; log_rows.py says what for
CACHE_KIB = 65_536  # the writer's page cache: the index leaves of a few thousand busy channels
CHECKPOINT_PAGES = 4_000  # 16 MiB of write-ahead log between checkpoints: index leaves are rewritten less often
JOURNAL_LIMIT = 64 << 20  # bytes of write-ahead log file that are kept after a burst
RESERVED_BYTES = 17 << 20  # of write-ahead log file from the start: those between checkpoints and their 24-byte headers
_CHECK_PERMISSIONS = "Check the owner and the permissions of the data folder and of the files in it"

SCHEMA = """
CREATE TABLE store (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- position = partition << 48 | offset. prev IS NULL: in the log, but not in history (a later copy of a send, or no
-- message). hash: the chain after this message, the u64 as SQLite's signed integer. sender_tag: see log_rows.py.
CREATE TABLE log (
    position INTEGER PRIMARY KEY, time INTEGER NOT NULL, channel BLOB NOT NULL, value BLOB NOT NULL,
    prev INTEGER, hash INTEGER, sender_tag INTEGER
);
CREATE INDEX history ON log (channel, position, sender_tag) WHERE prev IS NOT NULL;

-- What retention must remember of what it removed: the next offsets, and the heads of channels with nothing left.
CREATE TABLE partitions (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL);
CREATE TABLE trimmed_heads (
    channel BLOB PRIMARY KEY, id INTEGER NOT NULL, hash INTEGER NOT NULL, time INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX trimmed_by_time ON trimmed_heads (time);

-- Which private chats a player has.
CREATE TABLE conversations (player BLOB, channel BLOB, PRIMARY KEY (player, channel)) WITHOUT ROWID;
CREATE TABLE read_marks (channel BLOB, player BLOB, id INTEGER NOT NULL, PRIMARY KEY (channel, player)) WITHOUT ROWID;
CREATE TABLE ended_sessions (session INTEGER PRIMARY KEY, until_ms INTEGER NOT NULL);
CREATE INDEX ended_by_time ON ended_sessions (until_ms);

-- Every name that was ever a group's: who takes an ended one again would read its history.
CREATE TABLE groups (channel BLOB PRIMARY KEY) WITHOUT ROWID;
-- number: in order of coming, for "the oldest officer".
CREATE TABLE members (
    number INTEGER PRIMARY KEY AUTOINCREMENT, channel BLOB NOT NULL, player BLOB NOT NULL, role TEXT NOT NULL,
    UNIQUE (channel, player)
);
CREATE INDEX memberships ON members (player);
CREATE TABLE blocks (player BLOB, other BLOB, PRIMARY KEY (player, other)) WITHOUT ROWID;
CREATE TABLE friends (player BLOB, other BLOB, PRIMARY KEY (player, other)) WITHOUT ROWID;
CREATE INDEX befriended ON friends (other);
"""


class EmbeddedStoreError(Exception):
    """The store cannot be opened. The text says why; `fix` what the operator can do."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(f"{reason}. {fix}")
        self.reason = reason
        self.fix = fix


def signed(value: int) -> int:
    """A u64 as SQLite can keep it."""
    return value - (1 << 64) if value >> 63 else value


def unsigned(value: int) -> int:
    return value & 0xFFFF_FFFF_FFFF_FFFF


class FolderLock:
    """Held by the one server that uses a data folder; the kernel frees it when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        """Creates the folder if need be. Raises EmbeddedStoreError if another server holds it."""
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EmbeddedStoreError(
                f"cannot use the data folder {folder}: {error.strerror}", "Name a folder that this user may write to"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise EmbeddedStoreError(
                f"the data folder {folder} is in use by another server (process {holder})",
                "Stop that server or give this one a data folder of its own",
            ) from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        os.close(self._descriptor)


def connect_writer(path: Path, synchronous: Literal["full", "normal"], partitions: int) -> sqlite3.Connection:
    """The one connection that writes. Creates the file and its tables if there are none, else checks that it is ours.

    Raises EmbeddedStoreError. The connection belongs to the thread that uses it first, but may be handed over whole.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise EmbeddedStoreError(
            f"this Python has SQLite {sqlite3.sqlite_version}", "chatcore needs a Python with SQLite 3.38 or newer"
        )
    _create_for_one_user(path)
    try:
        with contextlib.closing(_open(path)) as connection:
            _check_identity(connection, path)
            _set_up(connection, partitions)
            _check_partitions(connection, path, partitions)
            _check_writable(connection)
        _reserve_journal(path)
        connection = _open(path)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT}")
        connection.execute("PRAGMA secure_delete = fast")
        return connection
    except sqlite3.Error as error:
        raise open_error(path, error) from error


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that reads what is committed. Raises EmbeddedStoreError."""
    try:
        connection = _open(path)
        connection.execute("PRAGMA query_only = 1")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB // 4}")
        return connection
    except sqlite3.Error as error:
        raise open_error(path, error) from error


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)


def read_epoch(connection: sqlite3.Connection) -> str:
    return str(connection.execute("SELECT value FROM store WHERE name = 'epoch'").fetchone()[0])


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application_id == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
        return  # new, or its creation was cut short before the tables were there
    if application_id != APPLICATION_ID:
        raise EmbeddedStoreError(
            f"{path} is a SQLite file of another program", "Move it away or name another data folder"
        )
    if version > SCHEMA_VERSION:
        raise EmbeddedStoreError(
            f"{path} was written by a newer chatcore (schema {version}, this one knows {SCHEMA_VERSION})",
            "Install that version again or name another data folder",
        )


def _set_up(connection: sqlite3.Connection, partitions: int) -> None:
    mode = connection.execute("PRAGMA journal_mode = wal").fetchone()[0]
    if mode != "wal":
        raise EmbeddedStoreError(
            f"the data folder's file system cannot do write-ahead logging (journal mode {mode})",
            "Put the data folder on a local disk",
        )
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        _create_tables(connection, partitions)


def _reserve_journal(path: Path) -> None:
    """Zeros for a write-ahead log, where SQLite has none: it takes a file without a valid header for an empty log, and
    writes from its beginning (walIndexRecover in its wal.c). A commit that makes the file longer has to force the new
    length to the disk, too: a second write.
    """
    journal = path.with_name(path.name + "-wal")
    try:
        descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:  # not empty: the last server was killed; or not writable: SQLite says so, and better
        return
    try:
        with open(descriptor, "wb") as file:
            file.write(bytes(RESERVED_BYTES))
            file.flush()
            os.fsync(descriptor)
    except OSError:  # no room for it: the log takes what it needs, while there is some
        journal.unlink()


def _create_tables(connection: sqlite3.Connection, partitions: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statement in SCHEMA.split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute("INSERT INTO store VALUES ('epoch', ?)", (secrets.token_hex(8),))
    connection.executemany("INSERT INTO partitions VALUES (?, 1)", [(number,) for number in range(partitions)])
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")


def _check_partitions(connection: sqlite3.Connection, path: Path, partitions: int) -> None:
    found = connection.execute("SELECT count(*) FROM partitions").fetchone()[0]
    if found != partitions:
        raise EmbeddedStoreError(
            f"{path} has {found} partitions, the configuration says {partitions}",
            f"Set partitions to {found}, or start with a new data folder",
        )


def _check_writable(connection: sqlite3.Connection) -> None:
    """SQLite takes a write-ahead log that it may only read, too, and says so at the first change; this one is taken
    back. Raises sqlite3.Error."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    connection.execute("ROLLBACK")


def _create_for_one_user(path: Path) -> None:
    """What players say is nobody else's on this machine, even in a folder that was there before and lets others in.
    SQLite gives its other files the same mode. Raises EmbeddedStoreError if it cannot be written: SQLite would open it
    for reading, and leave files beside it that cannot be written either.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise EmbeddedStoreError(f"cannot write {path}: {error.strerror}", _CHECK_PERMISSIONS) from error


def open_error(path: Path, error: sqlite3.Error) -> EmbeddedStoreError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return EmbeddedStoreError(f"{path} is not a SQLite file", "Move it away or name another data folder")
    if code == sqlite3.SQLITE_CORRUPT:
        return EmbeddedStoreError(f"{path} is damaged: {error}", "Restore a copy, or move it away to start anew")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return EmbeddedStoreError(f"cannot write {path}: {error}", "Free space on its disk, or check the disk")
    if code == sqlite3.SQLITE_READONLY:
        return EmbeddedStoreError(f"cannot write {path}: {error}", _CHECK_PERMISSIONS)
    return EmbeddedStoreError(f"cannot open {path}: {error}", "Check the folder's owner, permissions and disk")
