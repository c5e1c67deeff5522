"""What a soak takes for a leak: recorded series of a server that has none, and the same with one."""

import random
from collections.abc import Callable

import pytest

from soak.verdict import MAX_GROWTH_BYTES, Sample, growth

RATE = 27  # connections a second, as in the recording


def series(seconds: int, resident: Callable[[int], float]) -> list[Sample]:
    step = max(1, seconds // 1000)
    return [Sample(float(at), int(resident(at)), 27, at * RATE) for at in range(0, seconds, step)]


def flat(at: int) -> float:
    return 48e6


def noisy(at: int) -> float:
    """Batches, checkpoints and the like: up and down by half of what counts."""
    return 48e6 + random.Random(at).uniform(-MAX_GROWTH_BYTES / 2, MAX_GROWTH_BYTES / 2)


def settling(at: int) -> float:
    """Caches that fill at the beginning."""
    return 48e6 + 10e6 * min(1.0, at / 900)


@pytest.mark.parametrize("resident", [flat, noisy, settling])
def test_no_leak_in_an_hour(resident: Callable[[int], float]) -> None:
    assert growth(series(3600, resident)).is_flat


@pytest.mark.parametrize("resident", [flat, noisy, settling])
def test_a_leak_of_100_bytes_per_connection(resident: Callable[[int], float]) -> None:
    grown = growth(series(3600, lambda at: resident(at) + 100 * RATE * at))
    assert not grown.is_flat
    assert 60 < grown.bytes_per_connection < 140
    assert grown.bytes_per_minute == pytest.approx(100 * RATE * 60, rel=0.4)


def test_a_minute_sees_what_is_large() -> None:
    assert growth(series(60, flat)).is_flat
    assert not growth(series(60, lambda at: 48e6 + 4096 * RATE * at)).is_flat


def test_one_batch_under_way_at_the_end_is_no_leak() -> None:
    assert growth(series(3600, lambda at: flat(at) + (50e6 if at > 3550 else 0))).is_flat


def test_what_is_given_back_is_no_growth() -> None:
    assert growth(series(3600, lambda at: 60e6 - 1000 * at)).is_flat


def test_too_little_to_judge() -> None:
    with pytest.raises(ValueError, match="too few"):
        growth(series(10, flat))
