from typing import final

# (upper bound, values up to it) for each bucket, the last one's bound infinite, and the sum of all values.
Snapshot = tuple[list[tuple[float, int]], float]

@final
class DurationHistogram:
    """How long things took, from 100 us to 10 s and beyond. One thread may observe while another takes a snapshot."""

    def observe(self, seconds: float) -> None:
        """What is negative counts as 0."""
    def snapshot(self) -> Snapshot:
        """In seconds."""
