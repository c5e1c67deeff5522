"""Buckets by key: what is forgotten is full, what is not is kept; and how many there may be."""

import pytest

from chatcore_server import buckets
from chatcore_server.buckets import KeyedBuckets


def test_each_key_has_its_own() -> None:
    joins = KeyedBuckets[str](rate_per_second=2, burst=3)
    assert [joins.take("ann", 0) for _ in range(4)] == [0, 0, 0, 500]
    assert joins.wait("ann", 0) == 500
    assert joins.wait("ann", 500) == 0
    assert joins.wait("bob", 0) == 0
    assert joins.take("bob", 0) == 0
    assert len(joins) == 2
    assert [joins.take("ann", 500), joins.take("ann", 500)] == [0, 500]


def test_several_are_taken_together_or_not_at_all() -> None:
    joins = KeyedBuckets[str](rate_per_second=2, burst=3)
    assert joins.take("ann", 0, 4) > 0
    assert joins.take("ann", 0, 2) == 0
    assert [joins.take("ann", 0, 2), joins.take("ann", 0), joins.take("ann", 0)] == [500, 0, 500]


def test_what_is_full_again_is_forgotten() -> None:
    joins = KeyedBuckets[int](rate_per_second=1, burst=10)
    for key in range(100):
        joins.take(key, key)
    assert len(joins) == 100
    for key in range(100, 150):
        joins.take(key, 20_000 + key)
    assert len(joins) == 50, "two with each new one"
    for _ in range(10):
        joins.take(0, 30_000)
    assert joins.take(0, 30_000) == 1000
    assert joins.take(0, 30_999) == 1, "who goes on is not forgotten"


def test_another_limit_makes_all_full() -> None:
    joins = KeyedBuckets[str](rate_per_second=1, burst=2)
    assert [joins.take("ann", 0) for _ in range(3)] == [0, 0, 1000]
    joins.set_limit(1, 2)
    assert joins.wait("ann", 0) == 1000, "it is the same limit"
    joins.set_limit(2, 1)
    assert [joins.take("ann", 0) for _ in range(2)] == [0, 500]


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "MAX_KEYS", 20)
    joins = KeyedBuckets[int](rate_per_second=1, burst=1)
    for key in range(1000):
        joins.take(key, 0)
        assert len(joins) <= 20
