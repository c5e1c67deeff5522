"""Token buckets (RFC 2697, section 3, with one rate): limits how often something may happen, with room for a burst.

Plain structs inside whatever they limit; never allocates, never looks at a clock.
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t

cdef enum:
    # A thousandth of a token is what a rate of 1/s earns in 1 ms, so refills are exact integers: however short the
    # steps in which time passes, nothing is rounded away. (A double would drift, whole tokens would starve.)
    TOKEN = 1000
    MAX_BURST = 2147483        # tokens: INT32_MAX thousandths


# Eight bytes, for every player has some: the time is the clock's low half. A bucket that nobody asks for 24 days may
# take as many to notice that time has passed.
cdef struct Bucket:
    int32_t tokens             # thousandths
    uint32_t refilled_ms       # the time up to which `tokens` has been refilled


cdef inline void bucket_init(Bucket* bucket, int64_t burst, int64_t now_ms) noexcept nogil:
    """Full. `burst`, here and below: at most MAX_BURST."""
    bucket.tokens = <int32_t>(burst * TOKEN)
    bucket.refilled_ms = <uint32_t>now_ms


cdef inline void bucket_refill(Bucket* bucket, int64_t rate_per_second, int64_t burst, int64_t now_ms) noexcept nogil:
    cdef:
        int64_t capacity = burst * TOKEN
        int64_t elapsed = <int32_t>(<uint32_t>now_ms - bucket.refilled_ms)
    if elapsed > 0:
        bucket.refilled_ms = <uint32_t>now_ms
        # Divided, not multiplied: the product of a long silence and a high rate may not fit.
        if rate_per_second > 0:
            if elapsed > (capacity - bucket.tokens) // rate_per_second:
                bucket.tokens = <int32_t>capacity
            else:
                bucket.tokens += <int32_t>(elapsed * rate_per_second)
    # The burst may have been configured down since.
    if bucket.tokens > capacity:
        bucket.tokens = <int32_t>capacity


cdef inline int64_t bucket_take(
    Bucket* bucket, int64_t rate_per_second, int64_t burst, int64_t amount, int64_t now_ms
) noexcept nogil:
    """0: `amount` tokens are taken. Otherwise nothing is, and it is the milliseconds until it would succeed if nobody
    else took; INT64_MAX where no waiting helps, because the amount is over the burst or the rate is 0.

    `now_ms`: any monotonic clock, the same for every call; a time before the last one counts as the last one.
    """
    cdef int64_t missing
    bucket_refill(bucket, rate_per_second, burst, now_ms)
    if amount > burst:
        return INT64_MAX
    missing = amount * TOKEN - bucket.tokens
    if missing <= 0:
        bucket.tokens -= <int32_t>(amount * TOKEN)
        return 0
    if rate_per_second <= 0:
        return INT64_MAX
    return (missing - 1) // rate_per_second + 1
