"""docs/protocol.md says what the code does: its tables, and every frame of its worked examples."""

import re
from pathlib import Path

import msgspec

from chatcore import operations
from chatcore.operations import Operation, encode_body
from chatcore_ext import frame
from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.constants import MAX_SIGNAL_BODY_SIZE, MAX_UNACKED_SENDS, FrameType
from chatcore_ext.error_codes import ErrorCode, ErrorFlag, default_flags, error_text

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
ROOM = "room:lobby"
FIRST_HASH = 0x5229780328B07933
SAID_AT = 1_767_225_600_123


def examples() -> dict[str, bytes]:
    """The frames of the ```hex blocks by their names; what follows # is a comment."""
    blocks = re.findall(r"^```hex (\w+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len({name for name, _ in blocks}) == len(blocks) == PAGE.count("```hex")
    return {name: bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines())) for name, text in blocks}


def expected() -> dict[str, bytes]:
    """The same conversation by the codec."""
    hash = chain_hash(FIRST_HASH, 42, b"ann", b"hello")
    welcome = operations.Welcome(
        player="ann",
        session=5,
        resumed=False,
        ticket=b"\xaa\xbb",
        ticket_ms=300_000,
        epoch="e",
        time_ms=1_767_225_600_000,
        heartbeat_ms=30_000,
        heartbeat_grace_ms=45_000,
        limits=operations.Limits(4096, 4000, 128, 256, 100, 400),
        conversations={"dm:ann:bob": operations.ConversationState(77, 70, 2)},
        server="s",
    )
    joined = operations.JoinReply(ROOM, 7, 41, FIRST_HASH)
    entry = operations.Entry(45, 42, chain_hash(hash, 45, b"bob", b"hi"), 1_767_225_600_456, 0, "bob", b"hi")
    limited = frame.encode_error(ErrorCode.ERROR_RATE_LIMITED, ErrorFlag.ERROR_FLAG_RETRY, 250, b"")
    return {
        "hello": frame.encode_hello(1, encode_body(operations.Hello(token="T", client="c/1"))),
        "welcome": frame.encode_frame(FrameType.FRAME_WELCOME, encode_body(welcome)),
        "join": frame.encode_request(1, Operation.JOIN, encode_body(operations.ChannelRequest(ROOM))),
        "joined": frame.encode_reply(1, encode_body(joined)),
        "send": frame.encode_send(1, 7, 0, b"hello"),
        "ack": frame.encode_ack(1, 42, SAID_AT),
        "deliver": frame.encode_deliver(7, 0, 42, 41, hash, SAID_AT, b"ann", b"hello"),
        "refused": frame.encode_refused(2, limited),
        "signal": frame.encode_signal(7, 1, b"", b""),
        "sync": frame.encode_request(2, Operation.SYNC, encode_body(operations.SyncRequest(ROOM, after=42))),
        "synced": frame.encode_reply(2, encode_body(operations.SyncReply([entry], False, 45))),
    }


def test_the_examples_are_what_the_codec_writes() -> None:
    shown = examples()
    assert {name: data.hex(" ") for name, data in shown.items()} == {
        name: data.hex(" ") for name, data in expected().items()
    }


def test_the_comments_of_the_examples_count_right() -> None:
    for name, data in examples().items():
        block = PAGE.split(f"```hex {name}\n")[1].split("```")[0]
        assert f"# {len(data) - 4} bytes, type {data[3]:#04x}" in block
    assert f"`{chain_hash(FIRST_HASH, 42, b'ann', b'hello'):#x}`" in PAGE
    assert f"`{FIRST_HASH:#x}`" in PAGE


def test_the_error_table() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| ([RU ]*)\|", PAGE, re.MULTILINE)
    flags = {"R": ErrorFlag.ERROR_FLAG_RETRY, "U": ErrorFlag.ERROR_FLAG_UNCERTAIN}
    told = {int(code): (name, sum(flags[letter] for letter in letters.split())) for code, name, letters in rows}
    assert told == {int(code): (error_text(code), default_flags(code)) for code in ErrorCode}


def test_the_operations_table() -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|([^|]*)\|", PAGE, re.MULTILINE)
    told = {int(number): name for number, name, _ in rows if int(number) < 100}
    assert told == {int(operation): operation.name.lower() for operation in Operation}
    for number, _, keys in rows:
        if int(number) >= 100:
            continue
        fields = {
            field.encode_name for field in msgspec.structs.fields(operations.REQUEST_TYPES[Operation(int(number))])
        }
        named = {word for word in re.findall(r"`(\w+)`", keys) if word not in ("online", "away", "member")}
        assert named <= fields
        assert fields - named <= {"role"}  # remove_member shares its struct with add_member


def test_the_events_table() -> None:
    section = PAGE.split("## Events")[1].split("## Errors")[0]
    told = set(
        re.findall(r"`(\w+)`", " ".join(row.split("|")[1] for row in section.splitlines() if row.startswith("|")))
    )
    assert told - {"event"} == {kind.__struct_config__.tag for kind in operations.AnyEvent.__args__}


def test_limits_in_the_text() -> None:
    assert f"`limits.unacked_sends` ({MAX_UNACKED_SENDS})" in PAGE
    assert f"of over {MAX_SIGNAL_BODY_SIZE} bytes" in PAGE
    for key in ("frame_bytes", "body_bytes", "unacked_sends", "channels"):
        assert f"`{key}`" in PAGE
