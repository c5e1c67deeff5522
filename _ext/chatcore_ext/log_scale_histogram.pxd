"""Percentiles of durations without keeping them: counts in buckets of 1/64 of a power of two.

A value is known to 1.6 %, whatever its size (the idea of HdrHistogram, fixed at one precision). Counts only: never
looks at a clock, never rescales, and two histograms add up bucket by bucket.
"""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #define LEADING_ZEROS(value) ((unsigned)__builtin_clzll(value))
    """
    uint32_t LEADING_ZEROS(uint64_t value) noexcept nogil

cdef enum:
    HISTOGRAM_STEPS = 64           # buckets in a power of two
    HISTOGRAM_BUCKETS = 58 * 64    # up to 2^63

# All zero is a valid, empty histogram. Values have any unit, the same for all.
cdef struct LogScaleHistogram:
    uint64_t count
    uint64_t largest
    uint64_t[HISTOGRAM_BUCKETS] buckets


cdef inline uint32_t histogram_bucket(uint64_t value) noexcept nogil:
    cdef uint32_t shift
    if value < HISTOGRAM_STEPS:
        return <uint32_t>value
    shift = 57 - LEADING_ZEROS(value)    # leaves 7 bits, the highest of them set
    return shift * HISTOGRAM_STEPS + <uint32_t>(value >> shift)


# The largest value that lands in the bucket.
cdef inline uint64_t histogram_upper_end(uint32_t bucket) noexcept nogil:
    cdef uint32_t shift
    if bucket < 2 * HISTOGRAM_STEPS:
        return bucket
    shift = bucket // HISTOGRAM_STEPS - 1
    return ((<uint64_t>(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) + 1) << shift) - 1


# Values from 2^63 on count as 2^63 - 1.
cdef inline void histogram_add(LogScaleHistogram* histogram, uint64_t value) noexcept nogil:
    if value >> 63:
        value = (<uint64_t>1 << 63) - 1
    histogram.buckets[histogram_bucket(value)] += 1
    histogram.count += 1
    if value > histogram.largest:
        histogram.largest = value


# {upper end: count} of the buckets that hold something.
cdef dict histogram_as_dict(const LogScaleHistogram* histogram)
