#!/usr/bin/env python3
"""Writes tests/vectors/*.json, the wire protocol as bytes for machines to read.

Built by struct and a MessagePack writer of its own from docs/protocol.md, never from the codec that the vectors test.
`--check` writes nothing and fails if a file is not up to date.
"""

import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "tests" / "vectors"
UNKNOWN_ID = 2**64 - 1


# ---- Building blocks -------------------------------------------------------------------------------------------------


def frame(type: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body) << 8 | type) + body


def error_body(code: int, flags: int, retry_after_ms: int, name: str, message: str) -> bytes:
    text = name.encode("ascii")
    return struct.pack(">HBIB", code, flags, retry_after_ms, len(text)) + text + message.encode()


def pack(value: object) -> bytes:
    """MessagePack, each value in its shortest form."""
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        return pack_int(value)
    if isinstance(value, bytes):
        return b"\xc4" + struct.pack(">B", len(value)) + value
    if isinstance(value, str):
        data = value.encode()
        return (bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + struct.pack(">B", len(data))) + data
    if isinstance(value, list):
        return bytes([0x90 | len(value)]) + b"".join(map(pack, value))
    assert isinstance(value, dict) and len(value) < 16
    return bytes([0x80 | len(value)]) + b"".join(pack(key) + pack(item) for key, item in value.items())


def pack_int(value: int) -> bytes:
    for limit, prefix, code in ((0x100, b"\xcc", ">B"), (0x10000, b"\xcd", ">H"), (2**32, b"\xce", ">I")):
        if value < 0x80:
            return bytes([value])
        if value < limit:
            return prefix + struct.pack(code, value)
    return b"\xcf" + struct.pack(">Q", value)


def chain(previous: int, id: int, sender: bytes, body: bytes) -> int:
    state = previous or 0xCBF29CE484222325
    for byte in struct.pack(">QB", id, len(sender)) + sender + struct.pack(">I", len(body)) + body:
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state or 1


# ---- Frames ----------------------------------------------------------------------------------------------------------

RATE_LIMITED = error_body(400, 1, 250, "rate_limited", "slow down")
OUTCOME_UNKNOWN = error_body(405, 3, 0, "outcome_unknown", "")
MAX = UNKNOWN_ID
BODIES = {"empty": b"", "text": "Grüße 👋".encode(), "binary": bytes(range(256))}
# A u64 is a decimal string in the files: many languages' JSON numbers are doubles.
U64 = {"seq", "id", "prev", "hash", "time", "from", "to"}


def valid(name: str, type: int, content: bytes, origin: str, /, **fields: Any) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for key, value in fields.items():
        key = key.rstrip("_")
        if isinstance(value, bytes):
            shown[f"{key}_hex"] = value.hex()
        else:
            shown[key] = str(value) if key in U64 else value
    return {"name": name, "from": origin, "type": type, "hex": frame(type, content).hex(), "fields": shown}


def valid_frames() -> Iterator[dict[str, Any]]:
    yield from connection_frames()
    yield from send_frames()
    yield from delivery_frames()
    yield from request_frames()


def connection_frames() -> Iterator[dict[str, Any]]:
    options = pack({"token": "eyJ.eyJ.c2ln", "client": "example/1"})
    yield valid("hello", 1, b"chat\1\0\0\0" + options, "client", version=1, options=options)
    yield valid("welcome", 2, pack({"player": "ann"}), "server", map=pack({"player": "ann"}))
    for name, type in (("ping", 3), ("pong", 4)):
        yield valid(name, type, b"\0\1\2\3\4\5\6\xff", "both", opaque=b"\0\1\2\3\4\5\6\xff")
    yield valid("goaway", 5, struct.pack(">II", 10_000, 5_000), "server", deadline_ms=10_000, window_ms=5_000)
    replaced = error_body(203, 0, 0, "session_replaced", "")
    yield valid("close", 6, replaced, "server", error=replaced)


def send_frames() -> Iterator[dict[str, Any]]:
    for name, body in BODIES.items():
        yield valid(
            f"send {name}", 16, struct.pack(">QIB", 1, 7, 0) + body, "client", seq=1, channel=7, flags=0, body=body
        )
    yield valid(
        "send resend",
        16,
        struct.pack(">QIB", MAX, 2**32 - 1, 3) + b"x",
        "client",
        seq=MAX,
        channel=2**32 - 1,
        flags=3,
        body=b"x",
    )
    yield valid(
        "ack", 17, struct.pack(">QQQ", 1, 42, 1_767_225_600_000), "server", seq=1, id=42, time=1_767_225_600_000
    )
    yield valid("ack accepted", 17, struct.pack(">QQQ", 2, 0, 0), "server", seq=2, id=0, time=0)
    yield valid("refused", 18, struct.pack(">Q", 3) + RATE_LIMITED, "server", seq=3, error=RATE_LIMITED)
    yield valid("refused uncertain", 18, struct.pack(">Q", 4) + OUTCOME_UNKNOWN, "server", seq=4, error=OUTCOME_UNKNOWN)


def delivery_frames() -> Iterator[dict[str, Any]]:
    yield deliver("first", 7, 0, 42, 0, chain(0, 42, b"ann", b"hello"), b"ann", b"hello")
    yield deliver("next", 7, 0, 45, 42, chain(chain(0, 42, b"ann", b"hello"), 45, b"bob", b""), b"bob", b"")
    yield deliver("hidden", 7, 1, 46, 45, 0x0123456789ABCDEF, b"", b"")
    yield deliver("unknown prev", 7, 0, 50, UNKNOWN_ID, 0, b"x" * 64, BODIES["binary"])
    yield valid("signal typing", 20, struct.pack(">IBB", 7, 1, 0), "client", channel=7, kind=1, sender=b"", body=b"")
    yield valid(
        "signal stopped",
        20,
        struct.pack(">IBB", 7, 1, 3) + b"ann\0",
        "server",
        channel=7,
        kind=1,
        sender=b"ann",
        body=b"\0",
    )
    yield valid("gap", 21, struct.pack(">IQQ", 7, 46, 99), "server", channel=7, from_=46, to=99)


def request_frames() -> Iterator[dict[str, Any]]:
    join = pack({"channel": "room:lobby"})
    yield valid("request", 32, struct.pack(">IB", 5, 1) + join, "client", request=5, operation=1, map=join)
    yield valid("reply", 33, struct.pack(">I", 5) + b"\x80", "server", request=5, map=b"\x80")
    yield valid("failed", 34, struct.pack(">I", 6) + RATE_LIMITED, "server", request=6, error=RATE_LIMITED)
    left = pack({"event": "left", "channel": "room:lobby", "player": "bob"})
    yield valid("event", 35, left, "server", map=left)


def deliver(
    name: str, channel: int, flags: int, id: int, prev: int, hash: int, sender: bytes, body: bytes
) -> dict[str, Any]:
    time = 1_767_225_600_000 + id
    head = struct.pack(">IBBQQQQ", channel, flags, len(sender), id, prev, hash, time)
    return valid(
        f"deliver {name}", 19, head + sender + body, "server",
        channel=channel, flags=flags, id=id, prev=prev, hash=hash, time=time, sender=sender, body=body,
    )  # fmt: skip


def invalid(name: str, after: str, data: bytes, error: str) -> dict[str, Any]:
    return {"name": name, "after": after, "hex": data.hex(), "error": error}


def invalid_frames() -> Iterator[dict[str, Any]]:
    """What closes a connection: `after` says whether it comes first ("open") or after WELCOME ("ready")."""
    yield invalid("a body over the limit", "open", struct.pack(">I", 4097 << 8 | 1), "frame_too_large")
    yield invalid("the largest length", "open", b"\xff\xff\xff\x10", "frame_too_large")
    yield invalid("an HTTP request", "open", b"GET / HTTP/1.1\r\n\r\n", "frame_too_large")
    yield invalid("not HELLO first", "open", frame(3, bytes(8)), "unexpected_frame")
    yield invalid("an unknown type first", "open", frame(0x7F, b""), "unexpected_frame")
    yield invalid("HELLO too short", "open", frame(1, b"chat\1\0\0"), "malformed_frame")
    yield invalid("HELLO with another magic", "open", frame(1, b"CHAT\1\0\0\0\x80"), "malformed_frame")
    yield invalid("HELLO of version 2", "open", frame(1, b"chat\2\0\0\0\x80"), "unsupported_version")
    yield invalid("HELLO without a map", "open", frame(1, b"chat\1\0\0\0"), "bad_request")
    yield invalid("HELLO with a list", "open", frame(1, b"chat\1\0\0\0\x90"), "bad_request")
    yield invalid("HELLO without token", "open", frame(1, b"chat\1\0\0\0\x80"), "bad_token")
    yield invalid("HELLO with a bad token", "open", frame(1, b"chat\1\0\0\0" + pack({"token": "x"})), "bad_token")
    yield invalid("HELLO with a bad ticket", "open", frame(1, b"chat\1\0\0\0" + pack({"ticket": b"x"})), "bad_ticket")
    yield invalid("HELLO again", "ready", frame(1, b"chat\1\0\0\0\x80"), "unexpected_frame")
    for type in (2, 5, 6, 17, 18, 19, 21, 33, 34, 35):
        yield invalid(f"the server's type {type:#04x}", "ready", frame(type, bytes(64)), "unexpected_frame")
    for type in (0, 7, 0x16, 0x24, 0xFF):
        yield invalid(f"unknown type {type:#04x}", "ready", frame(type, b""), "unknown_frame")
    yield invalid("SEND too short", "ready", frame(16, bytes(12)), "malformed_frame")
    yield invalid("SIGNAL too short", "ready", frame(20, bytes(5)), "malformed_frame")
    yield invalid(
        "SIGNAL whose sender runs over", "ready", frame(20, struct.pack(">IBB", 1, 1, 4) + b"ann"), "malformed_frame"
    )
    yield invalid("SIGNAL with a sender", "ready", frame(20, struct.pack(">IBB", 1, 1, 3) + b"ann"), "malformed_frame")
    yield invalid("REQUEST too short", "ready", frame(32, bytes(4)), "malformed_frame")
    yield invalid("PING of 7 bytes", "ready", frame(3, bytes(7)), "malformed_frame")
    yield invalid("PONG of 9 bytes", "ready", frame(4, bytes(9)), "malformed_frame")


def invalid_from_server() -> Iterator[dict[str, Any]]:
    """What a client must not accept: each breaks its frame's layout."""
    for name, type, size in (
        ("ACK", 17, 24),
        ("REFUSED", 18, 8),
        ("DELIVER", 19, 38),
        ("SIGNAL", 20, 6),
        ("GAP", 21, 20),
    ):
        yield invalid(f"{name} too short", "ready", frame(type, bytes(size - 1)), "malformed_frame")
    for name, type, size in (("REPLY", 33, 4), ("FAILED", 34, 4), ("GOAWAY", 5, 8), ("CLOSE", 6, 8)):
        yield invalid(f"{name} too short", "ready", frame(type, bytes(size - 1)), "malformed_frame")
    runs_over = struct.pack(">IBBQQQQ", 1, 0, 4, 1, 0, 0, 0) + b"ann"
    yield invalid("DELIVER whose sender runs over", "ready", frame(19, runs_over), "malformed_frame")
    short_name = struct.pack(">HBIB", 400, 1, 0, 13) + b"rate_limited"
    yield invalid("CLOSE whose name runs over", "ready", frame(6, short_name), "malformed_frame")


def frames() -> dict[str, Any]:
    all_valid = list(valid_frames())
    return {
        "about": "hex: the whole frame, header included. u64 fields are decimal strings; *_hex fields are bytes.",
        "valid": all_valid,
        "stream": {"hex": "".join(each["hex"] for each in all_valid), "types": [each["type"] for each in all_valid]},
        "invalid_from_client": list(invalid_frames()),
        "invalid_from_server": list(invalid_from_server()),
    }


# ---- MessagePack bodies ----------------------------------------------------------------------------------------------

CHANNEL = {"channel": "room:lobby"}
GROUP = {"channel": "group:wolves"}
MEMBER = {**GROUP, "player": "bob"}
PLAYER = {"player": "bob"}
CONVERSATIONS = {"group:wolves": [120, 90, 10], "dm:ann:bob": [77, 77, 0]}
ENTRIES = [[42, 0, 1, 1_767_225_600_000, 0, "ann", b"hello"], [45, 42, 2, 1_767_225_600_001, 1, "", b""]]
WELCOME = {
    "player": "ann",
    "session": 2**63 + 1,
    "resumed": True,
    "ticket": b"\1\2\3",
    "ticket_ms": 300_000,
    "epoch": "b7e1",
    "time_ms": 1_767_225_600_000,
    "heartbeat_ms": 30_000,
    "heartbeat_grace_ms": 45_000,
    "limits": {
        "frame_bytes": 4096,
        "body_bytes": 2000,
        "unacked_sends": 128,
        "channels": 256,
        "frames_per_second": 100,
        "frame_burst": 400,
    },
    "channels": {"room:lobby": [7, 42, 1]},
    "lost": {"group:wolves": 303},
    "conversations": CONVERSATIONS,
    "server": "chatcore 0.1.0",
}
# operation: (name, requests, replies)
OPERATIONS: dict[int, tuple[str, list[dict[str, Any]], list[dict[str, Any]]]] = {
    1: ("join", [CHANNEL], [
        {**CHANNEL, "number": 7, "head": 42, "hash": 1},
        {**GROUP, "number": 8, "head": UNKNOWN_ID, "hash": 0, "role": "officer"},
    ]),
    2: ("leave", [CHANNEL], [{}]),
    3: ("sync", [CHANNEL, {**CHANNEL, "after": 42, "limit": 500}, {**CHANNEL, "before": UNKNOWN_ID, "limit": 1}],
        [{"entries": ENTRIES, "more": False, "head": 45}, {"entries": [], "more": False, "head": 0}]),
    4: ("members", [GROUP], [{"members": [["ann", "owner", "online"], ["bob", "", "away"]], "more": False}]),
    5: ("conversations", [{}], [{"conversations": CONVERSATIONS}]),
    6: ("mark_read", [{**CHANNEL, "id": 42}], [{}]),
    7: ("create_group", [GROUP], [{"role": "owner"}]),
    8: ("add_member", [MEMBER, {**MEMBER, "role": "officer"}], [{}]),
    9: ("remove_member", [MEMBER], [{}]),
    10: ("leave_group", [GROUP], [{}]),
    11: ("set_role", [{**MEMBER, "role": "officer"}], [{}]),
    12: ("block", [PLAYER], [{}]),
    13: ("unblock", [PLAYER], [{}]),
    14: ("blocks", [{}], [{"players": ["bob", "eve"]}]),
    15: ("add_friend", [PLAYER], [{"mutual": True}]),
    16: ("remove_friend", [PLAYER], [{}]),
    17: ("friends", [{}], [{"friends": {"bob": "online"}, "asked": ["eve"]}]),
    18: ("set_presence", [{"presence": "away"}], [{}]),
    19: ("logout", [{}], [{}]),
    20: ("refresh", [{"token": "eyJ.eyJ.c2ln"}],
        [{"ticket": b"\7\x08", "ticket_ms": 240_000, "token_ms": 3_600_000}]),
}  # fmt: skip
EVENTS: list[dict[str, Any]] = [
    {"event": "opened", "channel": "dm:ann:bob", "number": 9, "head": 77, "hash": 1},
    {"event": "closed", "channel": "group:wolves", "code": 303},
    {"event": "joined", **CHANNEL, "player": "bob"},
    {"event": "left", **CHANNEL, "player": "bob"},
    {"event": "member", **MEMBER, "role": "", "by": "ann"},
    {"event": "presence", "player": "bob", "presence": "offline"},
    {"event": "read", **CHANNEL, "id": 42},
    {"event": "ticket", "ticket": b"\4\5\6", "ticket_ms": 300_000},
    {"event": "token_expiring", "in_ms": 60_000},
]


def as_json(value: Any) -> Any:
    """JSON has no bytes: {"hex": ...}; and no safe integers over 2^53: {"u64": ...}."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, int) and value >= 2**53:
        return {"u64": str(value)}
    if isinstance(value, list):
        return [as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return value


def body(kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": kind, **more, "value": as_json(value), "hex": pack(value).hex()}


def bodies() -> dict[str, Any]:
    hellos: list[dict[str, Any]] = [
        {"token": "eyJ.eyJ.c2ln", "client": "example/1"},
        {"ticket": b"\1\2\3", "token": "t", "channels": {"room:lobby": 42, "group:wolves": 0}, "client": "example/1"},
    ]
    found = [body("hello", hello) for hello in hellos]
    found.append(body("welcome", WELCOME))
    for operation, (name, requests, replies) in OPERATIONS.items():
        found += [body("request", request, operation=operation, name=name) for request in requests]
        found += [body("reply", reply, operation=operation, name=name) for reply in replies]
    found += [body("event", event) for event in EVENTS]
    return {
        "about": 'value: the map as JSON, where {"hex": h} is a bin and {"u64": n} an integer over 2^53. hex: one way '
        "to write it; readers accept every order of keys and every width of integers.",
        "bodies": found,
        "unknown_event": {"hex": pack({"event": "confetti", "channel": "room:lobby"}).hex()},
        "unknown_key": {"operation": 1, "hex": pack({**CHANNEL, "colour": "red"}).hex()},
    }


# ---- The chain hash and names ----------------------------------------------------------------------------------------


def chained(name: str, messages: list[tuple[int, str, bytes]], restart_at: int = 0) -> dict[str, Any]:
    state, prev, told = 0, 0, []
    for place, (id, sender, text) in enumerate(messages):
        if restart_at and place == restart_at:
            state, prev = 0, 0
        state = chain(state, id, sender.encode(), text)
        told.append({"id": str(id), "prev": str(prev), "sender": sender, "body_hex": text.hex(), "hash": str(state)})
        prev = id
    return {"name": name, "messages": told}


def chains() -> dict[str, Any]:
    talk = [(1, "ann", b"hello"), (2, "bob", b"hi"), (9, "ann", b""), (10, "x" * 64, bytes(range(256)))]
    return {
        "about": "hash is the channel's state after the message; it starts anew where prev is 0.",
        "sequences": [
            chained("one message", talk[:1]),
            chained("a talk", talk),
            chained("a chain that starts anew", talk, restart_at=2),
            chained("large ids", [(2**53 + 1, "ann", b"a"), (2**64 - 2, "ann", b"b")]),
        ],
    }


def names() -> dict[str, Any]:
    return {
        "players": {
            "valid": ["a", "Ann", "0", "x" * 64, "a.b_c-d@e|f+g", "-", "."],
            "invalid": ["", "x" * 65, "a b", "a:b", "ä", "a\n", "a/b", "a\u0000", "\u0430nn", "a,b"],
        },
        "channels": {
            "valid": {
                "room:lobby": "room", "group:wolves": "group", "dm:ann:bob": "dm", "dm:Z:a": "dm", "dm:1:10": "dm",
            },
            "invalid": [
                "", "lobby", "room:", ":lobby", "Room:lobby", "room:a:b", "room:a b", "group:", "group:" + "x" * 65,
                "dm:ann", "dm:ann:", "dm::bob", "dm:bob:ann", "dm:ann:ann", "dm:ann:bob:eve", "dm:a:Z", "zone:1",
                "room:lobby\n", " room:lobby",
            ],
            "direct": [["ann", "bob", "dm:ann:bob"], ["bob", "ann", "dm:ann:bob"], ["a", "Z", "dm:Z:a"]],
        },
    }  # fmt: skip


def files() -> dict[str, str]:
    content = {"frames": frames(), "bodies": bodies(), "chain_hash": chains(), "names": names()}
    return {f"{name}.json": json.dumps(value, indent=1, ensure_ascii=True) + "\n" for name, value in content.items()}


def main() -> int:
    stale = []
    for name, text in files().items():
        path = FOLDER / name
        if "--check" not in sys.argv:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text, encoding="ascii")
        elif not path.exists() or path.read_text(encoding="ascii") != text:
            stale.append(name)
    if stale:
        print(f"not up to date: {', '.join(stale)}; run tools/make_vectors.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
