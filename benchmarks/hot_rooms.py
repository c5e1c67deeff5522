"""Measures rooms in which much is said: what the flush window saves, and what 50 who never read cost the other 950.

    python benchmarks/hot_rooms.py window
    python benchmarks/hot_rooms.py silent

Fresh servers of each kind by turns, on core 0, with the load generator of whole_server.py on core 1, in an open loop:
latencies count from when a message was due. `window`: CPU per delivery with the window off and on, as ratios to off in
the same turn. `silent`: a room of 950 with and without 50 more whose sockets are full and who do not read. How much of
the machine others used is told for each run; nothing is thrown away. docs/performance.md has the tables. Judges
nothing, but fails if a delivery was wrong.
"""

import argparse
import contextlib
import socket
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from chatcore.operations import Operation
from chatcore_ext.constants import FrameType
from chatcore_ext.frame import FrameParser, encode_hello, encode_request, encode_send
from our_server import chatcore_server
from processes import Failure, Load, Server, run_load

WINDOWS_MS = [0, 1, 5, 20]
ROOM_RATES = [50, 200, 600]  # messages/s in each of two rooms of 100
READERS, SILENT = 950, 50
SILENT_RATE = 20  # messages/s in the room
ROOM, FILLED = "room:load-0-0", "room:filled"  # the first is the generator's
# Messages of 4 kB: more than the kernel takes for a socket (tcp_wmem is 4 MiB) and pause_size together.
N_FILLING, AT_ONCE = 1_600, 100


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(server: Server, load: Load, seconds: float) -> dict[str, Any]:
    answer = run_load(server, [*load.arguments, "--warm=0.5", f"--seconds={seconds}"])
    if not answer["right"]:
        raise Failure(f"{load.name}: wrong deliveries: {answer}")
    return answer


def cpu(answer: dict[str, Any]) -> float:
    """us of the server's CPU time per delivery."""
    return 1e6 * float(answer["server_cpu_seconds"]) / max(1, int(answer["deliveries"]))


def latency(answer: dict[str, Any], share: str) -> float:
    """ms"""
    return float(answer["latency_us"][share]) / 1000


def median(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


# --- the flush window ---


def measure_windows(arguments: argparse.Namespace) -> None:
    print("| messages/s in a room | window | CPU per delivery, us | ratio to off | p50 ms | p99 ms |\n|" + " --- |" * 6)
    for rate in ROOM_RATES:
        load = Load(f"{rate}/s", rooms=2, members=100, talkers=10, rate=2 * rate)
        found: dict[int, list[dict[str, Any]]] = {window: [] for window in WINDOWS_MS}
        for _ in range(arguments.runs):
            for window in WINDOWS_MS:
                with chatcore_server(load.connections, f'flush_window = "{window}ms"\n') as server:
                    found[window].append(measure(server, load, arguments.seconds))
                last = found[window][-1]
                say(f"{load.name} window {window} ms: {cpu(last):.3f} us, others {last['others_cores']:.2f}")
        for window, answers in found.items():
            ratios = [cpu(answer) / cpu(off) for answer, off in zip(answers, found[0], strict=True)]
            p50, p99 = (statistics.median(latency(answer, share) for answer in answers) for share in ("p50", "p99"))
            absolute = statistics.median(cpu(answer) for answer in answers)
            named = f"{window} ms" if window else "off"
            print(f"| {rate} | {named} | {absolute:.3f} | {median(ratios)} | {p50:.2f} | {p99:.2f} |", flush=True)


# --- those who do not read ---


class Member:
    """A client of blocking calls."""

    def __init__(self, server: Server, token: str, rooms: list[str]) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.settimeout(30)
        self.socket.sendall(encode_hello(1, msgspec.msgpack.encode({"token": token})))
        self.parser = FrameParser(2**24 - 1)
        self.frames: list[tuple[int, bytes]] = []
        self.next(FrameType.FRAME_WELCOME)
        self.numbers = [self._join(room) for room in rooms]

    def next(self, kind: FrameType) -> bytes:
        """Reads on to the next frame of a kind; others before it are dropped."""
        while True:
            while self.frames:
                found, body = self.frames.pop(0)
                if found == kind:
                    return body
            self.frames += self.parser.feed(self.socket.recv(65536))

    def _join(self, room: str) -> int:
        self.socket.sendall(encode_request(1, Operation.JOIN, msgspec.msgpack.encode({"channel": room})))
        return int(msgspec.msgpack.decode(self.next(FrameType.FRAME_REPLY)[4:])["number"])


@contextlib.contextmanager
def silent_members(server: Server) -> Iterator[None]:
    assert server.tokens is not None
    tokens = Path(server.tokens).read_text().split()[READERS:]
    members = [Member(server, token, [ROOM, FILLED]) for token in tokens[:SILENT]]
    filler = Member(server, tokens[SILENT], [FILLED])
    for first in range(1, N_FILLING, AT_ONCE):
        seqs = range(first, first + AT_ONCE)
        filler.socket.sendall(b"".join(encode_send(seq, filler.numbers[0], 0, bytes(3900)) for seq in seqs))
        for _ in seqs:
            filler.next(FrameType.FRAME_ACK)
    filler.socket.close()
    yield
    for member in members:
        member.socket.close()


def measure_silent(arguments: argparse.Namespace) -> None:
    print("| mode | | p50 ms | p99 ms | p50 ratio | p99 ratio | CPU ratio |\n|" + " --- |" * 7)
    for mode in ("signals", "messages"):
        load = Load(mode, rooms=1, members=READERS, talkers=1, mode=mode, rate=SILENT_RATE)
        without: list[dict[str, Any]] = []
        beside: list[dict[str, Any]] = []
        for _ in range(arguments.runs):
            with chatcore_server(READERS + SILENT + 1) as server:
                without.append(measure(server, load, arguments.seconds))
            with chatcore_server(READERS + SILENT + 1) as server, silent_members(server):
                beside.append(measure(server, load, arguments.seconds))
            for name, answer in (("without", without[-1]), ("beside", beside[-1])):
                p50, p99, others = latency(answer, "p50"), latency(answer, "p99"), answer["others_cores"]
                say(f"{mode} {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms, {cpu(answer):.3f} us, others {others:.2f}")
        pairs = list(zip(beside, without, strict=True))
        ratios = [median([latency(a, share) / latency(b, share) for a, b in pairs]) for share in ("p50", "p99")]
        ratios.append(median([cpu(a) / cpu(b) for a, b in pairs]))
        for name, answers in (("950 alone", without), ("beside 50 silent", beside)):
            p50, p99 = (statistics.median(latency(answer, share) for answer in answers) for share in ("p50", "p99"))
            compared = " | ".join(ratios if answers is beside else ["1"] * 3)
            print(f"| {mode} | {name} | {p50:.2f} | {p99:.2f} | {compared} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["window", "silent"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    arguments = parser.parse_args()
    try:
        measure_windows(arguments) if arguments.what == "window" else measure_silent(arguments)
    except Failure as failure:
        say(str(failure))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
