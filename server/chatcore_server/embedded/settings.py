"""The settings of the embedded store. Never reads a file."""

from typing import Annotated, Literal

from chatcore_ext.constants import DEFAULT_CHAIN_IDLE_MS, DEFAULT_REPLAY_WINDOW_MS
from chatcore_server.setting import DAY_MS, Choice, Count, Duration, Size, Table

_MAX_FILE = (1 << 53) - 1  # bytes: more than SQLite can hold


class EmbeddedSettings(Table, frozen=True, kw_only=True):
    """How the embedded store keeps, bounds and answers.

    `synchronous` "full": a batch is acknowledged after it was forced to the disk; nothing acknowledged is ever lost.
    "normal": the file is forced to the disk only now and then; a crash or kill of the process still loses nothing, but
    a power cut or a crash of the operating system may take the last acknowledged messages with it (the file itself
    stays sound). It saves one fsync per batch: worth it only on slow disks, for chat that may lose its last second.

    Retention removes the oldest records first, by both bounds; 0 = for ever. Nothing younger than four times
    `replay_window_ms` is removed, whatever its size: readers that start need it. Freed pages are used again, the file
    does not shrink. The size is that of the log alone (log_size.py): were it that of the file, whatever else players
    may leave there would remove messages.
    """

    partitions: Annotated[int, Count(highest=1024, about="Of a new file; an existing one must have as many.")] = 4
    synchronous: Annotated[
        Literal["full", "normal"],
        Choice(about='"normal": a power cut may take the last acknowledged messages; saves one fsync per batch.'),
    ] = "full"
    retention_age_ms: Annotated[
        int, Duration(lowest=0, highest=36_500 * DAY_MS, about="Messages older than this are removed; 0 = never.")
    ] = 30 * DAY_MS
    retention_size_bytes: Annotated[
        int,
        Size(lowest=0, highest=_MAX_FILE, about="Of all messages; beyond it the oldest are removed; 0 = never."),
    ] = 1 << 30
    trim_interval_ms: Annotated[int, Duration(about="How often it is looked for something to remove.")] = 5_000
    trim_step_records: Annotated[int, Count(about="Removed in one transaction: bounds how long appends wait.")] = 500
    max_queued_records: Annotated[
        int, Count(about="Appended, without an outcome yet; beyond it sends are refused.")
    ] = 50_000
    max_queued_bytes: Annotated[int, Size(highest=_MAX_FILE, about="The same, by size.")] = 64 << 20
    max_batch_records: Annotated[int, Count(about="One transaction; bounds the time between two outcomes.")] = 2_000
    max_batch_bytes: Annotated[int, Size(about="The same, by size.")] = 4 << 20
    # A disk that hangs for seconds; about a kilobyte each.
    max_queued_lookups: Annotated[int, Count(about="Look-ups that wait; beyond it they are refused.")] = 20_000
    page_records: Annotated[int, Count(about="Read at once by a server that starts.")] = 1_000
    lookup_timeout_ms: Annotated[int, Duration(about="Then a look-up has failed.")] = 2_000
    write_timeout_ms: Annotated[
        int, Duration(about="Of friends, groups, read marks and the like; they wait for the disk.")
    ] = 10_000
    retry_ms: Annotated[int, Duration(about="After a failed batch, the next try for the disk.")] = 1_000
    max_recent_sends: Annotated[
        int, Count(about="Sends whose first copy's id is at hand when they are sent again; about 250 bytes each.")
    ] = 131_072
    # Those of [log], which all readers share.
    replay_window_ms: int = DEFAULT_REPLAY_WINDOW_MS
    chain_idle_ms: int = DEFAULT_CHAIN_IDLE_MS
