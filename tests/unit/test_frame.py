"""The frame parser, however the stream is cut, and each fixed layout, against the slow oracle."""

import random
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore_ext import frame as codec
from chatcore_ext.constants import MAX_BODY_LENGTH
from chatcore_ext.error_codes import ErrorCode, error_text
from chatcore_ext.frame import FrameError, FrameParser
from support.memory import resident_bytes
from support.oracles import frames as oracle

u8 = st.integers(0, 2**8 - 1)
u16 = st.integers(0, 2**16 - 1)
u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
text = st.binary(max_size=300)
name = st.binary(max_size=255)

SAMPLE = [(0x10, b""), (0x03, b"12345678"), (0x13, bytes(range(256))), (0xFF, b"x"), (0x20, b"y" * 1000)]
STREAM = b"".join(oracle.frame(*sample) for sample in SAMPLE)


def feed_all(parser: FrameParser, pieces: list[bytes]) -> list[tuple[int, bytes]]:
    return [frame for piece in pieces for frame in parser.feed(piece)]


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[start:end] for start, end in pairwise(bounds)]


# Cutting


def test_a_whole_stream() -> None:
    parser = FrameParser(4096)
    assert parser.feed(STREAM) == SAMPLE
    assert parser.pending == 0


def test_byte_by_byte() -> None:
    parser = FrameParser(4096)
    assert feed_all(parser, [bytes([byte]) for byte in STREAM]) == SAMPLE
    assert parser.pending == 0


def test_cut_at_every_place() -> None:
    for place in range(len(STREAM) + 1):
        assert feed_all(FrameParser(4096), [STREAM[:place], STREAM[place:]]) == SAMPLE, place


def test_cut_at_every_pair_of_places() -> None:
    stream = oracle.frame(1, b"abc") + oracle.frame(2, b"") + oracle.frame(3, b"defgh")
    for first in range(len(stream) + 1):
        for second in range(first, len(stream) + 1):
            pieces = [stream[:first], stream[first:second], stream[second:]]
            assert feed_all(FrameParser(64), pieces) == [(1, b"abc"), (2, b""), (3, b"defgh")]


@given(st.lists(st.tuples(u8, text), max_size=8), st.lists(st.integers(0, 10**6), max_size=12), st.binary(max_size=3))
def test_any_stream_cut_anywhere(frames: list[tuple[int, bytes]], places: list[int], tail: bytes) -> None:
    stream = b"".join(oracle.frame(*frame) for frame in frames) + tail
    parser = FrameParser(300)
    assert feed_all(parser, cut(stream, places)) == frames
    assert parser.pending == len(tail)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_garbage_as_the_oracle_takes_it(stream: bytes, places: list[int]) -> None:
    parser = FrameParser(40)
    got: list[tuple[int, bytes]] = []
    failed = False
    for piece in cut(stream, places):
        try:
            got += parser.feed(piece)
        except FrameError as error:
            assert error.code == ErrorCode.ERROR_FRAME_TOO_LARGE
            got += error.frames
            failed = True
            break
    try:
        expected, left = oracle.split(stream, 40)
        assert not failed
        assert parser.pending == len(left)
    except oracle.TooLarge as error:
        expected = error.frames
        assert failed
    assert got == expected


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer(kind: Callable[[bytes], Any]) -> None:
    assert FrameParser(4096).feed(kind(STREAM)) == SAMPLE


def test_a_frame_of_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert FrameParser(10).feed(oracle.frame(1, b"x" * 10)) == [(1, b"x" * 10)]
    with pytest.raises(FrameError) as caught:
        FrameParser(10).feed(oracle.frame(1, b"x" * 11))
    assert caught.value.code == ErrorCode.ERROR_FRAME_TOO_LARGE


def test_the_frames_before_a_bad_one_are_not_lost() -> None:
    with pytest.raises(FrameError) as caught:
        FrameParser(100).feed(oracle.frame(1, b"good") + oracle.frame(2, b"x" * 101))
    assert caught.value.frames == [(1, b"good")]


@pytest.mark.parametrize("pieces", [[b"\xff\xff\xff\x01"], [b"\xff\xff", b"\xff\x01"]])
def test_a_broken_stream_takes_nothing_more(pieces: list[bytes]) -> None:
    parser = FrameParser(100)
    with pytest.raises(FrameError):
        feed_all(parser, pieces)
    assert parser.pending == 0
    for good in (oracle.frame(1, b"good"), b""):
        with pytest.raises(FrameError) as caught:
            parser.feed(good)
        assert caught.value.code == ErrorCode.ERROR_FRAME_TOO_LARGE
        assert caught.value.frames == []


SHORT_OF_MEMORY = """
import resource
from chatcore_ext.frame import FrameError, FrameParser

def outcome(parser, *pieces):
    try:
        for piece in pieces:
            parser.feed(piece)
    except (FrameError, MemoryError) as error:
        return int(getattr(error, "code", 0))
    return None

huge = b"\\xff\\xff\\xff\\x10"   # announces 16 MiB, of which not one byte is sent
whole = huge + bytes(2**24 - 1)
crowded = FrameParser()
with open("/proc/self/statm") as statm:
    reserved = int(statm.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (reserved + 2**22, resource.RLIM_INFINITY))
print(
    outcome(FrameParser(4096), huge), outcome(FrameParser(4096), huge[:1], huge[1:]),
    outcome(FrameParser(), huge), outcome(FrameParser(), huge[:1], huge[1:]),
    outcome(crowded, whole), outcome(crowded, b""),
)
"""


@pytest.mark.resident_memory
def test_too_large_is_said_by_the_header_alone_and_allocates_nothing() -> None:
    """In a process that cannot have 16 MiB more: only what asks for no memory can still say frame_too_large."""
    child = subprocess.run([sys.executable, "-c", SHORT_OF_MEMORY], capture_output=True, text=True, check=True)
    too_large, overloaded = int(ErrorCode.ERROR_FRAME_TOO_LARGE), int(ErrorCode.ERROR_OVERLOADED)
    over_the_limit, within_the_limit = [too_large] * 2, [overloaded] * 2
    memory_error_then_refusal = [0, overloaded]
    expected = over_the_limit + within_the_limit + memory_error_then_refusal
    assert child.stdout.split() == [str(code) for code in expected]


def test_http_and_tls_clients_are_refused_at_once() -> None:
    for greeting in (b"GET / HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01"):
        with pytest.raises(FrameError):
            FrameParser(4096).feed(greeting)


@pytest.mark.resident_memory
def test_many_parsers_leave_no_memory_behind() -> None:
    """Unfinished frames are malloc'ed, so resident memory tells: 20,000 x 4 KiB would be 80 MB."""
    piece = oracle.frame(1, b"x" * 4000)[:-1]
    for _ in range(100):
        FrameParser(4096).feed(piece)
    before = resident_bytes()
    for _ in range(20_000):
        FrameParser(4096).feed(piece)
    assert resident_bytes() - before < 20_000_000


@pytest.mark.resident_memory
def test_an_idle_parser_holds_no_buffer() -> None:
    """What was assembled is freed when its frame was taken, not kept for the next: 10,000 x 4 KiB would be 40 MB."""
    frame = oracle.frame(1, b"x" * 4000)
    parsers = [FrameParser(4096) for _ in range(10_000)]
    before = resident_bytes()
    for parser in parsers:
        feed_all(parser, [frame[:2000], frame[2000:]])
        assert parser.pending == 0
    assert resident_bytes() - before < 10_000_000


def test_limits_of_the_limit() -> None:
    FrameParser(MAX_BODY_LENGTH)
    for wrong in (-1, MAX_BODY_LENGTH + 1):
        with pytest.raises(ValueError, match="max_body"):
            FrameParser(wrong)


# Layouts


@given(u64, u32, u8, text)
def test_send(seq: int, channel: int, flags: int, body: bytes) -> None:
    encoded = codec.encode_send(seq, channel, flags, body)
    assert encoded == oracle.send(seq, channel, flags, body)
    assert codec.decode_send(encoded[4:]) == (seq, channel, flags, body)


@given(u64, u64, u64)
def test_ack(seq: int, id: int, time: int) -> None:
    encoded = codec.encode_ack(seq, id, time)
    assert encoded == oracle.ack(seq, id, time)
    assert codec.decode_ack(encoded[4:]) == (seq, id, time)


@given(u32, u8, u64, u64, u64, u64, name, text)
def test_deliver(
    channel: int, flags: int, id: int, prev: int, hash: int, time: int, sender: bytes, body: bytes
) -> None:
    fields = (channel, flags, id, prev, hash, time, sender, body)
    encoded = codec.encode_deliver(*fields)
    assert encoded == oracle.deliver(*fields)
    assert codec.decode_deliver(encoded[4:]) == fields


@given(u32, u8, name, text)
def test_signal(channel: int, kind: int, sender: bytes, body: bytes) -> None:
    encoded = codec.encode_signal(channel, kind, sender, body)
    assert encoded == oracle.signal(channel, kind, sender, body)
    assert codec.decode_signal(encoded[4:]) == (channel, kind, sender, body)


@given(u32, u64, u64)
def test_gap(channel: int, first: int, last: int) -> None:
    encoded = codec.encode_gap(channel, first, last)
    assert encoded == oracle.gap(channel, first, last)
    assert codec.decode_gap(encoded[4:]) == (channel, first, last)


@given(u32, u8, text)
def test_request_and_its_answers(request_id: int, operation: int, body: bytes) -> None:
    request = codec.encode_request(request_id, operation, body)
    assert request == oracle.request(request_id, operation, body)
    assert codec.decode_request(request[4:]) == (request_id, operation, body)
    assert codec.encode_reply(request_id, body) == oracle.reply(request_id, body)
    assert codec.encode_failed(request_id, body) == oracle.failed(request_id, body)
    assert codec.decode_reply(oracle.reply(request_id, body)[4:]) == (request_id, body)


@given(u8, text)
def test_hello(version: int, options: bytes) -> None:
    encoded = codec.encode_hello(version, options)
    assert encoded == oracle.hello(version, options)
    assert codec.decode_hello(encoded[4:]) == (version, options)


@given(u32, u32)
def test_goaway(deadline: int, window: int) -> None:
    assert codec.encode_goaway(deadline, window) == oracle.goaway(deadline, window)
    assert codec.decode_goaway(oracle.goaway(deadline, window)[4:]) == (deadline, window)


@given(st.sampled_from([0, 99, 100, 310, 400, 405, 499, 65535]), u8, u32, st.text(max_size=50), u64)
def test_errors(code: int, flags: int, retry_after_ms: int, message: str, seq: int) -> None:
    body = codec.encode_error(code, flags, retry_after_ms, message.encode())
    assert body == oracle.error(code, flags, retry_after_ms, message.encode())
    assert codec.decode_error(body) == (code, flags, retry_after_ms, error_text(code), message)
    assert codec.encode_refused(seq, body) == oracle.refused(seq, body)
    assert codec.decode_refused(oracle.refused(seq, body)[4:]) == (seq, body)


def test_an_error_of_a_newer_server_is_readable() -> None:
    """Clients go by the flags of a code that they do not know, whatever its name and text are."""
    body = b"\x27\x0f\x01\x00\x00\x03\xe8\x04odd\xffand \xfe"
    assert codec.decode_error(body) == (9999, 1, 1000, "odd\ufffd", "and \ufffd")


WHOLE: list[tuple[Callable[[bytes], object], bytes, int]] = [
    # decoder, a body, and how much of it must be there
    (codec.decode_hello, oracle.hello(1, b"")[4:], 8),
    (codec.decode_send, oracle.send(1, 2, 3, b"")[4:], 13),
    (codec.decode_ack, oracle.ack(1, 2, 3)[4:], 24),
    (codec.decode_refused, oracle.refused(1, b"")[4:], 8),
    (codec.decode_deliver, oracle.deliver(1, 2, 3, 4, 5, 6, b"alice", b"")[4:], 43),
    (codec.decode_signal, oracle.signal(1, 2, b"alice", b"")[4:], 11),
    (codec.decode_gap, oracle.gap(1, 2, 3)[4:], 20),
    (codec.decode_request, oracle.request(1, 2, b"")[4:], 5),
    (codec.decode_reply, oracle.reply(1, b"")[4:], 4),
    (codec.decode_goaway, oracle.goaway(1, 2)[4:], 8),
    (codec.decode_error, oracle.error(400, 1, 2, b""), 8 + len("rate_limited")),
]


@pytest.mark.parametrize(("decode", "body", "size"), WHOLE)
def test_whatever_is_too_short_is_malformed(decode: Callable[[bytes], object], body: bytes, size: int) -> None:
    assert len(body) == size
    decode(body)
    for cut_at in range(size):
        with pytest.raises(FrameError) as caught:
            decode(body[:cut_at])
        assert caught.value.code == ErrorCode.ERROR_MALFORMED_FRAME


def test_hello_without_the_magic() -> None:
    with pytest.raises(FrameError):
        codec.decode_hello(b"talk\x01\0\0\0")


def test_what_does_not_fit_is_an_error_and_not_cut() -> None:
    with pytest.raises(ValueError, match="255"):
        codec.encode_signal(1, 1, b"x" * 256, b"")
    with pytest.raises(ValueError, match="16777215"):
        codec.encode_frame(1, bytes(MAX_BODY_LENGTH + 1))
    for message_len in (MAX_BODY_LENGTH - 8, MAX_BODY_LENGTH + 1):
        with pytest.raises(ValueError, match="16777215"):
            codec.encode_error(400, 0, 0, bytes(message_len))
    with pytest.raises(OverflowError):
        codec.encode_send(2**64, 1, 0, b"")


def test_a_long_random_stream() -> None:
    """More than fits any buffer, in pieces of every size."""
    generator = random.Random(7)
    sent = [(generator.randrange(256), generator.randbytes(generator.choice((0, 3, 60, 4096)))) for _ in range(2000)]
    stream = b"".join(oracle.frame(*frame) for frame in sent)
    parser = FrameParser(4096)
    got: list[tuple[int, bytes]] = []
    place = 0
    while place < len(stream):
        size = generator.choice((1, 4, 100, 5000, 65536))
        got += parser.feed(stream[place : place + size])
        place += size
    assert got == sent
