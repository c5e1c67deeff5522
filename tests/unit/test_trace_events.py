"""A trace's lines: every frame told in words, no credential in any, and nothing that a client sends breaks one."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore.operations import Hello, Operation, TicketEvent
from chatcore_ext.constants import UNKNOWN_ID, DeliverFlag, FrameType, SendFlag
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import (
    encode_ack,
    encode_deliver,
    encode_error,
    encode_failed,
    encode_gap,
    encode_goaway,
    encode_refused,
    encode_reply,
    encode_request,
    encode_send,
    encode_signal,
)
from chatcore_ext.tap import Fate, TapKind
from chatcore_server.trace_client import readable, readable_answer
from chatcore_server.trace_events import connection_text, line_of
from chatcore_server.tracing import Trace, TraceTarget

HEADER = 4
ERROR = encode_error(ErrorCode.ERROR_RATE_LIMITED, 1, 250, b"slowly")
NOTHING = (0, 0, 0, 0, 0, 0)


def frame(kind: TapKind, frame_type: FrameType, body: bytes, kept: int | None = None) -> dict[str, Any]:
    return line_of((kind, frame_type, (7 << 32) | 3, b"alice", b"", NOTHING, len(body), body[:kept]), 1000)


def incoming(frame_type: FrameType, encoded: bytes) -> dict[str, Any]:
    return frame(TapKind.TAP_IN, frame_type, encoded[HEADER:])


def outgoing(frame_type: FrameType, encoded: bytes) -> dict[str, Any]:
    return frame(TapKind.TAP_OUT, frame_type, encoded[HEADER:])


def note(kind: TapKind, *numbers: int) -> dict[str, Any]:
    padded = (*numbers, 0, 0, 0, 0, 0, 0)
    return line_of((kind, 0, 0, b"alice", b"room:lobby", padded[:6], 5, b""), 1000)  # type: ignore[arg-type]


def told(line: dict[str, Any], *names: str) -> tuple[Any, ...]:
    return tuple(line[name] for name in names)


def test_every_frame_is_told() -> None:
    kind = FrameType
    line = incoming(kind.FRAME_SEND, encode_send(4, 9, SendFlag.SEND_RESEND, b"hello"))
    assert line == {
        "time": 1000,
        "event": "send",
        "direction": "in",
        "connection": "3.7",
        "player": "alice",
        "channel": "",
        "seq": 4,
        "number": 9,
        "size": 5,
        "resend": True,
        "body": "hello",
    }
    assert told(outgoing(kind.FRAME_ACK, encode_ack(4, 17, 5)), "direction", "event", "seq", "id") == (
        "out",
        "ack",
        4,
        17,
    )
    line = outgoing(kind.FRAME_REFUSED, encode_refused(4, ERROR))
    assert told(line, "seq", "code", "message", "retry_after_ms") == (4, "rate_limited", "slowly", 250)
    line = outgoing(kind.FRAME_DELIVER, encode_deliver(9, 0, 17, UNKNOWN_ID, 1, 2, b"bob", b"hello"))
    assert told(line, "id", "prev", "sender", "size", "body") == (17, None, "bob", 5, "hello")
    line = outgoing(kind.FRAME_DELIVER, encode_deliver(9, DeliverFlag.DELIVER_HIDDEN, 17, 16, 1, 2, b"", b""))
    assert told(line, "id", "hidden") == (17, True)
    assert "size" not in line
    line = incoming(kind.FRAME_SIGNAL, encode_signal(9, 1, b"", b"x"))
    assert told(line, "kind", "size", "body") == (1, 1, "x")
    assert told(outgoing(kind.FRAME_GAP, encode_gap(9, 16, 20)), "from", "to") == (16, 20)
    line = outgoing(kind.FRAME_GOAWAY, encode_goaway(100, 200))
    assert told(line, "deadline_ms", "reconnect_window_ms") == (100, 200)
    body = msgspec.msgpack.encode({"channel": "room:lobby", "after": 3})
    line = incoming(kind.FRAME_REQUEST, encode_request(5, Operation.SYNC, body))
    assert told(line, "request", "operation", "fields") == (5, "sync", {"channel": "room:lobby", "after": 3})
    line = outgoing(kind.FRAME_REPLY, encode_reply(5, msgspec.msgpack.encode({"entries": [[1], [2]], "more": False})))
    assert told(line, "request", "fields") == (5, {"entries": "(2)", "more": False})
    assert told(outgoing(kind.FRAME_FAILED, encode_failed(5, ERROR)), "request", "code") == (5, "rate_limited")
    assert frame(TapKind.TAP_OUT, kind.FRAME_CLOSE, ERROR)["code"] == "rate_limited"
    assert frame(TapKind.TAP_IN, kind.FRAME_PING, b"12345678")["event"] == "ping"
    welcome = {"player": "alice", "lost": {"group:wolves": 303}, "limits": {"a": 1}}
    line = frame(TapKind.TAP_OUT, kind.FRAME_WELCOME, msgspec.msgpack.encode(welcome))
    assert line["fields"] == {"player": "alice", "lost": {"group:wolves": "not_allowed"}}


def test_sizes_are_told_where_bodies_were_not_kept() -> None:
    body = encode_deliver(9, 0, 17, 16, 1, 2, b"bob", b"hello")[HEADER:]
    line = frame(TapKind.TAP_OUT, FrameType.FRAME_DELIVER, body, -5)
    assert told(line, "sender", "size") == ("bob", 5)
    assert "body" not in line


def test_decisions_are_told() -> None:
    line = note(TapKind.TAP_RECORD, 17, UNKNOWN_ID, 5, 4, 0, 2)
    assert told(line, "event", "id", "prev", "members", "size") == ("recorded", 17, None, 2, 5)
    assert told(note(TapKind.TAP_RECORD, 18, 0, 5, 4, 1, 2), "event", "id", "seq") == ("repeated", 18, 4)
    assert told(note(TapKind.TAP_MISSED, 17, Fate.FATE_HIDDEN), "event", "id", "reason") == ("missed", 17, "hidden")
    line = note(TapKind.TAP_MISSED, 17, Fate.FATE_LEFT_OUT, 9000, 12)
    assert told(line, "reason", "pending", "first_left_out") == ("left_out", 9000, 12)
    line = note(TapKind.TAP_FANNED_OUT, 17, 5, 1, 2, 3)
    assert told(line, "event", "delivered", "hidden", "left_out", "closing") == ("fanned_out", 5, 1, 2, 3)
    assert note(TapKind.TAP_FANNED_OUT, 0, 5)["event"] == "relayed"
    assert note(TapKind.TAP_DETACHED, 5, 0)["code"] == "by the peer"
    assert note(TapKind.TAP_DETACHED, 5, ErrorCode.ERROR_SLOW_RECEIVER)["code"] == "slow_receiver"
    for kind in TapKind.__members__.values():
        if kind not in (TapKind.TAP_IN, TapKind.TAP_OUT):
            assert note(kind)["event"]


def test_no_credential_is_told() -> None:
    secret = b"ticket-that-opens-doors"
    bodies = [
        msgspec.msgpack.encode({"ticket": secret, "ticket_ms": 5}),
        msgspec.msgpack.encode(TicketEvent(secret, 5)),
        msgspec.msgpack.encode(Hello(token=secret.decode(), ticket=secret)),
        msgspec.msgpack.encode({"odd": secret, "deep": {"ticket": secret}, "list": [secret]}),
    ]
    for body in bodies:
        for frame_type in (FrameType.FRAME_WELCOME, FrameType.FRAME_EVENT, FrameType.FRAME_HELLO):
            line = frame(TapKind.TAP_OUT, frame_type, body)
            assert secret not in msgspec.json.encode(line)
            assert secret.decode() not in readable(line)


@given(st.sampled_from([TapKind.TAP_IN, TapKind.TAP_OUT]), st.integers(0, 255), st.binary(max_size=80))
def test_no_frame_breaks_a_line(kind: TapKind, frame_type: int, body: bytes) -> None:
    line = line_of((kind, frame_type, 1, b"\xff", b"\xff", NOTHING, len(body), body), 1000)
    msgspec.json.encode(line)
    assert readable(msgspec.json.decode(msgspec.json.encode(line))).isprintable()


@given(
    st.recursive(
        st.none() | st.integers(0, 9) | st.text() | st.binary(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_no_map_breaks_a_line(value: object) -> None:
    for body in (msgspec.msgpack.encode(value), msgspec.msgpack.encode({"channel": value, "lost": value})):
        line = frame(TapKind.TAP_IN, FrameType.FRAME_REQUEST, b"\0\0\0\1\xff" + body)
        assert readable(msgspec.json.decode(msgspec.json.encode(line))).isprintable()


@pytest.mark.parametrize("value", [msgspec.msgpack.Ext(5, b"x"), datetime(2026, 1, 1, tzinfo=UTC), 1.5, True])
def test_a_value_of_another_kind_does_not_end_the_trace(value: object) -> None:
    body = msgspec.msgpack.encode({"channel": value})
    told = msgspec.json.decode(msgspec.json.encode(incoming(FrameType.FRAME_REQUEST, encode_request(1, 1, body))))
    assert told["fields"] == {"channel": value if isinstance(value, bool | float) else f"({type(value).__name__})"}


def test_a_readable_line() -> None:
    line = note(TapKind.TAP_MISSED, 17, Fate.FATE_HIDDEN)
    assert readable(line)[12:] == ' * alice            missed room:lobby reason="hidden (has blocked the sender)" id=17'
    send = incoming(FrameType.FRAME_SEND, encode_send(4, 9, 0, b"a\x1b[2Jb"))
    assert readable(send)[12:] == ' > alice#3.7        send seq=4 "a\\u001b[2Jb"'
    assert (
        readable({"time": 1000, "event": "lost", "events": 5})[12:] == " ! 5 events were lost: more happened than fits"
    )
    answer = {"verdict": "sent", "answer": "It was.", "facts": {"devices": [{"session": 5, "connection": ""}]}}
    assert readable_answer(answer) == "sent: It was.\n  session 5"
    assert connection_text(0) == ""


# ---- What belongs to a trace ---------------------------------------------------------------------------------------


def line(event: str, player: str = "", channel: str = "", **more: Any) -> dict[str, Any]:
    return {"event": event, "player": player, "channel": channel, "direction": "out", **more}


@pytest.mark.parametrize(
    ("target", "theirs", "not_theirs"),
    [
        (
            TraceTarget(player=b"alice"),
            [line("deliver", "alice", "room:a", id=1), line("ping", "alice"), line("missed", "alice", "room:a", id=1)],
            [line("deliver", "bob"), line("recorded", "alice", "room:a"), line("fanned_out", "", "room:a")],
        ),
        (
            TraceTarget(channel=b"room:a"),
            [
                line("recorded", "bob", "room:a"),
                line("fanned_out", "", "room:a"),
                line("missed", "bob", "room:a", id=1, reason="hidden"),
                line("signal", "bob", "room:a") | {"direction": "in"},
                line("ack", "bob", "room:a"),
            ],
            [
                line("recorded", "bob", "room:b"),
                line("deliver", "alice", "room:a"),
                line("signal", "alice", "room:a"),
                line("missed", "alice", "room:a", id=1, reason="not_joined"),
                line("missed", "alice", "room:a", reason="left_out"),
                line("ack", "bob"),
            ],
        ),
        (
            TraceTarget(player=b"alice", channel=b"room:a"),
            [
                line("recorded", "bob", "room:a"),
                line("deliver", "alice", "room:a"),
                line("missed", "alice", "room:a", id=1, reason="not_joined"),
                line("disconnected", "alice"),
            ],
            [
                line("missed", "bob", "room:a", id=1, reason="hidden"),
                line("ping", "alice"),
                line("left", "alice", "room:b"),
            ],
        ),
        (
            TraceTarget(channel=b"room:a", player=b"alice", message=7),
            [line("recorded", "bob", "room:a", id=7), line("gap", "alice", "room:a", **{"from": 6, "to": 7})],
            [line("recorded", "bob", "room:a", id=8), line("gap", "alice", "room:a", **{"from": 7, "to": 9})],
        ),
    ],
)
def test_a_trace_gets_what_it_follows(
    target: TraceTarget, theirs: list[dict[str, Any]], not_theirs: list[dict[str, Any]]
) -> None:
    assert [each for each in theirs if not target.follows(each)] == []
    assert [each for each in not_theirs if target.follows(each)] == []


@pytest.mark.asyncio
async def test_a_trace_that_is_not_read_is_bounded_and_says_what_it_lost() -> None:
    trace = Trace(TraceTarget(player=b"alice"))
    assert await trace.next_lines(0) == []
    for id in range(5_000):
        trace.offer(line("deliver", "alice", id=id, body="secret"))
    trace.lose(3)
    *lines, lost = await trace.next_lines(1)
    assert [each["id"] for each in lines] == list(range(2_000))
    assert (lost["event"], lost["events"]) == ("lost", 3_003)
    assert not any("body" in each for each in lines), "another trace asked for them"
    assert await trace.next_lines(0) == []
