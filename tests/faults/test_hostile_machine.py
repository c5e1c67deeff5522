"""What can befall the machine under a server: a full disk, a folder or file that cannot be used, a clock set back.

test_hostile_beside_a_thousand.py has it happen to the server of a thousand players, or beside it.
"""

import asyncio
import ctypes
import resource
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatcore.errors import ChatError
from chatcore.operations import Operation
from chatcore_ext.constants import FrameType, SendFlag
from chatcore_server import clock
from chatcore_server.embedded.database import FILE_NAME
from support.journal import used_journal_bytes
from support.neighbours import Neighbours
from support.players import Player, player
from support.raw import RawClient
from support.servers import LocalServer, ServerProcess

pytestmark = pytest.mark.asyncio

MakeServer = Callable[..., ServerProcess]
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1  # linux/prctl.h, linux/capability.h
HOUR_MS = 3_600_000


def without_privileges() -> None:
    """In the child before it becomes the server: permissions count for root, too."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def can_be_removed(folder: Path) -> None:
    folder.chmod(0o700)


async def failed_start(folder: Path, port: int = 0) -> str:
    """What a server says that cannot start on a data folder."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore_server.cli",
        "serve", "--port", str(port), "--http-port", "0", "--data", folder,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        preexec_fn=without_privileges,
    )  # fmt: skip
    async with asyncio.timeout(20):
        out, error = await process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert error.startswith(b"chatcore: ")
    return error.decode()


async def used_folder(make_server: MakeServer) -> Path:
    """Of a server that has run and was killed. All that it wrote is in the database file."""
    server = make_server("used")
    await server.start()
    ann = await player(server.port, server.token("ann")).start()
    await ann.client.join("room:x")
    await asyncio.gather(*(ann.client.send("room:x", f"{i}" + "x" * 2000) for i in range(50)))
    await ann.close()
    await server.kill()
    with sqlite3.connect(server.folder / FILE_NAME) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return server.folder


def is_read_only(folder: Path) -> None:
    for file in folder.iterdir():
        file.chmod(0o400)
    folder.chmod(0o500)


def has_a_file_that_is_no_database(folder: Path) -> None:
    (folder / FILE_NAME).write_bytes(b"not a database, by any means " * 1000)


def has_a_file_of_another_program(folder: Path) -> None:
    (folder / FILE_NAME).unlink()
    with sqlite3.connect(folder / FILE_NAME) as other:
        other.execute("CREATE TABLE scores (player, points)")
    other.close()


def has_a_damaged_file(folder: Path) -> None:
    file = folder / FILE_NAME
    n_pages = file.stat().st_size // 4096
    assert n_pages > 20
    with file.open("r+b") as damaged:
        for page in range(1, n_pages):
            damaged.seek(page * 4096)
            damaged.write(b"\xa5" * 64)


UNUSABLE: list[tuple[Callable[[Path], None], str]] = [
    (is_read_only, "this user may write to"),
    (has_a_file_that_is_no_database, "is not a SQLite file"),
    (has_a_file_of_another_program, "file of another program"),
    (has_a_damaged_file, "is damaged"),
]


async def unusable_folders_are_refused(used: Path) -> None:
    """Copies of the folder of which each cannot be used any more in a way of its own."""
    for make_unusable, words in UNUSABLE:
        folder = Path(shutil.copytree(used, used.with_name(make_unusable.__name__)))
        make_unusable(folder)
        try:
            assert words in await failed_start(folder), make_unusable.__name__
        finally:
            can_be_removed(folder)


async def test_unusable_data_folders(make_server: MakeServer) -> None:
    await unusable_folders_are_refused(await used_folder(make_server))


async def test_a_new_data_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "data folder must belong to the user" in await failed_start(tmp_path / "locked" / "data")


@contextmanager
def limited(server: ServerProcess, resource_limit: int, lowest: int) -> Iterator[None]:
    """Of a server that runs, as the machine's own limits are when somebody else has used them up."""
    soft, hard = resource.prlimit(server.pid, resource_limit)
    resource.prlimit(server.pid, resource_limit, (lowest, hard))
    yield
    resource.prlimit(server.pid, resource_limit, (soft, hard))


@pytest.mark.parametrize("log_bytes", [0, 32 << 20], ids=["", "which the server's log is on, too"])
async def test_a_disk_that_is_full_for_a_while(make_server: MakeServer, log_bytes: int) -> None:
    server = make_server(config="[embedded]\nretry = '20ms'\n")
    server.log.write_bytes(bytes(log_bytes))
    await server.start()
    ann, bob = [await player(server.port, server.token(name)).start() for name in ("ann", "bob")]
    for each in (ann, bob):
        await each.client.join("room:x")
    await ann.client.send("room:x", "before")
    with limited(server, resource.RLIMIT_FSIZE, used_journal_bytes(server.folder) + 4096):
        assert await n_refused_of_20(server) > 10
    if not log_bytes:
        assert b"log_write_failed" in server.log.read_bytes()
    async with asyncio.timeout(20):
        await send_in_the_end(ann, "after")
    await bob.hears("room:x", "after")
    for each in (ann, bob):
        each.check_order()
        await each.close()


async def send_in_the_end(sender: Player, text: str) -> None:
    while True:
        try:
            await sender.client.send("room:x", text)
            return
        except ChatError as error:
            assert error.name == "log_unavailable"
            await asyncio.sleep(0.02)


async def n_refused_of_20(server: ServerProcess) -> int:
    raw = await RawClient.open(server.port)
    welcome = await raw.login(token=server.token("cid"), channels={"room:x": 0})
    number, refused = welcome["channels"]["room:x"][0], 0
    for seq in range(1, 21):
        raw.send(seq, number, bytes(3000))
        kind, _ = await raw.next(FrameType.FRAME_ACK, FrameType.FRAME_REFUSED)
        refused += kind == FrameType.FRAME_REFUSED
    await raw.close()
    return refused


async def server_lives_with_its_clock_set_back(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> int:
    """Returns the highest time of a record in room:x."""
    real = clock.wall_clock_ms
    raw = await RawClient.open(server.uri)
    welcome = await raw.login(token=server.token("ann"), channels={"room:x": 0})
    ticket, number = welcome["ticket"], welcome["channels"]["room:x"][0]
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
    again = await resumed(server, ticket, first)
    replay = await RawClient.open(server.uri)
    replay.hello(ticket=void)
    assert await replay.closed_by() == "bad_ticket"
    history = await again.request(Operation.SYNC, channel="room:x")
    assert [entry[6] for entry in history["entries"]] == [b"before", b"after"]
    times: list[int] = [entry[3] for entry in history["entries"]]
    assert times == sorted(times)
    for client in (again, gone, replay):
        await client.close()
    return times[-1]


async def resumed(server: LocalServer, ticket: bytes, first: tuple[int, int, int]) -> RawClient:
    """The session of a ticket, which sends its first message again. `first`: what that was acknowledged by."""
    client = await RawClient.open(server.uri)
    welcome = await client.login(ticket=ticket, channels={"room:x": 0})
    assert welcome["resumed"]
    assert welcome["time_ms"] >= first[2]
    client.send(1, welcome["channels"]["room:x"][0], b"before", SendFlag.SEND_RESEND)
    assert (await client.ack())[:2] == first[:2], "a resend is recognised"
    return client


def forget_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process does, and as this one has to at the test's end."""
    monkeypatch.setattr(clock, "_server_clock", clock.Clock(lambda: clock.wall_clock_ms()))


async def test_a_clock_that_ran_ahead_and_is_right_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_time(monkeypatch)
    server = LocalServer(tmp_path / "data", {}).start()
    ahead = await RawClient.open(server.uri)
    with monkeypatch.context() as later:
        real = clock.wall_clock_ms
        later.setattr(clock, "wall_clock_ms", lambda: real() + 24 * HOUR_MS)
        ahead.hello(token=server.token("ahead", 600))
        assert await ahead.closed_by() == "token_expired"
    assert clock.now_ms() > clock.wall_clock_ms() + 23 * HOUR_MS, "time does not go back"
    ann = await RawClient.open(server.uri)
    ticket = (await ann.login(token=server.token("ann", 600)))["ticket"]
    await ann.close()
    again = await RawClient.open(server.uri)
    assert (await again.login(ticket=ticket))["resumed"]
    expired = await RawClient.open(server.uri)
    expired.hello(token=server.token("bob", -60))
    assert await expired.closed_by() == "token_expired"
    for client in (ahead, again, expired):
        await client.close()
    await server.stop()


async def test_a_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forget_the_time(monkeypatch)
    server = LocalServer(tmp_path / "data", {}).start()
    neighbours = await Neighbours(server).start()
    last_ms = await server_lives_with_its_clock_set_back(server, monkeypatch)
    await neighbours.unharmed()
    await neighbours.stop()
    await server.stop()

    # A server that starts while the clock is wrong: the log remembers its last time.
    forget_the_time(monkeypatch)
    assert clock.now_ms() < last_ms
    later = LocalServer(tmp_path / "data", {}).start()
    client = await RawClient.open(later.uri)
    welcome = await client.login(token=later.token("cid"), channels={"room:x": 0})
    client.send(1, welcome["channels"]["room:x"][0], b"later")
    assert (await client.ack())[2] >= last_ms
    await client.close()
    await later.stop()
