"""A room of 1,000 in which 50 never read and one reads a byte now and then: the others hear everything live, and the 51
hear of what they were left out of.

How little the others' latency changes is measured by benchmarks/hot_rooms.py.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from chatcore.operations import Operation
from chatcore_ext.constants import FrameType
from chatcore_ext.frame import FrameParser, decode_deliver, decode_gap, encode_hello, encode_request
from chatcore_server.authentication import data_secret, development_token_key
from chatcore_server.load_process import Progress
from chatcore_server.load_report import MISTAKES
from support.loads import play
from support.players import until
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

N_READERS, N_SILENT = 950, 50
SEED = 50
ROOM = f"room:load-{SEED}-0"  # as load_plan.py names it
FILLED = "room:filled"  # until the kernel takes no more for the silent
LIMITS = {
    "sync_size": "8KiB",
    "pause_size": "16KiB",
    "pending_size": "64KiB",
    "frames_per_second": 10_000,
    "frame_burst": 10_000,
    "player_frames_per_second": 10_000,
    "player_frame_burst": 10_000,
}


class Silent:
    """A client that joins both rooms and then reads when it is told to."""

    def __init__(self, server: LocalServer, name: str) -> None:
        self.socket = socket.socket()
        # Set before it connects, so that the kernel does not take megabytes for it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", server.port))
        self.socket.setblocking(False)
        self.socket.sendall(encode_hello(1, msgspec.msgpack.encode({"token": server.token(name)})))
        self.parser = FrameParser(2**24 - 1)
        self.rooms: dict[int, str] = {}
        self.last = {ROOM: 0, FILLED: 0}
        self.n_delivered = 0
        self.gaps: list[str] = []

    def join(self) -> None:
        for room in (ROOM, FILLED):
            self.socket.sendall(encode_request(1, Operation.JOIN, msgspec.msgpack.encode({"channel": room})))

    def read_byte(self) -> None:
        """If there is one."""
        try:
            self._take(self.socket.recv(1))
        except BlockingIOError:
            pass

    async def read_all(self) -> None:
        """Until it has heard of everything that was said in both rooms."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        async with asyncio.timeout(60):
            while ROOM not in self.gaps or not self.last[FILLED]:
                self._take(await asyncio.get_running_loop().sock_recv(self.socket, 1 << 16))

    def _take(self, data: bytes) -> None:
        assert data, "closed"
        for kind, body in self.parser.feed(data):
            if kind == FrameType.FRAME_REPLY:
                joined = msgspec.msgpack.decode(body[4:])
                self.rooms[joined["number"]] = joined["channel"]
            elif kind == FrameType.FRAME_DELIVER:
                number, _, id, prev, *_ = decode_deliver(body)
                room = self.rooms[number]
                assert prev == self.last[room] or not self.last[room], "no hole that was not told"
                self.last[room] = id
                self.n_delivered += 1
            elif kind == FrameType.FRAME_GAP:
                number, first, last = decode_gap(body)
                room = self.rooms[number]
                assert self.last[room] <= first < last
                self.gaps.append(room)
                self.last[room] = last


async def fill(server: LocalServer, n_receivers: int) -> int:
    """Until the kernel takes no more for any of them; how many messages it took."""
    filler = await server.login("filler")
    await filler.client.join(FILLED)
    n_sent = 0
    while server.counted("sends_incomplete") < n_receivers:
        await asyncio.gather(*(filler.client.send(FILLED, bytes(3900)) for _ in range(50)))
        n_sent += 50
    await filler.client.leave(FILLED)
    return n_sent


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    server = LocalServer(tmp_path / "data", {"limits": LIMITS}).start()
    yield server
    await server.stop()


async def test_950_hear_everything_beside_50_who_never_read(server: LocalServer) -> None:
    slow = [Silent(server, f"silent{i}") for i in range(N_SILENT + 1)]
    trickling = slow[-1]

    def show(_: Progress) -> None:
        trickling.read_byte()

    try:
        await until(lambda: server.counted("sessions") == len(slow))
        for client in slow:
            client.join()
        await until(lambda: server.counted("subscriptions") == 2 * len(slow))
        n_filled = await fill(server, len(slow))
        report = await play(
            server.port,
            development_token_key(data_secret(server.folder)),
            show,
            connections=N_READERS,
            rooms=1,
            rate=40,
            duration_s=4,
            seed=SEED,
            body_bytes=3000,
        )
        assert {name: getattr(report, name) for name in MISTAKES} == dict.fromkeys(MISTAKES, 0)
        assert report.acked == report.sent == 160
        assert report.delivered == report.expected == 160 * N_READERS
        assert (report.closed, report.gaps, report.healed) == ({}, 0, 0), "live, all of them"
        assert server.counted("receivers_paused") == len(slow), "these and nobody else"
        left_out = server.counted("deliveries_left_out")
        assert left_out > 0
        assert server.counted("closed_slow_receiver") == 0, "messages alone close nobody"
        await asyncio.gather(*(client.read_all() for client in slow))
        assert [client.gaps.count(ROOM) for client in slow] == [1] * len(slow)
        await until(lambda: server.counted("pending_bytes") == 0)
        heard = sum(client.n_delivered for client in slow)
        assert heard == (160 + n_filled) * len(slow) - left_out
    finally:
        for client in slow:
            client.socket.close()
