"""The reader's batches: in the order of asking, each in a snapshot that begins after all of it was asked."""

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import BackendUnavailable
from chatcore_server.embedded.reader import Reader
from chatcore_server.embedded.settings import EmbeddedSettings

pytestmark = pytest.mark.asyncio

CODE = ErrorCode.ERROR_HISTORY_UNAVAILABLE
N_LOOKUPS = 600  # over two full batches


def connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    return connection


class Held:
    """A reader whose first look-up waits until it is let go, so that what is asked meanwhile is one batch."""

    def __init__(self, file: Path) -> None:
        self._gate, self._is_held = threading.Event(), threading.Event()
        self.reader = Reader(EmbeddedSettings())
        self.reader.start(connect(file), asyncio.get_running_loop())

    async def hold(self) -> "asyncio.Task[None]":
        def wait(connection: sqlite3.Connection) -> None:
            self._is_held.set()
            self._gate.wait(10)

        first = asyncio.create_task(self.reader.look_up(wait, CODE))
        assert await asyncio.to_thread(self._is_held.wait, 10)
        return first

    def let_go(self) -> None:
        self._gate.set()


async def test_batches_keep_the_order_of_asking(tmp_path: Path) -> None:
    held = Held(tmp_path / "file")
    first = await held.hold()
    order: list[int] = []

    def ask(i: int) -> "asyncio.Task[None]":
        return asyncio.create_task(held.reader.look_up(lambda _: order.append(i), CODE))

    asked = [ask(i) for i in range(N_LOOKUPS)]
    await asyncio.sleep(0)
    held.let_go()
    await asyncio.gather(first, *asked)
    assert order == list(range(N_LOOKUPS))
    await held.reader.stop()


async def test_what_was_durable_when_it_was_asked_is_seen(tmp_path: Path) -> None:
    writer = connect(tmp_path / "file")
    writer.execute("CREATE TABLE things (name)")
    held = Held(tmp_path / "file")
    first = await held.hold()
    writer.execute("INSERT INTO things VALUES ('new')")
    names = asyncio.create_task(held.reader.look_up(lambda c: c.execute("SELECT name FROM things").fetchall(), CODE))
    await asyncio.sleep(0)
    held.let_go()
    await first
    assert await names == [("new",)]
    assert not await held.reader.look_up(
        lambda c: c.execute("SELECT 1 FROM things WHERE name = 'old'").fetchone(), CODE
    )
    await held.reader.stop()
    writer.close()


async def test_a_failing_look_up_takes_no_other_with_it(tmp_path: Path) -> None:
    held = Held(tmp_path / "file")
    first = await held.hold()
    wrong = asyncio.create_task(held.reader.look_up(lambda c: c.execute("SELECT * FROM nowhere"), CODE))
    right = asyncio.create_task(held.reader.look_up(lambda c: c.execute("SELECT 1").fetchone(), CODE))
    await asyncio.sleep(0)
    held.let_go()
    await first
    with pytest.raises(BackendUnavailable, match="cannot be read"):
        await wrong
    assert await right == (1,)
    await held.reader.stop()


async def test_what_was_asked_before_the_end_is_answered(tmp_path: Path) -> None:
    held = Held(tmp_path / "file")
    first = await held.hold()

    def ask(i: int) -> "asyncio.Task[int]":
        return asyncio.create_task(held.reader.look_up(lambda _: i, CODE))

    asked = [ask(i) for i in range(N_LOOKUPS)]
    await asyncio.sleep(0)
    stopping = asyncio.create_task(held.reader.stop())
    await asyncio.sleep(0)
    held.let_go()
    await first
    assert await asyncio.gather(*asked) == list(range(N_LOOKUPS))
    await stopping
