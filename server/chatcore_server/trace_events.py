"""What a trace's line says: the hub's notes (`Hub.take_trace`) as dicts of plain values, ready for JSON.

Tickets and tokens never appear, whatever was asked for: a trace must not be a way to become somebody else. What players
say appears only where the hub has kept it.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from chatcore.operations import Operation
from chatcore_ext.constants import UNKNOWN_ID, DeliverFlag, FrameType, SendFlag
from chatcore_ext.error_codes import error_text
from chatcore_ext.frame import decode_ack, decode_error, decode_gap, decode_goaway, decode_refused
from chatcore_ext.tap import Fate, TapKind
from chatcore_ext.tracing import TraceEvent

Line = dict[str, Any]

_SECRET = frozenset({"ticket", "token"})
_CONSTANT = frozenset({"limits", "server", "heartbeat_ms", "heartbeat_grace_ms"})  # of WELCOME: the same for all
_MOST_ITEMS = 8  # of a list or map that is shown as it is

_REASONS = {int(fate): name.removeprefix("FATE_").lower() for name, fate in Fate.__members__.items()}
_FRAME_NAMES = {int(kind): name.removeprefix("FRAME_").lower() for name, kind in FrameType.__members__.items()}

_SEND_PREFIX = 13  # bytes; docs/protocol.md has the layouts
_REQUEST_ID = 4


def connection_text(handle: int) -> str:
    """A connection's slot and how often it was used: short, and never the same twice."""
    return f"{handle & 0xFFFFFFFF}.{handle >> 32}" if handle else ""


def line_of(event: TraceEvent, time_ms: int) -> Line:
    kind, frame_type, connection, player, channel, numbers, size, body = event
    line: Line = {"time": time_ms, "event": "", "direction": "", "connection": connection_text(connection)}
    line["player"] = player.decode("ascii", "replace")
    line["channel"] = channel.decode("ascii", "replace")
    if kind in (TapKind.TAP_IN, TapKind.TAP_OUT):
        line["direction"] = "in" if kind == TapKind.TAP_IN else "out"
        line |= _frame(frame_type, size, body)
    else:
        line |= _NOTES[kind](numbers)
        if kind == TapKind.TAP_RECORD:
            line |= {"size": size} | _text(body)
    return line


# ---- Decisions and changes -------------------------------------------------------------------------------------------


def _recorded(numbers: tuple[int, ...]) -> Line:
    id, prev, session, seq, is_repeated, n_members = numbers
    if is_repeated:
        return {"event": "repeated", "id": id, "session": session, "seq": seq}
    return {"event": "recorded", "id": id, "prev": _id(prev), "session": session, "seq": seq, "members": n_members}


def _fanned_out(numbers: tuple[int, ...]) -> Line:
    id, delivered, hidden, not_now, closing, _ = numbers
    line: Line = {"event": "fanned_out", "id": id} if id else {"event": "relayed"}
    counts = {"delivered": delivered, "hidden": hidden, "left_out" if id else "waits": not_now, "closing": closing}
    return line | counts


def _missed(numbers: tuple[int, ...]) -> Line:
    id, fate, pending, first_left_out, _, _ = numbers
    line: Line = {"event": "missed", "reason": _REASONS[fate]}
    if fate in (Fate.FATE_LEFT_OUT, Fate.FATE_TAKEN_BACK):
        line["pending"] = pending
    if id:
        line["id"] = id
    if first_left_out:
        line["first_left_out"] = first_left_out
    return line


_NOTES: dict[int, Callable[[tuple[int, ...]], Line]] = {
    TapKind.TAP_ATTACHED: lambda numbers: {"event": "logged_in", "session": numbers[0], "sessions": numbers[1]},
    TapKind.TAP_DETACHED: lambda numbers: {
        "event": "disconnected",
        "session": numbers[0],
        "code": error_text(numbers[1]) if numbers[1] else "by the peer",
    },
    TapKind.TAP_JOINED: lambda numbers: {
        "event": "joined",
        "number": numbers[0],
        "members": numbers[1],
        "may_send": bool(numbers[2]),
    },
    TapKind.TAP_LEFT: lambda numbers: {"event": "left"},
    TapKind.TAP_RECORD: _recorded,
    TapKind.TAP_FANNED_OUT: _fanned_out,
    TapKind.TAP_MISSED: _missed,
}


# ---- Frames ----------------------------------------------------------------------------------------------------------


def _frame(frame_type: int, size: int, body: bytes) -> Line:
    name = _FRAME_NAMES.get(frame_type)
    if name is None:
        return {"event": f"frame_{frame_type:#04x}", "size": size}
    try:
        return {"event": name} | _FRAMES.get(frame_type, _nothing)(size, body)
    except Exception:  # a client may send anything, and its line must not cost others their turn
        return {"event": name, "undecodable": size}


def _nothing(size: int, body: bytes) -> Line:
    return {}


def _send(size: int, body: bytes) -> Line:
    seq, number, flags = int.from_bytes(body[:8]), int.from_bytes(body[8:12]), body[12]
    line: Line = {"seq": seq, "number": number, "size": size - _SEND_PREFIX}
    line |= {"resend": True} if flags & SendFlag.SEND_RESEND else {}
    return line | _text(body[_SEND_PREFIX:])


def _ack(size: int, body: bytes) -> Line:
    seq, id, _ = decode_ack(body)
    return {"seq": seq, "id": id}


def _refused(size: int, body: bytes) -> Line:
    seq, error = decode_refused(body)
    return {"seq": seq} | _error(error)


def _deliver(size: int, body: bytes) -> Line:
    flags, sender_size = body[4], body[5]
    id, prev = int.from_bytes(body[6:14]), int.from_bytes(body[14:22])
    start = 38 + sender_size
    line: Line = {"id": id, "prev": _id(prev), "sender": body[38:start].decode("ascii", "replace")}
    line |= {"hidden": True} if flags & DeliverFlag.DELIVER_HIDDEN else {"size": size - start}
    return line | _text(body[start:])


def _signal(size: int, body: bytes) -> Line:
    number, kind, start = int.from_bytes(body[:4]), body[4], 6 + body[5]
    line: Line = {"number": number, "kind": kind, "size": size - start}
    line |= {"sender": body[6:start].decode("ascii", "replace")} if body[5] else {}
    return line | _text(body[start:])


def _gap(size: int, body: bytes) -> Line:
    _, first, last = decode_gap(body)
    return {"from": _id(first), "to": last}


def _goaway(size: int, body: bytes) -> Line:
    deadline_ms, window_ms = decode_goaway(body)
    return {"deadline_ms": deadline_ms, "reconnect_window_ms": window_ms}


def _request(size: int, body: bytes) -> Line:
    line: Line = {"request": int.from_bytes(body[:_REQUEST_ID]), "operation": _operation(body[_REQUEST_ID])}
    return line | _fields(body[_REQUEST_ID + 1 :])


def _reply(size: int, body: bytes) -> Line:
    return {"request": int.from_bytes(body[:_REQUEST_ID])} | _fields(body[_REQUEST_ID:])


def _failed(size: int, body: bytes) -> Line:
    return {"request": int.from_bytes(body[:_REQUEST_ID])} | _error(body[_REQUEST_ID:])


def _map(size: int, body: bytes) -> Line:
    return _fields(body)


def _error(body: bytes) -> Line:
    _, _, retry_after_ms, name, message = decode_error(body)
    line: Line = {"code": name}
    line |= {"message": message} if message else {}
    return line | ({"retry_after_ms": retry_after_ms} if retry_after_ms else {})


_FRAMES: dict[int, Callable[[int, bytes], Line]] = {
    FrameType.FRAME_SEND: _send,
    FrameType.FRAME_ACK: _ack,
    FrameType.FRAME_REFUSED: _refused,
    FrameType.FRAME_DELIVER: _deliver,
    FrameType.FRAME_SIGNAL: _signal,
    FrameType.FRAME_GAP: _gap,
    FrameType.FRAME_GOAWAY: _goaway,
    FrameType.FRAME_REQUEST: _request,
    FrameType.FRAME_REPLY: _reply,
    FrameType.FRAME_FAILED: _failed,
    FrameType.FRAME_CLOSE: lambda size, body: _error(body),
    FrameType.FRAME_WELCOME: _map,
    FrameType.FRAME_EVENT: _map,
}


# ---- Values ----------------------------------------------------------------------------------------------------------


def _id(id: int) -> int | None:
    """None: nobody knows it, as after a start when history has not been asked yet."""
    return None if id == UNKNOWN_ID else id


def _text(body: bytes) -> Line:
    return {"body": body.decode("utf-8", "replace")} if body else {}


def _operation(number: int) -> str:
    try:
        return Operation(number).name.lower()
    except ValueError:
        return str(number)


def _fields(body: bytes) -> Line:
    """The map of a MessagePack body, under one key so that none of its names takes the place of one of ours."""
    decoded = msgspec.msgpack.decode(body) if body else {}
    if not isinstance(decoded, dict):
        return {"undecodable": len(body)}
    fields = {str(name): _value(str(name), value) for name, value in decoded.items() if name not in _CONSTANT}
    return {"fields": fields} if fields else {}


def _value(name: str, value: object) -> object:
    if name in _SECRET:
        return "(secret)"
    if name == "lost" and isinstance(value, dict) and 0 < len(value) <= _MOST_ITEMS:  # channels, by a resume
        return {str(channel): error_text(code) for channel, code in value.items()}
    if isinstance(value, dict):
        return sorted(map(str, value)) if len(value) <= _MOST_ITEMS else f"({len(value)})"
    if isinstance(value, list):
        is_short = len(value) <= _MOST_ITEMS and all(isinstance(each, str) for each in value)
        return value if is_short else f"({len(value)})"
    if isinstance(value, bytes):
        return f"({len(value)} bytes)"
    # MessagePack's extensions are no values of JSON, and none of this protocol.
    return value if value is None or isinstance(value, bool | int | float | str) else f"({type(value).__name__})"
