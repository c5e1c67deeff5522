/*
 * Percentiles of durations without keeping them: buckets of 1/64 of a power of two, so a percentile is at most 1.6 % too
 * high. Holds nanoseconds from 0 to 2^63.
 */
#ifndef CHATCORE_BENCHMARKS_HISTOGRAM_H
#define CHATCORE_BENCHMARKS_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_STEPS = 64, HISTOGRAM_BUCKETS = 58 * HISTOGRAM_STEPS };

struct histogram {
    uint64_t count;
    uint64_t largest;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

static inline uint32_t histogram_bucket(uint64_t value)
{
    if (value < HISTOGRAM_STEPS)
        return (uint32_t)value;
    uint32_t shift = 57 - (uint32_t)__builtin_clzll(value); /* leaves 7 bits, the highest of them set */
    return shift * HISTOGRAM_STEPS + (uint32_t)(value >> shift);
}

static inline uint64_t histogram_upper_end(uint32_t bucket)
{
    if (bucket < 2 * HISTOGRAM_STEPS)
        return bucket;
    uint32_t shift = bucket / HISTOGRAM_STEPS - 1;
    return (((uint64_t)(bucket % HISTOGRAM_STEPS + HISTOGRAM_STEPS) + 1) << shift) - 1;
}

static inline void histogram_add(struct histogram *histogram, uint64_t value)
{
    uint32_t bucket = value >> 62 ? HISTOGRAM_BUCKETS - 1 : histogram_bucket(value);
    histogram->buckets[bucket]++;
    histogram->count++;
    if (value > histogram->largest)
        histogram->largest = value;
}

/* The value that `share` (0-1) of all values do not exceed. */
static inline uint64_t histogram_percentile(const struct histogram *histogram, double share)
{
    uint64_t needed = (uint64_t)(share * (double)histogram->count + 0.5);
    uint64_t below = 0;
    for (uint32_t bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
        below += histogram->buckets[bucket];
        if (below >= needed && below > 0) {
            uint64_t end = histogram_upper_end(bucket);
            return end < histogram->largest ? end : histogram->largest;
        }
    }
    return histogram->largest;
}

#endif
