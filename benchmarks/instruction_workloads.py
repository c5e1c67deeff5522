"""The compiled hot paths as fixed pieces of work, whose instructions tools/count_instructions.py counts.

    valgrind --tool=callgrind ... python benchmarks/instruction_workloads.py

Every piece is the same each time: no random numbers, no clock that decides anything, one turn per call. Sockets are
socket pairs whose other ends are read between the counts; what the kernel does is not counted. Times nothing.
"""

import ctypes
import gc
import os
import select
import socket
from collections.abc import Callable
from typing import NamedTuple

from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.constants import FrameType, RecordKind
from chatcore_ext.frame import (
    FrameParser,
    encode_deliver,
    encode_frame,
    encode_hello,
    encode_send,
    encode_signal,
)
from chatcore_ext.hub import EVENT_HELLO, EVENT_SEND, Hub
from chatcore_ext.log_view import LogView
from chatcore_ext.record import encode_record
from chatcore_ext.replay_window import ReplayWindow
from chatcore_ext.timing_wheel import TimingWheel
from chatcore_ext.token_bucket import TokenBucket
from crowd import OWN_DESCRIPTORS, raise_descriptor_limit
from native import build

BODY = bytes(128)
SENDER = b"player-0001"
CHANNEL = b"room:crowd"
EMPTY_MAP = b"\x80"  # MessagePack
N = 1000
MESSAGES = 10  # of a fan-out's turn
NO_LIMIT = 1_000_000


class Workload(NamedTuple):
    """`run` is what is counted, `n` items of it; `restore` makes it possible again."""

    n: int
    run: Callable[[], object]
    restore: Callable[[], object] = lambda: None


class Crowd:
    """A hub and its peers in one process: n players, one connection each, all in CHANNEL."""

    def __init__(self, n: int) -> None:
        raise_descriptor_limit(2 * n + OWN_DESCRIPTORS)
        self.hub = Hub(
            LogView(),
            on_direct=lambda *_: None,
            on_control=lambda *_: None,
            frames_per_second=NO_LIMIT,
            frame_burst=NO_LIMIT,
        )
        self._poll = select.poll()
        self._poll.register(self.hub.fileno(), select.POLLIN)
        self.peers: list[socket.socket] = []
        self.connections: list[int] = []
        self.channel = 0  # its number
        self._offset = 0
        for i in range(n):
            ours, theirs = socket.socketpair()
            theirs.setblocking(False)
            theirs.sendall(encode_hello(1, EMPTY_MAP))
            self.peers.append(theirs)
            self.connections.append(self._welcome(ours.detach(), i + 1))
        self.drain()

    def _welcome(self, descriptor: int, session: int) -> int:
        hub = self.hub
        connection = hub.adopt(descriptor)
        (event,) = self.turn()
        assert event[:2] == (EVENT_HELLO, connection)
        assert hub.attach(connection, session, b"p%d" % session) == 1
        self.channel = hub.complete_join(connection, CHANNEL, hub.begin_join(connection, CHANNEL), True)
        assert self.channel
        return connection

    def turn(self) -> list[tuple[object, ...]]:
        assert self._poll.poll(0), "there is nothing for the hub to do"
        return self.hub.run_burst()

    def messages(self, n: int) -> list[tuple[int, int, bytes, bytes]]:
        """The next records of the log."""
        first, self._offset = self._offset + 1, self._offset + n
        return [
            (i, i, CHANNEL, encode_record(RecordKind.RECORD_MESSAGE, 9, i, i, SENDER, BODY))
            for i in range(first, first + n)
        ]

    def drain(self) -> None:
        """Sends what is appended, and reads all that has been sent."""
        self.hub.flush()
        assert not self.hub.pending_output
        for peer in self.peers:
            try:
                while peer.recv(1 << 16):
                    pass
            except BlockingIOError:
                pass


# ---- Frames in -------------------------------------------------------------------------------------------------------


def parse(read_size: int) -> Workload:
    stream = encode_send(1, 1, 0, BODY) * N
    reads = [stream[at : at + read_size] for at in range(0, len(stream), read_size)]

    def run() -> None:
        parser = FrameParser()
        for read in reads:
            parser.feed(read)

    return Workload(N, run)


def inbound(receivers: int, frame: Callable[[Crowd], bytes], n_events: int) -> Workload:
    """One connection's frames in one turn, sent beforehand."""
    crowd = Crowd(receivers)
    n = 100
    data = frame(crowd) * n

    def send() -> None:
        crowd.drain()
        crowd.peers[0].sendall(data)

    def run() -> None:
        events = crowd.turn()
        assert len(events) == n_events, events[:3]
        assert all(event[0] == EVENT_SEND for event in events)

    send()
    return Workload(n, run, send)


def inbound_send() -> Workload:
    return inbound(1, lambda crowd: encode_send(1, crowd.channel, 0, BODY), 100)


def inbound_signal() -> Workload:
    return inbound(100, lambda crowd: encode_signal_frame(crowd.channel), 0)


def encode_signal_frame(channel: int) -> bytes:
    return encode_signal(channel, 128, b"", BODY)


def inbound_ping() -> Workload:
    return inbound(1, lambda _: encode_frame(FrameType.FRAME_PING, bytes(8)), 0)


# ---- Frames out ------------------------------------------------------------------------------------------------------


def fan_out(receivers: int) -> Workload:
    """Records of the log until each receiver notes where its bytes lie: decoded, admitted, hashed, encoded once."""
    crowd = Crowd(receivers)
    batches = [crowd.messages(MESSAGES) for _ in range(N)]
    return Workload(MESSAGES * receivers, lambda: crowd.hub.deliver(0, batches.pop(0)), crowd.drain)


def flush(receivers: int) -> Workload:
    """What is noted becomes one system call for each receiver."""
    crowd = Crowd(receivers)

    def append() -> None:
        crowd.drain()
        crowd.hub.deliver(0, crowd.messages(MESSAGES))

    append()
    return Workload(receivers, crowd.hub.flush, append)


def ack() -> Workload:
    crowd = Crowd(1)
    acks = [(crowd.connections[0], i, i, i) for i in range(1, N + 1)]
    return Workload(N, lambda: crowd.hub.ack(acks), crowd.drain)


def encode() -> Workload:
    def run() -> None:
        for i in range(1, N + 1):
            encode_deliver(7, 0, i, i, i, i, SENDER, BODY)

    return Workload(N, run)


# ---- Tables ----------------------------------------------------------------------------------------------------------


def join_and_leave(members: int) -> Workload:
    crowd = Crowd(100)
    hub, places = crowd.hub, [(c, b"room:join-%d" % (i // members)) for i, c in enumerate(crowd.connections)]

    def run() -> None:
        for connection, channel in places:
            hub.complete_join(connection, channel, hub.begin_join(connection, channel), True)
        for connection, channel in places:
            hub.leave(connection, channel)

    return Workload(len(places), run)


def replay_window(copies: int) -> Workload:
    """Records of 100 sessions; with 2 copies, the second of each is refused."""
    window, sends = ReplayWindow(), iter(range(1 << 62))

    def run() -> None:
        for _ in range(N // copies):
            send = next(sends)
            session, seq = 1 + send % 100, 1 + send // 100
            for copy in range(copies):
                assert window.admit(session, session % 12, seq, 1_000_000 + send) == (copy == 0)

    return Workload(N, run)


def hash_chain() -> Workload:
    def run() -> None:
        hash = 0
        for i in range(1, N + 1):
            hash = chain_hash(hash, i, SENDER, BODY)

    return Workload(N, run)


def move_deadlines() -> Workload:
    wheel = TimingWheel(1024, 100, 0)
    for key in range(N):
        wheel.insert(key, 30_000 + key)
    deadlines = iter(range(40_000, 1 << 62))

    def run() -> None:
        deadline = next(deadlines)
        for key in range(N):
            wheel.insert(key, deadline + key)

    return Workload(N, run)


def tick() -> Workload:
    """A tick in which nothing fires; 1,000 deadlines wait."""
    wheel = TimingWheel(1024, 100, 0)
    for key in range(N):
        wheel.insert(key, (1 << 40) + 100 * key)
    times = iter(range(0, 1 << 40, 100))

    def run() -> None:
        for _ in range(1024):  # one revolution, so that each slot has its turn
            wheel.advance(next(times))

    return Workload(1024, run)


def take_tokens() -> Workload:
    bucket, times = TokenBucket(100, 400, 0), iter(range(0, 1 << 62, 5))

    def run() -> None:
        for _ in range(N):
            bucket.take(next(times))

    return Workload(N, run)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "parse frames, whole": lambda: parse(1 << 16),
    "parse frames, cut at 1460": lambda: parse(1460),
    "SEND to event": inbound_send,
    "SIGNAL to 100 receivers": inbound_signal,
    "PING to PONG": inbound_ping,
    "record to 1 receiver": lambda: fan_out(1),
    "record to 100 receivers": lambda: fan_out(100),
    "record to 1000 receivers": lambda: fan_out(1000),
    "flush to 100 receivers": lambda: flush(100),
    "flush to 1000 receivers": lambda: flush(1000),
    "ACK": ack,
    "encode DELIVER": encode,
    "join and leave, own channel": lambda: join_and_leave(1),
    "join and leave, one channel": lambda: join_and_leave(100),
    "replay window, first copies": lambda: replay_window(1),
    "replay window, two copies": lambda: replay_window(2),
    "chain hash": hash_chain,
    "timing wheel, move": move_deadlines,
    "timing wheel, tick": tick,
    "token bucket": take_tokens,
}


def main() -> None:
    """Prints each workload's name and items; its dump carries its place in the list as a name."""
    marks = ctypes.CDLL(str(build("callgrind_marks.so", "-shared", "-fPIC")))
    marks.end.argtypes = [ctypes.c_char_p]
    gc.disable()  # it would run where allocations happen to be counted
    pieces = [make() for make in WORKLOADS.values()]
    for piece in pieces:  # memory that grows once has grown
        piece.run()
        piece.restore()
    marks.start()
    for number, (name, piece) in enumerate(zip(WORKLOADS, pieces, strict=True)):
        label = b"%d" % number
        marks.begin()
        piece.run()
        marks.end(label)
        print(piece.n, name, sep="\t", flush=True)
    os._exit(0)  # without the time that valgrind takes for an interpreter's end


if __name__ == "__main__":
    main()
