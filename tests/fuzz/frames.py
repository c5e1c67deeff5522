"""The frame parser: a stream cut anywhere gives the frames, the error and the rest that the slow oracle gives."""

from itertools import pairwise

from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import FrameError, FrameParser
from fuzz.reading import Reader
from support.oracles import frames as oracle

Outcome = tuple[list[tuple[int, bytes]], int | None]  # the frames, and the bytes left; None: refused


def one_input(data: bytes) -> None:
    read = Reader(data)
    max_body = read.one_of([0, 3, 40, 300, 4096])
    places = [read.number(2) for _ in range(read.below(8))]
    stream = read.rest()
    expected = _by_the_oracle(stream, max_body)
    assert _by_the_parser([stream], max_body) == expected
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    assert _by_the_parser([stream[start:end] for start, end in pairwise(bounds)], max_body) == expected


def _by_the_oracle(stream: bytes, max_body: int) -> Outcome:
    try:
        frames, left = oracle.split(stream, max_body)
    except oracle.TooLarge as error:
        return error.frames, None
    return frames, len(left)


def _by_the_parser(pieces: list[bytes], max_body: int) -> Outcome:
    parser = FrameParser(max_body)
    frames: list[tuple[int, bytes]] = []
    has_failed = False
    for piece in pieces:
        try:
            frames += parser.feed(piece)
            assert not has_failed, "a parser that has failed takes nothing more"
        except FrameError as error:
            assert error.code == ErrorCode.ERROR_FRAME_TOO_LARGE
            assert not (has_failed and error.frames)
            frames += error.frames
            has_failed = True
    return frames, None if has_failed else parser.pending
