"""What can befall the machine under a server: a full disk, a folder or file that cannot be used, a clock set back."""

import asyncio
import ctypes
import resource
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatcore.errors import ChatError
from chatcore.operations import Operation
from chatcore_ext.constants import FrameType, SendFlag
from chatcore_server import clock
from chatcore_server.embedded.database import FILE_NAME
from support.journal import used_journal_bytes
from support.neighbours import Neighbours
from support.players import player
from support.raw import RawClient
from support.servers import LocalServer, ServerProcess

pytestmark = pytest.mark.asyncio

MakeServer = Callable[..., ServerProcess]
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h
HOUR_MS = 3_600_000


def without_privileges() -> None:
    """In the child before it becomes the server: permissions count for root, too."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


async def failed_start(folder: Path) -> str:
    """What a server says that cannot start on a data folder."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore_server.cli", "serve", "--port", "0", "--http-port", "0", "--data", folder,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=without_privileges,
    )  # fmt: skip
    async with asyncio.timeout(20):
        out, error = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert error.startswith(b"chatcore: ")
    return error.decode()


async def used_folder(make_server: MakeServer) -> Path:
    """Of a server that has run and stopped."""
    server = make_server()
    await server.start()
    await server.kill()
    return server.folder


async def test_a_read_only_data_folder(make_server: MakeServer) -> None:
    folder = await used_folder(make_server)
    for file in folder.iterdir():
        file.chmod(0o400)
    folder.chmod(0o500)
    try:
        assert "this user may write to" in await failed_start(folder)
    finally:
        folder.chmod(0o700)


async def test_a_new_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "data folder must belong to the user" in await failed_start(tmp_path / "locked" / "data")


async def test_a_database_file_that_is_none(make_server: MakeServer) -> None:
    folder = await used_folder(make_server)
    (folder / FILE_NAME).write_bytes(b"not a database, by any means " * 1000)
    for extra in ("-wal", "-shm"):
        (folder / (FILE_NAME + extra)).unlink(missing_ok=True)
    assert "is not a SQLite file" in await failed_start(folder)


async def test_a_database_file_of_another_program(make_server: MakeServer) -> None:
    folder = await used_folder(make_server)
    for file in folder.glob(FILE_NAME + "*"):
        file.unlink()
    with sqlite3.connect(folder / FILE_NAME) as other:
        other.execute("CREATE TABLE scores (player, points)")
    other.close()
    assert "file of another program" in await failed_start(folder)


async def test_a_damaged_database_file(make_server: MakeServer) -> None:
    server = make_server()
    await server.start()
    ann = await player(server.port, server.token("ann")).start()
    await ann.client.join("room:x")
    for i in range(200):
        await ann.client.send("room:x", f"{i}" + "x" * 500)
    await ann.close()
    await server.kill()
    file = server.folder / FILE_NAME
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = file.stat().st_size
    with file.open("r+b") as damaged:
        for page in range(1, size // 4096):
            damaged.seek(page * 4096)
            damaged.write(b"\xa5" * 64)
    assert "is damaged" in await failed_start(server.folder)


@pytest.mark.parametrize("log_bytes", [0, 32 << 20], ids=["", "which the server's log is on, too"])
async def test_a_disk_that_is_full_for_a_while(make_server: MakeServer, log_bytes: int) -> None:
    server = make_server(config="[embedded]\nretry = '20ms'\n")
    server.log.write_bytes(bytes(log_bytes))
    await server.start()
    ann, bob = [await player(server.port, server.token(name)).start() for name in ("ann", "bob")]
    for each in (ann, bob):
        await each.client.join("room:x")
    await ann.client.send("room:x", "before")
    unlimited = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    size = used_journal_bytes(server.folder)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size + 4096, unlimited[1]))
    raw = await RawClient.open(f"tcp://127.0.0.1:{server.port}")
    welcome = await raw.login(token=server.token("cid"), channels={"room:x": 0})
    number, refused = welcome["channels"]["room:x"][0], 0
    for seq in range(1, 20):
        raw.send(seq, number, bytes(3000))
        kind, _ = await raw.next(FrameType.FRAME_ACK, FrameType.FRAME_REFUSED)
        refused += kind == FrameType.FRAME_REFUSED
    assert refused > 10
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, unlimited)
    await raw.close()
    if not log_bytes:
        assert b"log_write_failed" in server.log.read_bytes()
    while True:
        try:
            await ann.client.send("room:x", "after")
            break
        except ChatError as error:
            assert error.name == "log_unavailable"
            await asyncio.sleep(0.02)
    await bob.hears("room:x", "after")
    for each in (ann, bob):
        each.check_order()
        await each.close()


async def test_a_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = clock.wall_clock_ms
    server = LocalServer(tmp_path / "data", {}).start()
    neighbours = await Neighbours(server).start()
    raw = await RawClient.open(server.uri)
    welcome = await raw.login(token=server.token("ann"), channels={"room:x": 0})
    number, ticket = welcome["channels"]["room:x"][0], welcome["ticket"]
    raw.send(1, number, b"before")
    first = await raw.ack()
    gone = await RawClient.open(server.uri)
    void = (await gone.login(token=server.token("bob")))["ticket"]
    gone.ask(Operation.LOGOUT)
    assert await gone.closed_by() == "logged_out"

    monkeypatch.setattr(clock, "wall_clock_ms", lambda: real() - HOUR_MS)
    raw.send(2, number, b"after")
    _, id, time_ms = await raw.ack()
    assert id > first[1]
    assert time_ms >= first[2], "records' times never go back"
    await raw.close()
    again = await RawClient.open(server.uri)
    welcome = await again.login(ticket=ticket, channels={"room:x": 0})
    assert welcome["resumed"]
    assert welcome["time_ms"] >= first[2]
    again.send(1, welcome["channels"]["room:x"][0], b"before", SendFlag.SEND_RESEND)
    assert (await again.ack())[:2] == first[:2], "a resend is recognised"
    replay = await RawClient.open(server.uri)
    replay.hello(ticket=void)
    assert await replay.closed_by() == "bad_ticket"
    await neighbours.unharmed()
    history = await again.request(Operation.SYNC, channel="room:x")
    assert [entry[6] for entry in history["entries"]] == [b"before", b"after"]
    times = [entry[3] for entry in history["entries"]]
    assert times == sorted(times)
    for client in (again, gone, replay):
        await client.close()
    await neighbours.stop()
    await server.stop()

    # A server that starts while the clock is wrong: the log remembers its last time.
    later = LocalServer(tmp_path / "data", {}).start()
    client = await RawClient.open(later.uri)
    welcome = await client.login(token=later.token("cid"), channels={"room:x": 0})
    client.send(1, welcome["channels"]["room:x"][0], b"later")
    assert (await client.ack())[2] >= times[-1]
    await client.close()
    await later.stop()
