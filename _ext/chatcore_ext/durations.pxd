"""How long things took, in fixed buckets, for histograms of /metrics.

Exact at the buckets' bounds, which never change: a monitoring system adds the counts of many workers up. Counts only:
never looks at a clock. (log_scale_histogram.pxd is for percentiles of one run, and knows no bounds.)
"""

cdef extern from *:
    """
    /* us: 100 us to 10 s, three to a power of ten. What is over the last is in one more bucket. */
    static const unsigned long long DURATION_BOUNDS[] = {
        100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000, 1000000, 2500000, 5000000,
        10000000
    };
    """
    const unsigned long long[] DURATION_BOUNDS

cdef enum:
    N_DURATION_BOUNDS = 16


# All zero is a valid, empty histogram.
cdef struct Durations:
    unsigned long long[N_DURATION_BOUNDS + 1] counts  # of each bucket alone
    unsigned long long sum     # us


cdef inline void durations_add(Durations* durations, unsigned long long duration_us) noexcept nogil:
    cdef int bucket = 0
    while bucket < N_DURATION_BOUNDS and duration_us > DURATION_BOUNDS[bucket]:
        bucket += 1
    durations.counts[bucket] += 1
    durations.sum += duration_us


# As DurationHistogram.snapshot in durations.pyi.
cdef tuple durations_as_tuple(const Durations* durations)
