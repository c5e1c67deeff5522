"""`chatcore load` against the real server: all is right; and against one that makes mistakes: each is told by its
name."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chatcore_server.authentication import data_secret, development_token_key
from chatcore_server.load_plan import LoadError
from chatcore_server.load_process import Progress
from chatcore_server.load_report import MISTAKES, LoadReport
from support.loads import play
from support.players import until
from support.servers import LocalServer
from support.tampering_proxy import Mistake, TamperingProxy

pytestmark = pytest.mark.asyncio

# A load sends in a second what a person types in an hour.
LIMITS = {f"{whose}{name}": 10_000 for whose in ("", "player_") for name in ("frames_per_second", "frame_burst")}


def key_of(server: LocalServer) -> bytes:
    return development_token_key(data_secret(server.folder))


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    server = LocalServer(tmp_path / "data", {"limits": LIMITS}).start()
    yield server
    await server.stop()


def assert_right(report: LoadReport) -> None:
    assert {name: getattr(report, name) for name in MISTAKES} == dict.fromkeys(MISTAKES, 0)
    assert report.exit_code == 0
    assert report.delivered == report.expected > 0


async def command(*arguments: object) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "chatcore_server.cli",
        "load",
        *(str(argument) for argument in arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_command_and_its_report(server: LocalServer, tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    options = ["--connections", 20, "--rooms", 4, "--rate", 200, "--duration", 1, "--ramp", 0.2, "--seed", 9]
    options += ["--private-share", 0.3, "--processes", 2, "--body-bytes", 100, "--json", file]
    code, out, err = await command(f"127.0.0.1:{server.port}", "--data", server.folder, *options)
    assert (code, err) == (0, "")
    assert "every delivery was right" in out
    report: dict[str, Any] = json.loads(file.read_bytes())
    assert report["sent"] == report["acked"] == 200
    assert report["delivered"] == report["expected"] > 200
    assert report["refused"] == report["closed"] == {}
    for name in (*MISTAKES, "unanswered", "unsent", "disconnected", "absent"):
        assert report[name] == 0, name
    for latency in ("ack_ms", "deliver_ms"):
        values = [report[latency][name] for name in ("p50", "p90", "p99", "max")]
        assert values[0] > 0
        assert values == sorted(values)
    assert report["connect_per_s"] > 0
    assert report["seed"] == 9
    assert report["version"]
    assert report["options"]["private_share"] == 0.3


async def test_a_storm(server: LocalServer) -> None:
    report = await play(
        server.port, key_of(server), connections=60, rooms=3, rate=400, duration_s=1, private_share=0.3, storm=True
    )
    assert_right(report)
    assert report.storm is not None
    assert report.storm.connections == report.storm.returned == report.storm.resumed == 60
    assert report.acked == report.sent == 400
    assert report.new_sessions == 0


async def test_every_mistake_is_told_by_its_name(server: LocalServer) -> None:
    """One message in 500 is dropped, doubled, swapped or changed on its way."""
    expected: dict[Mistake, dict[str, int]] = {
        "drop": {"lost": 3, "prev_mismatches": 3},
        "double": {"duplicated": 3},
        "swap": {"out_of_order": 3, "prev_mismatches": 3},
        "body": {"hash_mismatches": 3},
        "hash": {"hash_mismatches": 3},
    }

    async def run(seed: int, mistake: Mistake) -> tuple[int, dict[str, int]]:
        proxy = await TamperingProxy(server.port, mistake, every=500, times=3).start()
        try:
            report = await play(proxy.port, key_of(server), connections=20, rooms=2, rate=250, duration_s=1, seed=seed)
        finally:
            await proxy.stop()
        assert proxy.made == 3
        return report.exit_code, {name: getattr(report, name) for name in MISTAKES if getattr(report, name)}

    found = await asyncio.gather(*(run(seed, mistake) for seed, mistake in enumerate(expected)))
    assert dict(zip(expected, found, strict=True)) == {mistake: (1, counts) for mistake, counts in expected.items()}


async def test_what_the_server_refuses_is_not_lost(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data", {"limits": {"frames_per_second": 60, "frame_burst": 20}}).start()
    try:
        report = await play(server.port, key_of(server), connections=2, rooms=1, rate=200, duration_s=1)
    finally:
        await server.stop()
    assert_right(report)
    assert report.refused.keys() == {"rate_limited"}
    assert report.acked + report.refused["rate_limited"] == report.sent == 200
    assert report.closed == {}  # it pauses when it is told to
    assert any("frames_per_second" in note for note in report.notes)


async def test_an_interrupt_ends_it_early_with_the_report(server: LocalServer) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "chatcore_server.cli", "load", f"127.0.0.1:{server.port}"),
        *("--data", str(server.folder), "--connections", "10", "--rooms", "2", "--duration", "600", "--processes", "2"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    await until(lambda: server.do(lambda worker: worker.hub.counters()["records"]) > 20, "messages flow", 30)
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"interrupted" in out
    assert b"every delivery was right" in out


async def test_a_connection_that_is_silent_keeps_its_heartbeat(tmp_path: Path) -> None:
    limits = {"heartbeat": "200ms", "heartbeat_grace": "200ms"}
    server = LocalServer(tmp_path / "data", {"limits": limits}).start()
    try:
        report = await play(server.port, key_of(server), connections=8, rooms=8, rate=2, duration_s=1.5)
    finally:
        await server.stop()
    assert_right(report)
    assert report.disconnected == 0


async def test_why_it_cannot_run(server: LocalServer, tmp_path: Path) -> None:
    key = key_of(server)
    other = TamperingProxy(1, "drop")
    await other.start()  # a port that was in use a moment ago
    await other.stop()
    attempts: list[tuple[str, int, bytes, dict[str, Any]]] = [
        ("no server at", other.port, key, {}),
        ("--secret-file", server.port, bytes(32), {}),
        ("--body-bytes 100000", server.port, key, {"body_bytes": 100_000}),
        ("--rooms", server.port, key, {"rooms": 101}),
        ("--processes", server.port, key, {"rooms": 1, "processes": 2}),
        ("no address", server.port, key, {"host": "no.such.host.invalid"}),
    ]
    for text, port, its_key, options in attempts:
        with pytest.raises(LoadError, match=text):
            await play(port, its_key, duration_s=1, **options)
    code, out, err = await command(f"127.0.0.1:{other.port}", "--data", server.folder)
    assert (code, out) == (2, "")
    assert "chatcore serve" in err
    code, _, err = await command("--data", tmp_path / "nowhere")
    assert code == 2
    assert "--data" in err


async def test_a_server_that_is_full(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "data", {"limits": {"connections": 5}}).start()
    try:
        with pytest.raises(LoadError, match=r"it is full: raise its limits\.connections"):
            await play(server.port, key_of(server), connections=10, rooms=1)
    finally:
        await server.stop()


async def test_the_progress_is_told(server: LocalServer) -> None:
    told: list[Progress] = []
    report = await play(
        server.port, key_of(server), told.append, connections=5, rooms=1, rate=100, duration_s=1, ramp_s=0.3
    )
    assert {progress.phase for progress in told} >= {"connecting", "running", "draining"}
    assert told[-1].done == 1
    assert told[-1].delivered == report.delivered == 500
    assert 0.3 <= report.connect_s < 3
