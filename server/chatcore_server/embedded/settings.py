"""The settings of the embedded store: what an operator may choose, with units in the names. Never reads a file."""

from typing import Literal

import msgspec

from chatcore_ext.constants import DEFAULT_CHAIN_IDLE_MS, DEFAULT_REPLAY_WINDOW_MS

DAY_MS = 86_400_000


class EmbeddedSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the embedded store keeps, bounds and answers.

    `synchronous` "full" (default): a batch is acknowledged after it was forced to the disk; nothing acknowledged is
    ever lost. "normal": the file is forced to the disk only now and then; a crash or kill of the process still loses
    nothing, but a power cut or a crash of the operating system may take the last acknowledged messages with it (the
    file itself stays sound). It saves one fsync per batch: worth it only on slow disks, for chat that may lose its last
    second.

    Retention removes the oldest records first, by both bounds; 0 = for ever. Nothing younger than four times
    `replay_window_ms` is removed, whatever its size: readers that start need it. Freed pages are used again, the file
    does not shrink.
    """

    partitions: int = 4  # of a new file; an existing one must have as many
    synchronous: Literal["full", "normal"] = "full"
    retention_age_ms: int = 30 * DAY_MS
    retention_size_bytes: int = 1 << 30  # of the file's pages in use, all tables
    trim_interval_ms: int = 5_000  # how often the writer looks for something to remove
    trim_step_records: int = 500  # removed in one transaction: bounds how long appends wait
    max_queued_records: int = 50_000  # appended, without an outcome yet; beyond it LogFull
    max_queued_bytes: int = 64 << 20
    max_batch_records: int = 2_000  # one transaction; bounds the time between two outcomes
    max_batch_bytes: int = 4 << 20
    page_records: int = 1_000  # read at once by a tail that replays
    lookup_timeout_ms: int = 2_000  # then BackendUnavailable
    write_timeout_ms: int = 10_000  # of relations, read marks and the like; they wait for the disk
    retry_ms: int = 1_000  # after a failed batch, the next try for the disk
    replay_window_ms: int = DEFAULT_REPLAY_WINDOW_MS  # how long a resend is recognised as a later copy
    chain_idle_ms: int = DEFAULT_CHAIN_IDLE_MS  # a channel silent this long starts a new chain
    max_recent_sends: int = 131_072  # whose first copy's id `find` knows; about 250 bytes each

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= 1024:
            raise ValueError("partitions must be 1 to 1024")
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value < 0:
                raise ValueError(f"{name} must not be negative")
            if value == 0 and name not in ("retention_age_ms", "retention_size_bytes"):
                raise ValueError(f"{name} must be at least 1")
