"""The token bucket against exact fractions, and at the edges of its integers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore_ext.token_bucket import NEVER, TokenBucket
from support.oracles.timing import BucketModel

STEPS = st.lists(st.tuples(st.one_of(st.integers(-50, 50), st.integers(0, 10**7)), st.integers(0, 30)), max_size=60)


@settings(max_examples=200, deadline=None)
@given(rate=st.integers(0, 3000), burst=st.integers(1, 25), start=st.integers(0, 10**12), steps=STEPS)
def test_decides_like_exact_arithmetic(rate: int, burst: int, start: int, steps: list[tuple[int, int]]) -> None:
    bucket = TokenBucket(rate, burst, start)
    model = BucketModel(rate, burst, start)
    now = start
    for elapsed, amount in steps:
        now = max(0, now + elapsed)
        expected = model.take(now, amount)
        assert bucket.take(now, amount) == (NEVER if expected is None else expected)


@settings(max_examples=100, deadline=None)
@given(rate=st.integers(1, 3000), burst=st.integers(1, 25), drain=st.integers(1, 25), amount=st.integers(1, 25))
def test_the_wait_it_names_is_the_shortest_that_works(rate: int, burst: int, drain: int, amount: int) -> None:
    drain, amount = min(drain, burst), min(amount, burst)
    bucket = TokenBucket(rate, burst, 0)
    assert bucket.take(0, drain) == 0
    wait = bucket.take(0, amount)
    if wait:
        assert bucket.take(wait - 1, amount) == 1
        assert bucket.take(wait, amount) == 0


def test_tiny_steps_add_up_to_the_rate() -> None:
    bucket = TokenBucket(7, 1, 0)
    assert sum(bucket.take(now) == 0 for now in range(1, 100_001)) == 700


def test_a_clock_that_stands_still_or_steps_back_gives_nothing() -> None:
    bucket = TokenBucket(1000, 2, 5_000)
    assert [bucket.take(now) for now in (5_000, 5_000, 5_000, 4_000, 0)] == [0, 0, 1, 1, 1]
    assert [bucket.take(now) for now in (5_001, 5_001)] == [0, 1]


def test_a_clock_that_jumps_far_fills_it_once() -> None:
    bucket = TokenBucket(10**9, 3, 0)
    last = 2**31 - 1
    assert [bucket.take(0), bucket.take(last, 3), bucket.take(last)] == [0, 0, 1]


def test_time_beyond_32_bits_goes_on() -> None:
    start = 2**32 - 500
    bucket = TokenBucket(1, 1, start)
    assert [bucket.take(now) for now in (start, start + 999, start + 1000)] == [0, 1, 0]


def test_the_largest_burst_fits() -> None:
    burst = (2**31 - 1) // 1000
    bucket = TokenBucket(1, burst, 0)
    assert bucket.take(0, burst) == 0
    assert bucket.take(0, burst) == burst * 1000
    assert bucket.take(0, burst + 1) == NEVER


@pytest.mark.parametrize(("rate", "burst"), [(-1, 1), (1, 0), (1, -5), (1, (2**31 - 1) // 1000 + 1)])
def test_impossible_limits_are_refused(rate: int, burst: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        TokenBucket(rate, burst, 0)


def test_a_negative_amount_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        TokenBucket(1, 1, 0).take(0, -1)
