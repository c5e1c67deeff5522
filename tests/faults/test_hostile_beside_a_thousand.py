"""Everything hostile at once beside a thousand players who chat: the load tool, which checks every delivery, finds
nothing.

The attacks are those of test_hostile_input.py, and what befalls the machine that of test_hostile_machine.py; each has
to meet its named error here, too. How little the players' latency changes is measured by benchmarks/hostile.py.
"""

import asyncio
import json
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from chatcore_server.load_report import MISTAKES
from faults import test_hostile_input as hostile
from faults import test_hostile_machine as machine
from support.eventually import eventually_answers
from support.half_open import half_open_connections
from support.raw import RawClient
from support.scrapes import scrape
from support.servers import LocalServer, ServerProcess

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
async def thousand_players(server: LocalServer | ServerProcess, report: Path) -> AsyncIterator[None]:
    """`chatcore load` in a process of its own, from when all play. At the end its word is in `report`."""
    options: list[object] = ["--connections", N_PLAYERS, "--rooms", 50, "--rate", 60, "--duration", LOAD_S]
    options += ["--private-share", 0.2, "--data", server.folder, "--json", report]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatcore_server.cli", "load", f"127.0.0.1:{server.port}", *map(str, options)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await go_on(server, 1)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


async def n_acknowledged(server: LocalServer | ServerProcess) -> float:
    if isinstance(server, LocalServer):
        return server.counted("acks")
    return (await scrape(server.http_port)).value("chatcore_acks_total")


async def go_on(server: LocalServer | ServerProcess, n_messages: int = 100) -> None:
    """Until so many more of the players' messages are acknowledged."""
    goal = await n_acknowledged(server) + n_messages
    await eventually_answers(lambda: n_acknowledged(server), lambda n: n >= goal, 60)


def checked(report: Path, refused: Callable[[dict[str, int]], bool]) -> None:
    """Every delivery was right, every send answered, and nobody noticed anything but refusals such as these."""
    said: dict[str, Any] = json.loads(report.read_bytes())
    assert {name: said[name] for name in MISTAKES} == dict.fromkeys(MISTAKES, 0)
    assert said["delivered"] == said["expected"] > N_PLAYERS
    assert refused(said["refused"]), said["refused"]
    assert said["closed"] == {}
    for trouble in ("disconnected", "absent", "unanswered", "gaps", "healed"):
        assert said[trouble] == 0, trouble


async def servers_cannot_start(server: LocalServer, used: Path) -> None:
    """Beside a server that runs: on its port, on its folder, and on folders that cannot be used."""
    assert f"cannot listen on 127.0.0.1:{server.port}" in await machine.failed_start(used, server.port)
    assert "in use by another server" in await machine.failed_start(server.folder)
    await machine.unusable_folders_are_refused(used)


async def test_a_thousand_players_notice_nothing(
    tmp_path: Path, make_server: machine.MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = await machine.used_folder(make_server)
    server = LocalServer(tmp_path / "data", {"limits": LIMITS}).start()
    report = tmp_path / "report.json"
    try:
        async with thousand_players(server, report):
            async with half_open_connections(server.port, N_HALF_OPEN):
                assert server.counted("half_open_gave_way") > 0
                await hostile.test_hostile_requests(server)  # somebody new gets in all the same
            await hostile.test_hostile_bytes(server)
            await hostile.test_hostile_logins(server)
            await hostile.run_table(server, hostile.FLOODS)
            await servers_cannot_start(server, used)
            with monkeypatch.context() as patch:
                await machine.server_lives_with_its_clock_set_back(server, patch)
                await go_on(server)
            await go_on(server)
    finally:
        await server.stop()
    checked(report, lambda refused: refused == {})


# ---- The machine under the server ------------------------------------------------------------------------------------

N_DESCRIPTORS_LEFT = 20
N_KNOCKING = 30
MACHINE = """
[limits]
hello_timeout = "400ms"
[embedded]
retry = "50ms"
"""


def n_descriptors(server: ServerProcess) -> int:
    return len(os.listdir(f"/proc/{server.pid}/fd"))


async def accepting_resumes_by_itself(server: ServerProcess) -> None:
    """More come than there are descriptors for, and stay. Who comes after them gets in when the first are closed."""
    limit = n_descriptors(server) + N_DESCRIPTORS_LEFT
    with machine.limited(server, resource.RLIMIT_NOFILE, limit):
        async with half_open_connections(server.port, N_KNOCKING):
            newcomer = await RawClient.open(server.port)
            await newcomer.login(token=server.token("newcomer"))
    assert (await scrape(server.http_port)).value("chatcore_accept_pauses_total", door="tcp") > 0
    await newcomer.close()


async def n_refused(server: ServerProcess, code: str) -> float:
    return (await scrape(server.http_port)).values("chatcore_refusals_total").get(code, 0)


async def disk_is_full_for_a_while(server: ServerProcess) -> None:
    with machine.limited(server, resource.RLIMIT_FSIZE, 64 << 10):  # less than the files have
        await eventually_answers(lambda: n_refused(server, "log_unavailable"), lambda n: n > 50, 60)
    assert b"log_write_failed" in server.log.read_bytes()
    await go_on(server)
    refused = await n_refused(server, "log_unavailable")
    await go_on(server)
    assert await n_refused(server, "log_unavailable") == refused, "it goes on by itself"


async def test_a_thousand_players_on_a_machine_that_runs_out(tmp_path: Path, make_server: machine.MakeServer) -> None:
    """Of descriptors they notice nothing; what the disk does not take is refused by name, and nothing else happens."""
    server = make_server(config=MACHINE)
    await server.start()
    report = tmp_path / "report.json"
    async with thousand_players(server, report):
        await accepting_resumes_by_itself(server)
        await go_on(server)
        assert await n_refused(server, "log_unavailable") == 0
        await disk_is_full_for_a_while(server)
    checked(report, lambda refused: list(refused) == ["log_unavailable"])
