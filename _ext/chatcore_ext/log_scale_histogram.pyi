"""Percentiles of durations without keeping them (log_scale_histogram.pxd); this is the door for tests."""

def bucket_ends(values: list[int]) -> dict[int, int]:
    """A histogram of the values, each 0 to 2^63 - 1: how many fell into each bucket, by the bucket's largest value."""
