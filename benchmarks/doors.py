"""What a delivery and an idle connection cost the server by each door: its own CPU time and resident memory.

    python benchmarks/doors.py [--receivers 300] [--messages 1000] [--rounds 5]

One talker on TCP, all receivers by the door that is measured; its signals come one at a time, so that every delivery is
a flush of its own: the dearest case. Each figure is the median of rounds in which the doors take turns, each with a
server of its own; the ratios are to the TCP door of the same run. The receivers share the machine with the server, so
nothing is said of throughput.
"""

import argparse
import asyncio
import contextlib
import os
import secrets
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import jwt
import msgspec
import trustme
import uvloop
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from chatcore import Client
from chatcore_ext.frame import encode_hello

HOST = "127.0.0.1"
TALKER = "talker"
BODY = bytes(100)
SIGNAL_BYTES = 4 + 6 + len(TALKER) + len(BODY)  # header, prefix, sender, body
DOORS = ("tcp", "tls", "websocket", "websocket over tls")
START = "from chatcore_server.cli import main; main()"
START_SECONDS = 20.0
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Cost:
    """Of one round: CPU microseconds per delivery, resident bytes per idle connection."""

    cpu_us: float
    memory: float


class Gate:
    """Opens when so many bytes have come to all receivers together."""

    def __init__(self) -> None:
        self._missing = 0
        self._is_open = asyncio.Event()

    def close(self, n_bytes: int) -> None:
        self._missing = n_bytes
        self._is_open.clear()

    def count(self, n_bytes: int) -> None:
        self._missing -= n_bytes
        if self._missing <= 0:
            self._is_open.set()

    async def wait(self) -> None:
        await self._is_open.wait()


class Sink(asyncio.Protocol):
    """A receiver that counts bytes and looks at none of them, not even at the frames of a WebSocket."""

    def __init__(self, token: str, is_websocket: bool, gate: Gate) -> None:
        self._hello = encode_hello(1, msgspec.msgpack.encode({"token": token, "channels": {"room:x": 0}}))
        self._websocket = ClientProtocol(parse_uri(f"ws://{HOST}/")) if is_websocket else None
        self._gate = gate
        self.welcomed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]  # uvloop's do not inherit it
        if self._websocket is None:
            self.transport.write(self._hello)
            return
        self._websocket.send_request(self._websocket.connect())
        self.transport.writelines(self._websocket.data_to_send())

    def data_received(self, data: bytes) -> None:
        if self._websocket is not None:
            self._websocket.receive_data(data)
            if self._websocket.handshake_exc is not None:
                raise self._websocket.handshake_exc
            self._websocket.send_binary(self._hello)
            self.transport.writelines(self._websocket.data_to_send())
            self._websocket = None
        elif not self.welcomed.done():
            self.welcomed.set_result(None)
        else:
            self._gate.count(len(data))


@contextlib.asynccontextmanager
async def server(door: str, folder: Path, authority: trustme.CA) -> AsyncIterator[tuple[int, dict[str, int], bytes]]:
    """Its process id, ports and the secret of its tokens."""
    secret = secrets.token_hex(32).encode()
    (folder / "secret").write_bytes(secret)
    certificate = folder / "certificate.pem"
    certificate.write_bytes(authority.issue_cert(HOST).private_key_and_cert_chain_pem.bytes())
    (folder / "chatcore.toml").write_text(
        f'[authentication]\nsecret_file = "{folder / "secret"}"\n'
        "[limits]\nframes_per_second = 1000000\nframe_burst = 1000000\n"
        f'[tls]\nenabled = true\nport = 0\ncertificate_file = "{certificate}"\n'
        f"[websocket]\nenabled = true\nport = 0\ntls = {str(door.endswith('over tls')).lower()}\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", START, "serve", "--port=0", "--http-port=0",
        f"--config={folder / 'chatcore.toml'}", f"--data={folder / 'data'}",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), START_SECONDS)).decode()
        fields = dict(field.split("=") for field in line.split()[2:])
        yield process.pid, {name: int(at.rpartition(":")[2]) for name, at in fields.items()}, secret
    finally:
        process.kill()
        await process.wait()


def cpu_seconds(pid: int) -> float:
    """Of all its threads. /proc/PID/stat counts in steps of 10 ms, this in ns."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE


async def measure(door: str, n_receivers: int, n_messages: int, authority: trustme.CA) -> Cost:
    loop = asyncio.get_running_loop()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with tempfile.TemporaryDirectory() as name:
        async with server(door, Path(name), authority) as (pid, ports, secret):

            def token(player: str) -> str:
                return jwt.encode({"sub": player, "exp": int(time.time()) + 3600}, secret, algorithm="HS256")

            async with Client(port=ports["tcp"], token=token(TALKER)) as talker:
                await talker.join("room:x")
                before = resident(pid)
                is_websocket = door.startswith("websocket")
                port = ports["websocket" if is_websocket else door]
                sinks = []
                gate = Gate()
                for i in range(n_receivers):
                    _, sink = await loop.create_connection(
                        lambda i=i: Sink(token(f"p{i}"), is_websocket, gate),
                        HOST,
                        port,
                        ssl=context if door.endswith("tls") else None,
                    )
                    await asyncio.wait_for(sink.welcomed, START_SECONDS)
                    sinks.append(sink)
                await asyncio.sleep(0.3)  # for what is still told to those who are there
                memory = (resident(pid) - before) / n_receivers
                began = cpu_seconds(pid)
                size = SIGNAL_BYTES + (2 if is_websocket else 0)  # the header of a short message
                for _ in range(n_messages):
                    gate.close(size * n_receivers)
                    talker.signal("room:x", 128, BODY)
                    await gate.wait()
                cpu = cpu_seconds(pid) - began
                for sink in sinks:
                    sink.transport.abort()
    return Cost(cpu / n_messages / n_receivers * 1e6, memory)


async def run(n_receivers: int, n_messages: int, n_rounds: int) -> None:
    authority = trustme.CA()
    costs: dict[str, list[Cost]] = {door: [] for door in DOORS}
    for _ in range(n_rounds):
        for door in DOORS:
            costs[door].append(await measure(door, n_receivers, n_messages, authority))
    base = statistics.median(cost.cpu_us for cost in costs["tcp"])
    print(f"{'door':<20}{'CPU us/delivery':>17}{'ratio':>8}{'bytes/connection':>18}")
    for door, found in costs.items():
        cpu = statistics.median(cost.cpu_us for cost in found)
        memory = statistics.median(cost.memory for cost in found)
        print(f"{door:<20}{cpu:>17.2f}{cpu / base:>8.2f}{memory:>18,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="What each door costs the server.")
    parser.add_argument("--receivers", type=int, default=300)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(arguments.receivers, arguments.messages, arguments.rounds))


if __name__ == "__main__":
    main()
