"""Parsing: SEND frames through FrameParser, each frame becoming a Python object (the hub's loop makes none)."""

import pytest

from chatcore_ext.frame import FrameParser, encode_send
from measuring import Measure

pytest_plugins = "measuring_plugin"

STREAM_SIZE = 1 << 18  # bytes of one batch
READ_SIZE = 1 << 16  # bytes handed over at once, as the hub's receive buffer
SPLIT_SIZE = 1460  # bytes of a TCP segment: most frames end in a later read than they began


def stream_of(size: int) -> tuple[bytes, int]:
    frame = encode_send(1, 1, 0, bytes(size))
    n = STREAM_SIZE // len(frame)
    return frame * n, n


@pytest.mark.parametrize("read_size", [READ_SIZE, SPLIT_SIZE], ids=["whole", "split"])
@pytest.mark.parametrize("size", [64, 128, 1024], ids=["64B", "128B", "1KiB"])
def test_parse(measure: Measure, size: int, read_size: int) -> None:
    stream, n = stream_of(size)
    reads = [stream[at : at + read_size] for at in range(0, len(stream), read_size)]

    def batch() -> int:
        parser = FrameParser()
        return sum(len(parser.feed(read)) for read in reads)

    assert measure(batch, n) == n
