"""The codec: what is decoded is encoded again to the same bytes, and what cannot be decoded is an error by name.

Fixed layouts against the slow oracle, MessagePack bodies with the decoders that server and client use, names, and the
line that a trace makes of any of it.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from chatcore import operations
from chatcore.errors import BadName
from chatcore.names import validate_channel, validate_player
from chatcore.operations import REQUEST_TYPES, UNDECODABLE, Operation, encode_body
from chatcore_ext import frame as codec
from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode, error_text
from chatcore_ext.frame import FrameError
from chatcore_ext.record import decode_record, encode_record
from chatcore_ext.tap import TapKind
from chatcore_server.trace_events import line_of
from fuzz.reading import Reader
from support.oracles import frames as oracle

HEADER = 4
Coder = Callable[..., Any]

# decoder, encoder, oracle, and the bytes that a body of a fixed size has at most (more is ignored)
LAYOUTS: list[tuple[Coder, Coder, Coder, int | None]] = [
    (codec.decode_send, codec.encode_send, oracle.send, None),
    (codec.decode_ack, codec.encode_ack, oracle.ack, 24),
    (codec.decode_refused, codec.encode_refused, oracle.refused, None),
    (codec.decode_deliver, codec.encode_deliver, oracle.deliver, None),
    (codec.decode_signal, codec.encode_signal, oracle.signal, None),
    (codec.decode_gap, codec.encode_gap, oracle.gap, 20),
    (codec.decode_request, codec.encode_request, oracle.request, None),
    (codec.decode_reply, codec.encode_reply, oracle.reply, None),
    (codec.decode_goaway, codec.encode_goaway, oracle.goaway, 8),
]
MAPS: list[Any] = [operations.Hello, operations.Welcome, operations.AnyEvent, *REQUEST_TYPES.values()]
MAPS += [operations.JoinReply, operations.SyncReply, operations.MembersReply, operations.ConversationsReply]
DECODERS = [msgspec.msgpack.Decoder(type) for type in MAPS]


def one_input(data: bytes) -> None:
    read = Reader(data)
    aspect = read.one_of([_layout, _hello, _error, _record, _map, _name, _trace])
    aspect(read)


def _layout(read: Reader) -> None:
    decode, encode, by_the_oracle, size = read.one_of(LAYOUTS)
    body = read.rest()
    try:
        fields = decode(body)
    except FrameError as error:
        assert error.code == ErrorCode.ERROR_MALFORMED_FRAME
        return
    encoded = encode(*fields)
    assert encoded == by_the_oracle(*fields)
    assert encoded[HEADER:] == body[:size]


def _hello(read: Reader) -> None:
    body = read.one_of([b"chat", b""]) + read.rest()
    try:
        version, options = codec.decode_hello(body)
    except FrameError as error:
        assert error.code == ErrorCode.ERROR_MALFORMED_FRAME
        return
    assert body[:4] == b"chat"
    encoded = codec.encode_hello(version, options)
    assert encoded == oracle.hello(version, options)
    assert encoded[HEADER:] == body[:5] + b"\0\0\0" + body[8:]


def _error(read: Reader) -> None:
    body = read.rest()
    try:
        code, flags, retry_after_ms, _, message = codec.decode_error(body)
    except FrameError as error:
        assert error.code == ErrorCode.ERROR_MALFORMED_FRAME
        return
    encoded = codec.encode_error(code, flags, retry_after_ms, message.encode())
    assert encoded == oracle.error(code, flags, retry_after_ms, message.encode())
    assert codec.decode_error(encoded) == (code, flags, retry_after_ms, error_text(code), message)


def _record(read: Reader) -> None:
    value = read.one_of([b"\1", b""]) + read.rest()
    try:
        fields = decode_record(value)
    except ValueError:
        return
    assert encode_record(*fields) == oracle.record(*fields) == value


def _map(read: Reader) -> None:
    decoder = read.one_of(DECODERS)
    try:
        decoded = decoder.decode(read.rest())
    except UNDECODABLE:
        return
    assert decoder.decode(encode_body(decoded)) == decoded


def _name(read: Reader) -> None:
    validate = read.one_of([validate_player, validate_channel])
    text = read.rest().decode("utf-8", "surrogateescape")
    try:
        assert validate(text) == text
    except BadName as error:
        str(error).encode("ascii")  # it goes into logs and error bodies
        return
    assert text.isascii() and text.isprintable() and " " not in text


def _trace(read: Reader) -> None:
    kind = read.one_of([TapKind.TAP_IN, TapKind.TAP_OUT])
    frame_type = read.number()
    body = read.rest()
    line = line_of((kind, frame_type, 1, b"ann", b"room:a", (0, 0, 0, 0, 0, 0), len(body), body), 0)
    assert line["direction"] in ("in", "out")
    msgspec.json.encode(line)


assert all(operation in REQUEST_TYPES for operation in Operation)
assert {0x01, 0x06} < {int(kind) for kind in FrameType}
