"""Everything hostile at once beside a thousand players who chat: the load tool, which checks every delivery, finds
nothing.

The attacks are those of test_hostile_input.py, each of which has to meet its named error here, too. How little the
players' latency changes is measured by benchmarks/hostile.py.
"""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatcore_server.load_report import MISTAKES
from faults import test_hostile_input as hostile
from support.players import until
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

N_PLAYERS = 1_000
N_HALF_OPEN = 10_000
LIMITS = {
    "hello_timeout": "400ms",
    # Longer than the five seconds after which one who never reads is closed for that.
    "heartbeat": "3500ms",
    "heartbeat_grace": "3500ms",
    "half_open": 500,  # fewer than the attackers, so that they have to give way
    # The table of floods is one player's: its limits must not be used up by the flood before.
    "player_frames_per_second": 100_000,
    "player_frame_burst": 100_000,
}
LOAD_S = 600  # at most: it is ended when the attacks are over


@asynccontextmanager
async def thousand_players(server: LocalServer, report: Path) -> AsyncIterator[None]:
    """`chatcore load` in a process of its own. At the end its word is in `report`."""
    options: list[object] = ["--connections", N_PLAYERS, "--rooms", 50, "--rate", 60, "--duration", LOAD_S]
    options += ["--private-share", 0.2, "--data", server.folder, "--json", report]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatcore_server.cli", "load", f"127.0.0.1:{server.port}", *map(str, options)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await until(lambda: server.counted("acks") > 0, "a thousand players chat", 60)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


@asynccontextmanager
async def half_open_connections(port: int) -> AsyncIterator[None]:
    child = Path(__file__).parent.parent / "support" / "half_open_child.py"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, child, str(port), str(N_HALF_OPEN)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"open\n"
    yield
    process.stdin.close()
    async with asyncio.timeout(30):
        await process.wait()


async def test_a_thousand_players_notice_nothing(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data", {"limits": LIMITS}).start()
    report = tmp_path / "report.json"
    try:
        async with thousand_players(server, report):
            async with half_open_connections(server.port):
                assert server.counted("half_open_gave_way") > 0
                await hostile.test_hostile_requests(server)  # somebody new gets in all the same
            await hostile.test_hostile_bytes(server)
            await hostile.test_hostile_logins(server)
            await hostile.run_table(server, hostile.FLOODS)
    finally:
        await server.stop()
    said: dict[str, Any] = json.loads(report.read_bytes())
    assert {name: said[name] for name in MISTAKES} == dict.fromkeys(MISTAKES, 0)
    assert said["delivered"] == said["expected"] > N_PLAYERS
    assert said["acked"] == said["sent"]
    for trouble in ("refused", "closed"):
        assert said[trouble] == {}, trouble
    for trouble in ("disconnected", "absent", "unanswered", "gaps", "healed"):
        assert said[trouble] == 0, trouble
