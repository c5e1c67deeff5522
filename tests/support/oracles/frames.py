"""The protocol's fixed layouts and FNV-1a, slowly and obviously: struct and loops, written from docs/protocol.md
alone."""

import struct

from chatcore_ext.error_codes import error_text


class TooLarge(Exception):
    """A header says more than is allowed; `frames` are those before it."""

    def __init__(self, frames: list[tuple[int, bytes]]) -> None:
        super().__init__()
        self.frames = frames


def frame(type: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body) << 8 | type) + body


def split(stream: bytes, max_body: int) -> tuple[list[tuple[int, bytes]], bytes]:
    """All whole frames of a stream, and what is left. Raises TooLarge."""
    frames: list[tuple[int, bytes]] = []
    while len(stream) >= 4:
        (header,) = struct.unpack(">I", stream[:4])
        size = header >> 8
        if size > max_body:
            raise TooLarge(frames)
        if len(stream) < 4 + size:
            break
        frames.append((header & 0xFF, stream[4 : 4 + size]))
        stream = stream[4 + size :]
    return frames, stream


def hello(version: int, options: bytes) -> bytes:
    return frame(0x01, b"chat" + bytes([version]) + b"\0\0\0" + options)


def send(seq: int, channel: int, flags: int, body: bytes) -> bytes:
    return frame(0x10, struct.pack(">QIB", seq, channel, flags) + body)


def ack(seq: int, id: int, time: int) -> bytes:
    return frame(0x11, struct.pack(">QQQ", seq, id, time))


def refused(seq: int, error: bytes) -> bytes:
    return frame(0x12, struct.pack(">Q", seq) + error)


def deliver(channel: int, flags: int, id: int, prev: int, hash: int, time: int, sender: bytes, body: bytes) -> bytes:
    return frame(0x13, struct.pack(">IBBQQQQ", channel, flags, len(sender), id, prev, hash, time) + sender + body)


def signal(channel: int, kind: int, sender: bytes, body: bytes) -> bytes:
    return frame(0x14, struct.pack(">IBB", channel, kind, len(sender)) + sender + body)


def gap(channel: int, first: int, last: int) -> bytes:
    return frame(0x15, struct.pack(">IQQ", channel, first, last))


def request(request_id: int, operation: int, body: bytes) -> bytes:
    return frame(0x20, struct.pack(">IB", request_id, operation) + body)


def reply(request_id: int, body: bytes) -> bytes:
    return frame(0x21, struct.pack(">I", request_id) + body)


def failed(request_id: int, error: bytes) -> bytes:
    return frame(0x22, struct.pack(">I", request_id) + error)


def goaway(deadline_ms: int, reconnect_window_ms: int) -> bytes:
    return frame(0x05, struct.pack(">II", deadline_ms, reconnect_window_ms))


def error(code: int, flags: int, retry_after_ms: int, message: bytes) -> bytes:
    name = error_text(code).encode()
    return struct.pack(">HBIB", code, flags, retry_after_ms, len(name)) + name + message


def record(kind: int, session: int, seq: int, time: int, sender: bytes, body: bytes) -> bytes:
    return struct.pack(">BBQQQB", 1, kind, session, seq, time, len(sender)) + sender + body


def fnv(state: int, data: bytes) -> int:
    for byte in data:
        state = ((state ^ byte) * 0x100000001B3) % 2**64
    return state


def chain(previous: int, id: int, sender: bytes, body: bytes) -> int:
    state = previous or 0xCBF29CE484222325
    fed = struct.pack(">QB", id, len(sender)) + sender + struct.pack(">I", len(body)) + body
    return fnv(state, fed) or 1
