"""Python's door to duration histograms; durations.pxd has the buckets."""

cimport cython

Snapshot = tuple[list[tuple[float, int]], float]


cdef tuple durations_as_tuple(const Durations* durations):
    cdef:
        unsigned long long count = 0
        list buckets = []
        int bucket
    for bucket in range(N_DURATION_BOUNDS):
        count += durations.counts[bucket]
        buckets.append((DURATION_BOUNDS[bucket] / 1e6, count))
    buckets.append((float("inf"), count + durations.counts[<int>N_DURATION_BOUNDS]))
    return buckets, durations.sum / 1e6


@cython.final
cdef class DurationHistogram:
    cdef Durations durations

    def observe(self, double seconds):
        durations_add(&self.durations, <unsigned long long>(max(seconds, 0.0) * 1e6))

    def snapshot(self):
        return durations_as_tuple(&self.durations)
