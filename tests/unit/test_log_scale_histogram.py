"""The log-scale histogram: every value lands in a bucket whose end is at most 1.6 % above it."""

from hypothesis import given
from hypothesis import strategies as st

from chatcore_ext.log_scale_histogram import bucket_ends

LARGEST = 2**63 - 1


@given(st.one_of(st.integers(0, 1000), st.integers(0, LARGEST), st.integers(0, 62).map(lambda bits: 1 << bits)))
def test_an_end_is_just_above_its_value(value: int) -> None:
    ((end, count),) = bucket_ends([value]).items()
    assert count == 1
    assert value <= end <= value * 65 // 64


@given(st.lists(st.integers(0, LARGEST), max_size=30))
def test_ends_keep_the_order_and_the_count(values: list[int]) -> None:
    ends = bucket_ends(values)
    assert sum(ends.values()) == len(values)
    one_by_one = [next(iter(bucket_ends([value]))) for value in sorted(values)]
    assert one_by_one == sorted(one_by_one)
    assert set(one_by_one) == set(ends)
