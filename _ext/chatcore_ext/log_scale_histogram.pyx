"""Python's door to the log-scale histogram; log_scale_histogram.pxd has the algorithm."""

from libc.stdlib cimport calloc, free


cdef dict histogram_as_dict(const LogScaleHistogram* histogram):
    cdef uint32_t bucket
    return {
        histogram_upper_end(bucket): histogram.buckets[bucket]
        for bucket in range(<uint32_t>HISTOGRAM_BUCKETS) if histogram.buckets[bucket]
    }


def bucket_ends(list values not None):
    cdef LogScaleHistogram* histogram = <LogScaleHistogram*>calloc(1, sizeof(LogScaleHistogram))
    if histogram == NULL:
        raise MemoryError
    try:
        for value in values:
            histogram_add(histogram, value)
        return histogram_as_dict(histogram)
    finally:
        free(histogram)
