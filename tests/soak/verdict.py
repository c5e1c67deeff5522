"""Whether a server has leaked, judged by what was sampled of it. Knows no server and no clock."""

import statistics
from collections.abc import Iterable, Sequence

from msgspec import Struct

# Of the time, at the beginning: the store's page caches fill, the allocator finds its size, tables grow to their load.
WARM_UP_SHARE = 1 / 3
PERIODS = 4
MIN_SAMPLES = 5  # in each of them
# What the medians of the first and the last period may be apart. Allocators take memory in arenas (Python: 1 MiB) and
# give back only what is empty, so a server that leaks nothing moves by about one of them. An hour at 27 connections a
# second has 49,000 of them between the middles of these periods: 32 bytes for each would be seen.
MAX_GROWTH_BYTES = 3 << 19


class Sample(Struct, array_like=True):
    at_s: float
    resident_bytes: int
    descriptors: int
    connections: int  # made since the start


class Growth(Struct):
    """`minutes` and `connections`: between the middles of the two periods that are compared."""

    bytes: int
    minutes: float
    connections: int

    @property
    def is_flat(self) -> bool:
        return self.bytes <= MAX_GROWTH_BYTES

    @property
    def bytes_per_minute(self) -> float:
        return self.bytes / self.minutes

    @property
    def bytes_per_connection(self) -> float:
        return self.bytes / max(self.connections, 1)


def growth(samples: Sequence[Sample]) -> Growth:
    """Of resident memory, from the first period after the warm-up to the last one: medians, so that a batch of work
    under way does not count. Raises ValueError if there is too little to judge."""
    start, end = samples[0].at_s, samples[-1].at_s
    first_s = start + (end - start) * WARM_UP_SHARE
    length = (end - first_s) / PERIODS
    first = [sample for sample in samples if first_s <= sample.at_s <= first_s + length]
    last = [sample for sample in samples if sample.at_s >= end - length]
    if min(len(first), len(last)) < MIN_SAMPLES:
        raise ValueError(f"{len(samples)} samples are too few")
    return Growth(
        _median(sample.resident_bytes for sample in last) - _median(sample.resident_bytes for sample in first),
        length * (PERIODS - 1) / 60,
        _median(sample.connections for sample in last) - _median(sample.connections for sample in first),
    )


def _median(values: Iterable[int]) -> int:
    return int(statistics.median(values))
