from typing import Final, Self, final

REACH: Final[int]

@final
class ReplayWindow:
    """Which sends of which sessions one reader of the log has seen (RFC 6479, per session and partition).

    Time is the log's: per partition, the largest time of its records so far. A copy within `window_ms` of the first is
    always recognised. What a partition's records are told depends on that partition's records of the last `replay_ms`
    only.
    """
    def __new__(cls, window_ms: int = ...) -> Self:
        """Raises ValueError for 0."""
    def admit(self, session: int, partition: int, seq: int, time: int) -> bool:
        """Take the partition's next record in. True: the first copy. False: a later one, or REACH or more below the
        session's highest seq. Session 0 (the servers' own) is never a copy.

        Raises ValueError for a partition over 65,535."""
    def highest(self, session: int) -> int:
        """The highest seq of the session in any partition, as far as it is remembered: replay_ms at most. 0: none."""
    @property
    def window_ms(self) -> int: ...
    @property
    def replay_ms(self) -> int:
        """How far back a reader must start to decide, from then on, like one that has read for ever."""
    @property
    def n_entries(self) -> int:
        """Windows held, 48 bytes each: a session has one for each generation and partition that it sent in."""
