from collections.abc import Callable, Sequence
from typing import Final

from chatcore_ext.log_view import LogView

PARTITION_SHIFT: Final[int]
Row = tuple[int, int, bytes, bytes, int | None, int | None, int | None]

def place_appends(
    view: LogView,
    appends: Sequence[tuple[bytes, bytes, object]],
    next_offsets: list[int],
    time: int,
    learn: Callable[[bytes], None],
) -> tuple[list[Row], list[tuple[bytes, int]]]:
    """Give a batch of records - (channel, value, anything) - their places in a log of as many partitions as there are
    next offsets, which are moved on.

    Returns the rows of the embedded store's table `log`, in order: position (partition << 48 | offset), time, channel,
    value, and for a message that history has prev, hash (as SQLite keeps a u64) and the 32 bits of its sender's tag,
    otherwise None: later copies, and what is no message. And for each of the latter (key of the send, offset); the key
    is the record's session and seq, then the channel's name.

    `learn` is called for a channel whose head the view does not know, before a message of it is placed; it may tell the
    view. What it raises comes out of here, and then nothing is said of how much of the batch the view has taken in.
    """
