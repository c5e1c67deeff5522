"""Measures what a login and a resume cost the server: its CPU time from the accepted socket to WELCOME.

    python benchmarks/logins.py

The clients come in waves, as after a lost network. The figure is the server's CPU (all threads, process CPU clock) per
login; its inverse is the logins/s of one core. Nothing here is compared with the C limit, which has no logins.
"""

import argparse
import json
import socket
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from chatcore.operations import Hello, Welcome, encode_body
from chatcore_ext.constants import PROTOCOL_VERSION, FrameType
from chatcore_ext.frame import FrameParser, encode_hello
from crowd import OWN_DESCRIPTORS, raise_descriptor_limit
from our_server import chatcore_server
from processes import Failure, Server

WAVE = 250  # connections that say hello at the same time
WAIT_SECONDS = 20.0
ROOMS = {"room:lobby": 0, "room:world": 0}  # a login joins two channels in its HELLO

_decode_welcome = msgspec.msgpack.Decoder(Welcome).decode


def cpu_seconds(pid: int) -> float:
    """The CPU clock of a process (clock_getcpuclockid in the kernel's own encoding, include/linux/posix-timers.h)."""
    return time.clock_gettime((~pid << 3) | 2)


def greet_wave(port: int, hellos: list[Hello]) -> list[tuple[socket.socket, Welcome]]:
    """Connects all, then says hello on all, then waits for all. Raises Failure unless each is welcome."""
    peers = [socket.create_connection(("127.0.0.1", port), WAIT_SECONDS) for _ in hellos]
    for peer, hello in zip(peers, hellos, strict=True):
        peer.sendall(encode_hello(PROTOCOL_VERSION, encode_body(hello)))
    return [(peer, read_welcome(peer)) for peer in peers]


def read_welcome(peer: socket.socket) -> Welcome:
    parser = FrameParser()
    while data := peer.recv(65536):
        for kind, body in parser.feed(data):
            if kind != FrameType.FRAME_WELCOME:
                raise Failure(f"the server answered {body!r} to HELLO")
            return _decode_welcome(body)
    raise Failure("no WELCOME came")


def waves(port: int, hellos: list[Hello]) -> Iterator[tuple[socket.socket, Welcome]]:
    for first in range(0, len(hellos), WAVE):
        yield from greet_wave(port, hellos[first : first + WAVE])


def timed(server: Server, hellos: list[Hello]) -> tuple[float, list[tuple[socket.socket, Welcome]]]:
    """CPU us per login, and the connections."""
    before = cpu_seconds(server.pid)
    greeted = list(waves(server.port, hellos))
    return 1e6 * (cpu_seconds(server.pid) - before) / len(hellos), greeted


def wait_until_quiet(pid: int) -> None:
    """Until the server has put away what was closed: it uses less than a hundredth of a core."""
    for _ in range(100):
        before = cpu_seconds(pid)
        time.sleep(0.1)
        if cpu_seconds(pid) - before < 0.001:
            return
    raise Failure("the server does not come to rest")


def measure(n: int) -> dict[str, float]:
    """One fresh server: n logins, then all hang up and resume."""
    with chatcore_server(n) as server:
        assert server.tokens is not None
        tokens = server.tokens.read_text().split()
        greet_wave(server.port, [Hello(token=token) for token in tokens[:50]])  # warm; gone again at once
        wait_until_quiet(server.pid)
        login, greeted = timed(server, [Hello(token=token, channels=ROOMS) for token in tokens])
        for peer, _ in greeted:
            peer.close()
        wait_until_quiet(server.pid)
        resume, greeted = timed(server, [Hello(ticket=welcome.ticket, channels=ROOMS) for _, welcome in greeted])
        if not all(welcome.resumed for _, welcome in greeted):
            raise Failure("a resume was none")
        for peer, _ in greeted:
            peer.close()
    return {"login": login, "resume": resume}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="write the figures of each run to this file")
    arguments = parser.parse_args()
    raise_descriptor_limit(arguments.connections + OWN_DESCRIPTORS)
    runs: list[dict[str, Any]] = [dict(measure(arguments.connections)) for _ in range(arguments.runs)]
    for name in ("login", "resume"):
        report(name, [run[name] for run in runs])
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(runs, file, indent=1)
    return 0


def report(name: str, figures: list[float]) -> None:
    middle = statistics.median(figures)
    low, high = min(figures), max(figures)
    print(f"{name:8} {middle:7.1f} us CPU ({low:.1f}-{high:.1f}, {len(figures)} runs): {1e6 / middle:8,.0f}/s per core")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"logins: {failure}")
