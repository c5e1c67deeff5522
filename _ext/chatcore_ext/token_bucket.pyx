"""Python's door to the token bucket, for tests and slow paths. token_bucket.pxd has the algorithm."""

cimport cython
from libc.stdint cimport INT64_MAX, int64_t

NEVER = INT64_MAX


@cython.final
cdef class TokenBucket:
    cdef:
        Bucket bucket
        int64_t rate_per_second
        int64_t burst

    def __init__(self, rate_per_second: int, burst: int, now_ms: int) -> None:
        self.rate_per_second = rate_per_second
        self.burst = burst
        if self.rate_per_second < 0 or not 0 < self.burst <= MAX_BURST:
            raise ValueError(f"a rate of {rate_per_second}/s with a burst of {burst} is no limit that can be kept")
        bucket_init(&self.bucket, self.burst, now_ms)

    def wait(self, int64_t now_ms, int64_t amount=1) -> int:
        cdef Bucket untouched = self.bucket
        if amount < 0:
            raise ValueError(f"{amount} tokens cannot be taken")
        return bucket_take(&untouched, self.rate_per_second, self.burst, amount, now_ms)

    def take(self, int64_t now_ms, int64_t amount=1) -> int:
        if amount < 0:
            raise ValueError(f"{amount} tokens cannot be taken")
        return bucket_take(&self.bucket, self.rate_per_second, self.burst, amount, now_ms)
