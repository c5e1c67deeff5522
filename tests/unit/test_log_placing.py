"""The places of a batch against the same loop in plain Python."""

import random
from collections.abc import Callable

import pytest

from chatcore_ext.chain_hash import name_hash
from chatcore_ext.log_placing import PARTITION_SHIFT, Row, place_appends
from chatcore_ext.log_view import LogView
from chatcore_ext.record import decode_record, encode_record

PARTITIONS = 3
CHANNELS = [b"room:a", b"room:b", b"group:c", b"dm:ann:bob", b"room:" + b"x" * 59]
Append = tuple[bytes, bytes, object]


class Heads:
    """What a table of the log would say of heads: asked for each channel that the view does not know."""

    def __init__(self, view: LogView) -> None:
        self.view = view
        self.asked: list[bytes] = []

    def learn(self, channel: bytes) -> None:
        self.asked.append(channel)
        self.view.learn_head(channel, 7, 2**63 + 5, 1)


def placed_slowly(
    view: LogView, appends: list[Append], offsets: list[int], time: int, learn: Callable[[bytes], None]
) -> tuple[list[Row], list[tuple[bytes, int]]]:
    rows: list[Row] = []
    sends = []
    for channel, value, _ in appends:
        partition = name_hash(channel) % PARTITIONS
        offset = offsets[partition]
        offsets[partition] += 1
        place = None
        try:
            kind, session, seq, _, sender, _ = decode_record(value)
        except ValueError:
            kind = 0
        if kind == 1:
            if view.head(channel) is None:
                learn(channel)
            place = view.place(partition, offset, time, channel, value)
        position = (partition << PARTITION_SHIFT) + offset
        if place is None:
            rows.append((position, time, channel, value, None, None, None))
        else:
            prev, hash = place
            hash = hash - 2**64 if hash >= 2**63 else hash
            rows.append((position, time, channel, value, prev, hash, name_hash(sender) % 2**32))
            sends.append((session.to_bytes(8, "big") + seq.to_bytes(8, "big") + channel, offset))
    return rows, sends


def random_append(chance: random.Random) -> Append:
    kind = chance.choice([1, 1, 1, 1, 1, 2, 9])
    sender, body = chance.choice([b"ann", b"", b"s" * 64]), chance.randbytes(chance.choice([0, 1, 200]))
    value = encode_record(kind, chance.randrange(4), chance.randrange(400), 5, sender, body)
    return chance.choice(CHANNELS), chance.choice([value, value, value, value[: chance.randrange(40)]]), object()


@pytest.mark.parametrize("seed", range(20))
def test_as_the_same_in_python(seed: int) -> None:
    chance = random.Random(seed)
    fast, slow = Heads(LogView(window_ms=1_000)), Heads(LogView(window_ms=1_000))
    fast_offsets, slow_offsets = [1, 1, 2**40], [1, 1, 2**40]
    for batch in range(30):
        appends = [random_append(chance) for _ in range(chance.choice([0, 1, 20]))]
        time = 1_000_000 + batch * chance.choice([0, 1, 700])
        expected = placed_slowly(slow.view, appends, slow_offsets, time, slow.learn)
        assert place_appends(fast.view, appends, fast_offsets, time, fast.learn) == expected
        assert fast_offsets == slow_offsets
        assert fast.asked == slow.asked


def test_what_cannot_be_learned_comes_out() -> None:
    def fail(channel: bytes) -> None:
        raise KeyError(channel)

    value = encode_record(1, 1, 1, 1, b"ann", b"hello")
    with pytest.raises(KeyError):
        place_appends(LogView(), [(b"room:x", value, None)], [1], 1, fail)


@pytest.mark.parametrize(
    "append", [("room:x", b"", 1), (b"room:x", bytearray(), 1), (None, b"", 1), (b"room:x", None, 1), (b"room:x", b"")]
)
def test_only_bytes(append: tuple[object, ...]) -> None:
    with pytest.raises((TypeError, ValueError)):
        place_appends(LogView(), [append], [1], 1, print)  # type: ignore[list-item]
