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

    def __init__(self, file: Path, settings: EmbeddedSettings | None = None) -> None:
        self._gate, self._is_held = threading.Event(), threading.Event()
        self.reader = Reader(settings or EmbeddedSettings())
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


async def test_large_look_ups_let_the_others_go_first(tmp_path: Path) -> None:
    """Those that are there, and those that come while a large one is looked up; and all are answered before the end."""
    held = Held(tmp_path / "file")
    first = await held.hold()
    order: list[str] = []

    def ask(name: str, is_large: bool = False) -> "asyncio.Task[None]":
        return asyncio.create_task(held.reader.look_up(lambda _: order.append(name), CODE, is_large=is_large))

    is_in, go_on = threading.Event(), threading.Event()

    def large(connection: sqlite3.Connection) -> None:
        is_in.set()
        go_on.wait(10)
        order.append("large 0")

    asked = [asyncio.create_task(held.reader.look_up(large, CODE, is_large=True))]
    asked += [ask(f"large {i}", is_large=True) for i in range(1, 4)] + [ask("first"), ask("second")]
    await asyncio.sleep(0)
    held.let_go()
    assert await asyncio.to_thread(is_in.wait, 10)
    asked += [ask("third"), ask("large 4", is_large=True)]
    await asyncio.sleep(0)
    stopping = asyncio.create_task(held.reader.stop())
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(first, stopping, *asked)
    assert order == ["first", "second", "large 0", "third", "large 1", "large 2", "large 3", "large 4"]


async def test_look_ups_that_wait_have_an_end(tmp_path: Path) -> None:
    """Large ones count as well, and so do those that nobody waits for any more."""
    held = Held(tmp_path / "file", EmbeddedSettings(max_queued_lookups=4))
    first = await held.hold()
    asked = [
        asyncio.create_task(held.reader.look_up(lambda _, i=i: i, CODE, is_large=i % 2 == 0))  # type: ignore[misc]
        for i in range(6)
    ]
    await asyncio.sleep(0)
    asked[1].cancel()
    answers = await asyncio.gather(*asked[4:], return_exceptions=True)
    assert [isinstance(answer, BackendUnavailable) and answer.code == CODE for answer in answers] == [True, True]
    with pytest.raises(BackendUnavailable, match="4 look-ups wait"):
        await held.reader.look_up(lambda _: 0, CODE)
    held.let_go()
    await first
    assert [await asked[i] for i in (0, 2, 3)] == [0, 2, 3]
    assert await held.reader.look_up(lambda _: "again", CODE) == "again"
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
