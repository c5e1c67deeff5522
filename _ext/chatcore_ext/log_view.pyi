from typing import final

@final
class LogView:
    """What one reader of the log knows: which (session, seq) it has seen, and each channel's last id and hash.

    Every reader that is fed the same records of a partition in the same order decides alike: nothing here depends on a
    clock, on other partitions or on other readers.
    """
    def __init__(self, *, window_ms: int = ..., max_heads: int = ..., chain_idle_ms: int = ...) -> None: ...
    def place(self, partition: int, offset: int, time: int, channel: bytes, record: bytes) -> tuple[int, int] | None:
        """Take the next message record in. Returns (prev, hash), or None if it is a later copy of one already seen.

        prev is 2**64-1 and hash 0 where the channel's head is not known. Raises ValueError if the record is malformed."""
    def head(self, channel: bytes) -> tuple[int, int] | None:
        """(id, hash) of the channel's last message, None if not known."""
    def learn_head(self, channel: bytes, id: int, hash: int, time: int) -> None:
        """What history says: ignored if the log has already told something newer. id 0 = the channel is empty."""
    def pin(self, channel: bytes) -> None: ...
    def unpin(self, channel: bytes) -> None: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def n_windows(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
