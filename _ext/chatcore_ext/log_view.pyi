from typing import Self, final

@final
class LogView:
    """What one reader of the log knows: which (session, seq) it has seen, and each channel's last id and hash.

    Every reader that is fed the same records of a partition in the same order decides alike: nothing here depends on a
    clock, on other partitions or on other readers.
    """
    def __new__(
        cls, *, window_ms: int = ..., max_heads: int = ..., chain_idle_ms: int = ..., since_ms: int = 0
    ) -> Self:
        """`window_ms`: a copy of a send is recognised at least this long after the first, by the log's time.
        `max_heads` bounds the channels that are remembered beside the pinned ones. A channel silent for longer than
        `chain_idle_ms` starts a new chain. `since_ms`: the reader starts with each partition's first record of this
        time or later; 0: with its very first. Raises ValueError for a window of 0.

        A reader that starts somewhere cannot tell at first whether a record is a later copy of one before its start.
        So it remembers no heads from the first 2 * window_ms after `since_ms`: place() says (2**64-1, 0) there, or
        None."""
    def place(self, partition: int, offset: int, time: int, channel: bytes, record: bytes) -> tuple[int, int] | None:
        """Take the next message record in. Returns (prev, hash), or None if it is a later copy of one already seen.

        Offsets must grow within a partition. prev is 2**64-1 and hash 0 where the channel's head is not known. Raises
        ValueError if the record is malformed or no message."""
    def head(self, channel: bytes) -> tuple[int, int] | None:
        """(id, hash) of the channel's last message: (0, 0) if it has none, None if it is not known."""
    def learn_head(self, channel: bytes, id: int, hash: int, time: int) -> None:
        """What history says. id 0 = the channel is empty.

        Ignored if the log has already told the channel's head; only a hash that is not known is completed, at once
        for the same id, or when the log comes to it. `time` is the log's, of that message. History must know every
        message that was placed here before, unless the head is pinned or still remembered. Raises ValueError for
        2**64-1."""
    def pin(self, channel: bytes) -> None:
        """Never forget this channel's head until `unpin` was called as often."""
    def unpin(self, channel: bytes) -> None:
        """Raises ValueError if it is not pinned."""
    @property
    def n_heads(self) -> int:
        """Channels whose head is known."""
    @property
    def n_windows(self) -> int:
        """Replay windows held; see ReplayWindow.n_entries."""
    @property
    def duplicates(self) -> int:
        """Later copies that `place` has refused so far."""
    @property
    def replay_ms(self) -> int:
        """How far back a reader should start: from now on it then decides like one that has read for ever, and it
        knows the heads that the last window_ms told. Three times window_ms."""
