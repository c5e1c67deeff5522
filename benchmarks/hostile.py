"""Measures what hostile clients cost those who chat beside them: the load tool's latencies with and without them.

    python benchmarks/hostile.py

A fresh server each time, pinned to one core; 1,000 players of `chatcore load` and, in every second run, the attackers
share the other core. So the ratios are upper bounds: part of them is attackers who take the players' own CPU time. A
single delivery that is wrong fails the measurement. Which attacks meet which error is tested, not measured:
tests/faults/test_hostile_beside_a_thousand.py.
"""

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from chatcore_ext.constants import FrameType
from chatcore_ext.frame import encode_frame, encode_hello
from crowd import raise_descriptor_limit
from our_server import START, chatcore_server
from processes import GENERATOR_CORE, Failure, Server, pinned, read_line, running

PLAYERS = 1_000
RATE = 200  # messages/s of all players; 20 rooms of 50: 10,000 deliveries/s
ATTACKERS_HELD = 15_000  # of each kind at most; the oldest gives way
# Per second, together: enough to keep a server busy that does much for each.
GARBAGE, SILENT, GUESSES, FLOODS = 300, 300, 100, 5
FLOOD_FRAMES = 2_000
RATIOS = ("p50", "p90", "p99")

GARBAGE_BYTES = bytes(range(255, 0, -1)) * 16
GUESS = encode_hello(1, b"\x81\xa5token\xa5guess")
FLOOD = encode_frame(FrameType.FRAME_PING, bytes(8)) * FLOOD_FRAMES


def attack(port: int) -> None:
    """The attackers' process: until it is ended."""
    raise_descriptor_limit(ATTACKERS_HELD + 100)
    held: list[socket.socket] = []
    print("attacking", flush=True)
    turn = 0
    while True:
        due = time.monotonic() + 0.1
        turn += 1
        for data, per_second in ((GARBAGE_BYTES, GARBAGE), (b"", SILENT), (GUESS, GUESSES), (GUESS + FLOOD, FLOODS)):
            for _ in range(per_second * turn // 10 - per_second * (turn - 1) // 10):
                with contextlib.suppress(OSError):
                    held.append(socket.create_connection(("127.0.0.1", port)))
                    held[-1].setblocking(False)
                    held[-1].send(data)
        for gone in held[:-ATTACKERS_HELD]:
            gone.close()
        del held[:-ATTACKERS_HELD]
        time.sleep(max(0.0, due - time.monotonic()))


@contextlib.contextmanager
def attackers(server: Server) -> Iterator[None]:
    with running([sys.executable, __file__, "--attack", str(server.port)], GENERATOR_CORE) as process:
        if read_line(process, time.monotonic() + 10) != "attacking\n":
            raise Failure("the attackers did not start")
        yield


def load(server: Server, seconds: float) -> dict[str, Any]:
    """The load tool's report. Raises Failure for a single wrong delivery."""
    assert server.tokens is not None
    with tempfile.NamedTemporaryFile("r", suffix=".json") as report:
        command: list[str | Path] = [sys.executable, "-c", START, "load", f"127.0.0.1:{server.port}"]
        command += ["--secret-file", server.tokens.parent / "secret", "--json", report.name]
        command += ["--connections", str(PLAYERS), "--rooms", "20", "--rate", str(RATE), "--duration", str(seconds)]
        done = subprocess.run(pinned(command, GENERATOR_CORE), capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(f"the players noticed something: {done.stdout}{done.stderr}")
        answer: dict[str, Any] = json.load(report)
    if answer["disconnected"] or answer["refused"] or answer["gaps"]:
        raise Failure(f"the players noticed something: {done.stdout}")
    return answer


def measure(beside: Callable[[Server], contextlib.AbstractContextManager[None]], seconds: float) -> dict[str, Any]:
    with chatcore_server(1) as server, beside(server):
        return load(server, seconds)


def alone(server: Server) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs, quiet and attacked in turn")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each run")
    parser.add_argument("--json", help="write the reports of all runs to this file")
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attack:
        attack(arguments.attack)
    seconds = arguments.seconds
    pairs = [(measure(alone, seconds), measure(attackers, seconds)) for _ in range(arguments.runs)]
    for name in ("ack_ms", "deliver_ms"):
        for percentile in RATIOS:
            report(f"{name} {percentile}", [(quiet[name][percentile], hit[name][percentile]) for quiet, hit in pairs])
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(pairs, indent=1))
    return 0


def report(name: str, figures: list[tuple[float, float]]) -> None:
    ratios = [hit / quiet for quiet, hit in figures]
    quiet, hit = (statistics.median(column) for column in zip(*figures, strict=True))
    print(
        f"{name:14} {quiet:6.2f} ms alone, {hit:6.2f} ms beside attackers: {statistics.median(ratios):5.2f}x"
        f" ({min(ratios):.2f}-{max(ratios):.2f}, {len(ratios)} pairs)"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"hostile: {failure}")
