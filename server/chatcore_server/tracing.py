"""The traces of a worker: who follows what, and the lines that are waiting for each follower.

A follower that does not read loses lines, counted, and slows nobody: each trace holds a bounded number of them. While
nobody traces, the hub notes nothing and this does nothing.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import TypeVar

import msgspec

from chatcore_ext.constants import MAX_TRACES, FrameType
from chatcore_ext.hub import Hub
from chatcore_ext.tap import TapKind
from chatcore_ext.tracing import TraceEvent
from chatcore_server.clock import now_ms
from chatcore_server.logging import get_logger
from chatcore_server.trace_events import Line, line_of

_MAX_WAITING = 2_000  # lines that one trace holds: a second of a busy room
_MAX_CORRELATED = 4_096  # sends and requests whose answers are recognised; the oldest is forgotten
_OF_MESSAGES = frozenset({"recorded", "repeated", "fanned_out"})
_OF_CHANNELS = _OF_MESSAGES | {"send", "ack", "refused", "joined", "left", "relayed"}
_log = get_logger()
_Value = TypeVar("_Value")


class TooManyTraces(Exception):
    """As many as may run at once are running."""


class TraceTarget(msgspec.Struct, frozen=True):
    """Whom and what a trace follows: a player, a channel, or what happens to this player in this channel.

    `message`: only what is about the message of this id. `bodies`: with what players say."""

    player: bytes = b""
    channel: bytes = b""
    message: int = 0
    bodies: bool = False

    def follows(self, line: Line) -> bool:
        """The hub notes what any of the traces wants: this says what belongs to this one."""
        if self.message and not _is_about(line, self.message):
            return False
        if self.channel:
            return self._follows_in_channel(line)
        return self._is_of_player(line) and line["event"] not in ("recorded", "repeated")

    def _follows_in_channel(self, line: Line) -> bool:
        is_of_player = self._is_of_player(line)
        if line["channel"] != self.channel.decode():
            return is_of_player and line["channel"] == "" and line["event"] not in ("ping", "pong")
        if is_of_player:
            return True
        event: str = line["event"]
        if self.player:
            return event in _OF_MESSAGES
        if event == "missed":
            return "id" in line and line["reason"] not in ("not_joined", "not_connected")
        return event in _OF_CHANNELS or (event == "signal" and line["direction"] == "in")

    def _is_of_player(self, line: Line) -> bool:
        return bool(self.player) and line["player"] == self.player.decode()


def _is_about(line: Line, message: int) -> bool:
    if line["event"] == "gap":
        return bool((line["from"] or 0) < message <= line["to"])
    return bool(line.get("id") == message)


class Trace:
    """One follower's. `next_lines` until it is left; then `Tracer.stop`."""

    def __init__(self, target: TraceTarget) -> None:
        self.target = target
        self._lines: deque[Line] = deque()
        self._n_lost = 0
        self._has_some = asyncio.Event()

    def offer(self, line: Line) -> None:
        if len(self._lines) >= _MAX_WAITING:
            self._n_lost += 1
            return
        if not self.target.bodies and "body" in line:  # another trace has asked for them
            line = {name: value for name, value in line.items() if name != "body"}
        self._lines.append(line)
        self._has_some.set()

    def lose(self, n_lost: int) -> None:
        """The hub had no room for so many events, of whatever trace."""
        self._n_lost += n_lost
        self._has_some.set()

    async def next_lines(self, patience_s: float) -> list[Line]:
        """All that wait; after `patience_s` seconds without any: none."""
        try:
            async with asyncio.timeout(patience_s):
                await self._has_some.wait()
        except TimeoutError:
            return []
        self._has_some.clear()
        lines = list(self._lines)
        self._lines.clear()
        if self._n_lost:
            lines.append({"time": now_ms(), "event": "lost", "events": self._n_lost})
            self._n_lost = 0
        return lines


class Tracer:
    """Loop thread only. `drain` is to be called in every turn while `is_on`."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._traces: list[Trace] = []
        self._sends: OrderedDict[tuple[int, int], bytes] = OrderedDict()  # (connection, seq) -> channel
        self._requests: OrderedDict[tuple[int, int], tuple[str, bytes]] = OrderedDict()
        self.is_on = False

    # ---- Who follows what --------------------------------------------------------------------------------------------

    def start(self, target: TraceTarget) -> Trace:
        """Raises TooManyTraces."""
        if len(self._traces) >= MAX_TRACES:
            raise TooManyTraces
        trace = Trace(target)
        self._traces.append(trace)
        self._follow()
        # That somebody looks is no secret to whoever runs the server, least of all that they read what is said.
        _log.info("trace_started", **_loggable(target))
        return trace

    def stop(self, trace: Trace) -> None:
        if trace in self._traces:
            self._traces.remove(trace)
            self._follow()
            _log.info("trace_ended", **_loggable(trace.target))

    def _follow(self) -> None:
        self.drain()
        targets = [trace.target for trace in self._traces]
        self.is_on = bool(targets)
        self._hub.trace(
            {target.player for target in targets if target.player},
            {target.channel for target in targets if target.channel},
            any(target.bodies for target in targets),
        )
        if not targets:
            self._sends.clear()
            self._requests.clear()

    def is_followed(self, player: bytes) -> bool:
        return any(trace.target.player == player for trace in self._traces)

    # ---- What there is to see ----------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Hand over what the hub has noted."""
        n_lost, events = self._hub.take_trace()
        if events:
            time_ms = now_ms()
            self._hand_over(self._completed(line_of(event, time_ms), event) for event in events)
        if n_lost:
            for trace in self._traces:
                trace.lose(n_lost)

    def note(self, event: str, player: bytes, **fields: object) -> None:
        """What the hub does not see, in its place among what it does."""
        self.drain()
        line = {"time": now_ms(), "event": event, "direction": "", "connection": "", "player": player.decode("ascii")}
        self._hand_over([line | {"channel": ""} | fields])

    def _hand_over(self, lines: Iterable[Line]) -> None:
        for line in lines:
            for trace in self._traces:
                if trace.target.follows(line):
                    trace.offer(line)

    def _completed(self, line: Line, event: TraceEvent) -> Line:
        """Answers name neither the channel nor the operation: what they answer does."""
        kind, frame_type, connection = event[:3]
        if kind == TapKind.TAP_IN and frame_type == FrameType.FRAME_SEND and "seq" in line:
            _remember(self._sends, (connection, line["seq"]), event[4])
        elif kind == TapKind.TAP_IN and frame_type == FrameType.FRAME_REQUEST and "request" in line:
            line["channel"] = _channel_in(line)
            _remember(self._requests, (connection, line["request"]), (line["operation"], line["channel"].encode()))
        elif frame_type in (FrameType.FRAME_ACK, FrameType.FRAME_REFUSED) and "seq" in line:
            line["channel"] = self._sends.get((connection, line["seq"]), b"").decode("ascii", "replace")
        elif frame_type in (FrameType.FRAME_REPLY, FrameType.FRAME_FAILED) and "request" in line:
            operation, of = self._requests.pop((connection, line["request"]), ("", b""))
            line |= {"operation": operation, "channel": of.decode("utf-8", "replace")}
        elif kind == TapKind.TAP_OUT and frame_type == FrameType.FRAME_EVENT and not line["channel"]:
            line["channel"] = _channel_in(line)
        return line


def _channel_in(line: Line) -> str:
    """What a client or an event of ours has under the key `channel`; a client may have anything there."""
    channel = line.get("fields", {}).get("channel", "")
    return channel if isinstance(channel, str) else ""


def _remember(known: OrderedDict[tuple[int, int], _Value], key: tuple[int, int], value: _Value) -> None:
    known[key] = value
    if len(known) > _MAX_CORRELATED:
        known.popitem(last=False)


def _loggable(target: TraceTarget) -> dict[str, object]:
    names = {"player": target.player.decode(), "channel": target.channel.decode()}
    return {name: value for name, value in names.items() if value} | {"bodies": target.bodies}
