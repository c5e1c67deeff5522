"""Durations and sizes: what is read, what is written, and what an error says to write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore_server.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "ms"),
    [("0", 0), ("0s", 0), ("500ms", 500), ("5s", 5000), ("2m", 120_000), ("12h", 43_200_000), ("7d", 604_800_000)],
)
def test_durations(text: str, ms: int) -> None:
    assert parse_duration(text) == ms


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("4000B", 4000), ("4KiB", 4096), ("1MiB", 1 << 20), ("1GiB", 1 << 30), ("2TiB", 2 << 40), ("4kB", 4000),
     ("3MB", 3_000_000), ("1GB", 10**9)],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "5", "s", "-5s", "5 s", "1.5s", "5S", "5sec", "1m30s", "٥s", "1e3s", "5s\n", "64KiB"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match=r'must be a duration with its unit \(ms, s, m, h, d\) such as "5s"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "5", "KiB", "-5B", "4 KiB", "4KB", "4kib", "4K", "5s", "9" * 5000 + "B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=r'must be a size with its unit \(.*KiB.*\) such as "64KiB"'):
        parse_size(text)


@given(st.integers(0, 10**15 - 1))
def test_what_is_written_is_read_back(value: int) -> None:
    assert parse_duration(format_duration(value)) == value
    assert parse_size(format_size(value)) == value


def test_the_largest_unit_that_is_whole_is_written() -> None:
    assert [format_duration(ms) for ms in (0, 1, 1500, 60_000, 90_000, 86_400_000)] == [
        "0s", "1ms", "1500ms", "1m", "90s", "1d",
    ]  # fmt: skip
    assert [format_size(size) for size in (0, 1, 4000, 4096, 1 << 20, 3 << 29)] == [
        "0B", "1B", "4000B", "4KiB", "1MiB", "1536MiB",
    ]  # fmt: skip
