"""Measures what idle connections cost the server, beside the bare C server: its CPU time while they send nothing but
heartbeats, and its memory.

    python benchmarks/idle.py [--connections 50000] [--seconds 80]

Each connection has said HELLO with a valid token and is in two rooms of 100. Every 30 s each sends a PING, one after
the other at even distances: clients that beat in step would let the server answer hundreds in one turn. The server also
renews their tickets, so the measured time should be whole renewal periods (80 s). The figure is the server's CPU (all
threads, process CPU clock); an empty server's, measured first, is told beside it. The bare server (limit_server.c)
answers PINGs, and has neither rooms, tickets nor deadlines: it says what the kernel takes.
"""

import argparse
import json
import os
import random
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from chatcore.operations import Hello, encode_body
from chatcore_ext.constants import DEFAULT_HEARTBEAT_MS, PROTOCOL_VERSION, FrameType
from chatcore_ext.frame import FrameParser, encode_frame, encode_hello
from crowd import raise_descriptor_limit
from logins import cpu_seconds, wait_until_quiet
from our_server import KEPT_DESCRIPTORS, chatcore_server
from processes import GENERATOR_CORE, Failure, Server, limit_server
from whole_server import resident_bytes

HEARTBEAT_S = DEFAULT_HEARTBEAT_MS / 1000
PER_ROOM = 100
WAVE = 100  # connections that say hello at the same time
PER_SOURCE = 20_000  # of one source address, whose ephemeral ports are some 28,000
EMPTY_S = 5.0  # how long the empty server is looked at
DRAINED_AFTER = 32  # heartbeats between two looks at what has come
CONNECT_S = 300.0
WAIT_S = 20.0
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen at connect(), so ports that linger elsewhere are free
PING = encode_frame(FrameType.FRAME_PING, bytes(8))


class Cost(NamedTuple):
    """Of the measured time. `empty_share` and `share` are of one core."""

    server: str
    connections: int
    seconds: float
    empty_share: float
    share: float
    heartbeats: int
    bytes_each: float

    @property
    def us_per_heartbeat(self) -> float:
        """All that connections cost, tickets too, by heartbeat."""
        return 1e6 * (self.share - self.empty_share) * self.seconds / self.heartbeats


class IdleCrowd:
    """Connections that have logged in; what they are sent is read and dropped."""

    def __init__(self, server: Server, tokens: list[str]) -> None:
        self._port = server.port
        self._poll = select.epoll()
        self._peers: dict[int, socket.socket] = {}
        self._silent: deque[tuple[float, socket.socket]] = deque()  # since when; the longest first
        self._rooms = max(1, len(tokens) // PER_ROOM)
        end = time.monotonic() + CONNECT_S
        for first in range(0, len(tokens), WAVE):
            if time.monotonic() > end:
                raise Failure(f"only {first} connections were there within {CONNECT_S:.0f} s")
            self._open(first, tokens[first : first + WAVE])
            self._beat_the_oldest()
            self.drain()
        self._order = list(self._peers)
        random.Random(1).shuffle(self._order)

    def _open(self, first: int, tokens: list[str]) -> None:
        source = f"127.0.0.{2 + first // PER_SOURCE}"
        wave = [connect(source, self._port) for _ in tokens]
        for number, (peer, token) in enumerate(zip(wave, tokens, strict=True), start=first):
            # The second room mixes players of a hundred first rooms.
            rooms = {f"room:near-{number // PER_ROOM}": 0, f"room:far-{number % self._rooms}": 0}
            peer.sendall(encode_hello(PROTOCOL_VERSION, encode_body(Hello(token=token, channels=rooms))))
        for peer in wave:
            wait_for_welcome(peer)
            peer.setblocking(False)
            self._peers[peer.fileno()] = peer
            self._poll.register(peer, select.EPOLLIN)
            self._silent.append((time.monotonic(), peer))

    def _beat_the_oldest(self) -> None:
        """While the others still log in."""
        now = time.monotonic()
        while self._silent and self._silent[0][0] < now - HEARTBEAT_S:
            _, peer = self._silent.popleft()
            peer.send(PING)
            self._silent.append((now, peer))

    def drain(self) -> None:
        """Reads what has come. Raises Failure for a connection that the server has ended."""
        for descriptor, _ in self._poll.poll(0, 4096):
            if not self._peers[descriptor].recv(65536):
                raise Failure("the server has closed an idle connection")

    def beat(self, seconds: float) -> int:
        """Heartbeats, for so long; how many there were."""
        gap = HEARTBEAT_S / len(self._order)
        n, start = int(seconds / gap), time.monotonic()
        for i in range(n):
            wait = start + i * gap - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            self._peers[self._order[i % len(self._order)]].send(PING)
            if i % DRAINED_AFTER == 0:
                self.drain()
        return n

    def close(self) -> None:
        for peer in self._peers.values():
            peer.close()
        self._poll.close()


def connect(source: str, port: int) -> socket.socket:
    peer = socket.socket()
    peer.settimeout(WAIT_S)
    peer.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    peer.bind((source, 0))
    peer.connect(("127.0.0.1", port))
    return peer


def wait_for_welcome(peer: socket.socket) -> None:
    parser = FrameParser()
    while data := peer.recv(65536):
        for kind, body in parser.feed(data):
            if kind != FrameType.FRAME_WELCOME:
                raise Failure(f"the server answered {body!r} to HELLO")
            return
    raise Failure("no WELCOME came")


def share_of_a_core(pid: int, seconds: float) -> float:
    before, start = cpu_seconds(pid), time.monotonic()
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - start)


def measure(server: Server, tokens: list[str], seconds: float) -> Cost:
    n = len(tokens)
    IdleCrowd(server, tokens[:PER_ROOM]).close()  # what a server allocates once is there now
    wait_until_quiet(server.pid)
    empty_share, empty_bytes = share_of_a_core(server.pid, EMPTY_S), resident_bytes(server.pid)
    crowd = IdleCrowd(server, tokens)
    try:
        # Everybody once, unless it is only tried, while the logins' last traces settle.
        crowd.beat(min(HEARTBEAT_S, seconds))
        before, start = cpu_seconds(server.pid), time.monotonic()
        heartbeats = crowd.beat(seconds)
        elapsed = time.monotonic() - start
        share = (cpu_seconds(server.pid) - before) / elapsed
        bytes_each = (resident_bytes(server.pid) - empty_bytes) / n
    finally:
        crowd.close()
    return Cost(server.name, n, elapsed, empty_share, share, heartbeats, bytes_each)


def measure_both(n: int, seconds: float) -> Iterator[Cost]:
    with limit_server() as server:
        yield measure(server, [f"p{i:06}" for i in range(n)], seconds)
    with chatcore_server(n) as server:
        assert server.tokens is not None
        yield measure(server, server.tokens.read_text().split(), seconds)


def affordable(wanted: int) -> int:
    """As many connections as this user may have, at most `wanted`; the server's process needs as many as ours."""
    try:
        raise_descriptor_limit(wanted + KEPT_DESCRIPTORS)
    except RuntimeError:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        raise_descriptor_limit(hard)
        print(f"only {hard - KEPT_DESCRIPTORS} connections: ulimit -Hn is {hard} here", file=sys.stderr)
        return hard - KEPT_DESCRIPTORS
    return wanted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=80.0)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    if (os.cpu_count() or 1) > GENERATOR_CORE:
        os.sched_setaffinity(0, {GENERATOR_CORE})
    n, costs = affordable(arguments.connections), []
    print("| server | connections | heartbeats/s | of a core | of it empty | us per heartbeat | bytes each |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for cost in measure_both(n, arguments.seconds):
        costs.append(cost)
        print(
            f"| {cost.server} | {cost.connections:,} | {cost.heartbeats / cost.seconds:,.0f} | {100 * cost.share:.2f} %"
            f" | {100 * cost.empty_share:.2f} % | {cost.us_per_heartbeat:.1f} | {cost.bytes_each:,.0f} |",
            flush=True,
        )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump([cost._asdict() for cost in costs], file, indent=1)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"idle: {failure}")
