"""Starts servers and the load generator as pinned processes and stops them again. Judges no figure."""

import contextlib
import json
import os
import re
import select
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from native import build

SERVER_CORE = 0
GENERATOR_CORE = 1
START_SECONDS = 20.0
STOP_SECONDS = 10.0


class Failure(Exception):
    """A server or the load generator did not do its work; the text says which and what it said."""


class Server(NamedTuple):
    """A running server. `tokens`: a file of one token per line, None where any word is a token."""

    name: str
    pid: int
    port: int
    tokens: Path | None


class Load(NamedTuple):
    """What the load generator does; see its usage text for the words."""

    name: str
    rooms: int
    members: int
    talkers: int
    window: int = 1
    mode: str = "signals"
    rate: int = 0  # messages/s of all talkers together, open loop; 0: closed loop

    @property
    def connections(self) -> int:
        return self.rooms * self.members

    @property
    def arguments(self) -> list[str]:
        return [
            f"--rooms={self.rooms}",
            f"--members={self.members}",
            f"--talkers={self.talkers}",
            f"--window={self.window}",
            f"--mode={self.mode}",
            *([f"--rate={self.rate}"] if self.rate else []),
        ]


def pinned(command: Sequence[str | Path], core: int) -> list[str]:
    """The command on one core; on a machine with a single core it stays as it is, and the figures mean nothing."""
    words = [str(word) for word in command]
    return ["taskset", "-c", str(core), *words] if (os.cpu_count() or 1) > core else words


def read_line(process: subprocess.Popen[str], deadline: float) -> str:
    """The next line of its output, "" if it ended or the deadline (monotonic) passed first."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
    return process.stdout.readline() if ready else ""


@contextlib.contextmanager
def running(command: Sequence[str | Path], core: int) -> Iterator[subprocess.Popen[str]]:
    """A process with its own log file, ended (first gently) when the block ends."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            pinned(command, core), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            yield process
        except Failure as failure:
            log.seek(0)
            raise Failure(f"{failure}\n{log.read()[-4000:]}") from None
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()


@contextlib.contextmanager
def listening(name: str, command: Sequence[str | Path], tokens: Path | None) -> Iterator[Server]:
    """A server that prints `... ready tcp=HOST:PORT ...` as its first line."""
    with running(command, SERVER_CORE) as process:
        line = read_line(process, time.monotonic() + START_SECONDS)
        match = re.search(r" ready tcp=[^ ]*:(\d+)", line)
        if match is None:
            raise Failure(f"{name} did not start: {line!r}")
        yield Server(name, process.pid, int(match[1]), tokens)


@contextlib.contextmanager
def limit_server(*options: str) -> Iterator[Server]:
    """The bare C server; `options` are its own."""
    with listening("limit", [build("limit_server"), *options], None) as server:
        yield server


def generator_command(server: Server, arguments: Sequence[str]) -> list[str | Path]:
    tokens = [] if server.tokens is None else [f"--tokens={server.tokens}"]
    return [build("load_generator"), f"--port={server.port}", f"--server-pid={server.pid}", *tokens, *arguments]


def run_load(server: Server, arguments: Sequence[str], *, timeout: float = 120.0) -> dict[str, Any]:
    """One run of the load generator: what it printed. Raises Failure if it could not do its work.

    A run whose deliveries were wrong is no failure here: `right` in the answer tells.
    """
    command = pinned(generator_command(server, arguments), GENERATOR_CORE)
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"the load generator took longer than {timeout} s against {server.name}") from None
    if done.returncode not in (0, 1) or not done.stdout:
        raise Failure(f"the load generator failed against {server.name}: {done.stderr.strip()}")
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["said"] = done.stderr.strip()
    return answer


@contextlib.contextmanager
def idle_connections(server: Server, connections: int, channels: int, *, timeout: float) -> Iterator[None]:
    """Authenticated connections that have joined `channels` channels each and then do nothing but their heartbeats."""
    per_room = 100
    arguments = ["--idle", f"--rooms={connections // per_room}", f"--members={per_room}", f"--channels={channels}"]
    with running(generator_command(server, arguments), GENERATOR_CORE) as process:
        if not read_line(process, time.monotonic() + timeout).startswith('{"idle"'):
            raise Failure(f"{connections} idle connections to {server.name} were not there within {timeout} s")
        yield
