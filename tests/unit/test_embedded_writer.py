"""The embedded store's two threads: bounds, failures that roll back, deadlines. Real files; the disk is made full."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import BackendUnavailable, LogFull, Outcome
from chatcore_server.embedded import EmbeddedSettings, EmbeddedStore
from chatcore_server.settings_layers import load_settings
from support.backends import Collector, Sender, entries_after
from support.eventually import eventually

pytestmark = pytest.mark.asyncio
CODE = ErrorCode.ERROR_INTERNAL
T = TypeVar("T")


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    settings = EmbeddedSettings(
        max_queued_records=100,
        max_queued_bytes=50_000,
        max_batch_records=30,
        retry_ms=20,
    )
    opened = EmbeddedStore(tmp_path, settings)
    await opened.open()
    yield opened
    await opened.close()


@pytest_asyncio.fixture
async def impatient(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    """Look-ups and changes may take 0.1 s."""
    opened = EmbeddedStore(tmp_path, EmbeddedSettings(lookup_timeout_ms=100, write_timeout_ms=100))
    await opened.open()
    yield opened
    await opened.close()


async def in_the_end(call: Callable[[], Awaitable[T]]) -> T:
    """Asks again until the backend answers: the machine that runs the tests may be slow too."""
    for _ in range(100):
        try:
            return await call()
        except BackendUnavailable:
            await asyncio.sleep(0.005)
    return await call()


class Stall:
    """Holds a thread of the store at work until released."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.released = threading.Event()

    def __call__(self, connection: sqlite3.Connection) -> str:
        self.entered.set()
        self.released.wait(10)
        return "done"


async def stall_writer(store: EmbeddedStore) -> tuple[Stall, "asyncio.Task[str]"]:
    stall = Stall()
    task = asyncio.create_task(store._writer.change(stall, CODE))
    await eventually(stall.entered.is_set)
    return stall, task


async def limit_pages(store: EmbeddedStore, spare: int | None) -> None:
    """The disk has room for so many pages more; None: for all."""

    def change(connection: sqlite3.Connection) -> None:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {1_000_000 if spare is None else pages + spare}")

    await store._writer.change(change, CODE)


async def test_the_queue_is_bounded_by_count(store: EmbeddedStore) -> None:
    stall, task = await stall_writer(store)
    sender = Sender(store)
    tokens = [sender.append(b"room:x", sender.record(b"")) for _ in range(100)]
    with pytest.raises(LogFull):
        sender.append(b"room:x", sender.record(b""))
    stall.released.set()
    assert (await sender.outcome(tokens[-1])).offset == 100
    assert (await sender.send(b"room:x", b"again"))[0].offset == 101
    await asyncio.gather(task, return_exceptions=True)


async def test_the_queue_is_bounded_by_bytes(store: EmbeddedStore) -> None:
    stall, task = await stall_writer(store)
    sender = Sender(store)
    big = sender.record(b"x" * 20_000)
    tokens = [sender.append(b"room:x", big) for _ in range(2)]
    with pytest.raises(LogFull):
        sender.append(b"room:x", big)
    tokens.append(sender.append(b"room:x", sender.record(b"small")))
    stall.released.set()
    for token in tokens:
        await sender.outcome(token)
    await sender.outcome(sender.append(b"room:x", big))
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_queued_together_is_committed_together(store: EmbeddedStore) -> None:
    stall, task = await stall_writer(store)
    sender = Sender(store)
    tokens = [sender.append(b"room:x", sender.record(b"")) for _ in range(30)]
    stall.released.set()
    await sender.outcome(tokens[-1])
    assert [len(batch) for batch in sender.batches] == [30]
    await asyncio.gather(task, return_exceptions=True)


async def test_a_batch_has_a_size(tmp_path: Path) -> None:
    settings = load_settings({"embedded": {"max_batch_size": "5kB"}}).embedded
    store = EmbeddedStore(tmp_path, settings)
    await store.open()
    stall, task = await stall_writer(store)
    sender = Sender(store)
    tokens = [sender.append(b"room:x", sender.record(bytes(2000))) for _ in range(10)]
    stall.released.set()
    await sender.outcome(tokens[-1])
    assert [len(batch) for batch in sender.batches] == [3, 3, 3, 1], "whole records, until there are 5,000 bytes"
    await asyncio.gather(task, return_exceptions=True)
    await store.close()


async def test_a_record_must_be_bytes(store: EmbeddedStore) -> None:
    for channel, value in (("room:x", b""), (b"room:x", "text"), (b"room:x", bytearray(b"x"))):
        with pytest.raises(TypeError):
            store.log.append(channel, value, 1)  # type: ignore[arg-type]
    await Sender(store).send(b"room:x", b"fine")


async def test_a_full_disk_fails_the_batch_and_nothing_of_it_stays(store: EmbeddedStore) -> None:
    sender = Sender(store)
    collector = Collector()
    await store.log.tail(0, collector)
    await sender.send(b"room:x", b"before")
    await limit_pages(store, 1)
    tokens = [sender.append(b"room:x", sender.record(b"x" * 3_000)) for _ in range(10)]
    for token in tokens:
        assert await sender.outcome(token) == Outcome(token, -1, 0, 0, ErrorCode.ERROR_LOG_UNAVAILABLE, False)
    await limit_pages_when_back(store)
    after = await sender.send(b"room:x", b"after")
    assert after[0].offset == 2, "a batch that failed takes no offsets"
    entries = await entries_after(store.history, b"room:x", 0, 10)
    assert [(entry.id, entry.prev, entry.body) for entry in entries] == [(1, 0, b"before"), (2, 1, b"after")]
    await eventually(lambda: len(collector.of(b"room:x")) == 2)


async def limit_pages_when_back(store: EmbeddedStore) -> None:
    """The disk has room again; changes fail until the writer tries again."""
    for _ in range(200):
        try:
            await limit_pages(store, None)
            return
        except BackendUnavailable:
            await asyncio.sleep(0.005)
    raise AssertionError("the writer did not come back")


async def test_a_send_that_failed_may_be_sent_again(store: EmbeddedStore) -> None:
    """The writer's view must not remember what was rolled back: the second try is the first copy."""
    sender = Sender(store)
    await limit_pages(store, 0)
    value = sender.record(b"x" * 9_000)
    failed = await sender.outcome(sender.append(b"room:x", value))
    assert (failed.code, failed.uncertain) == (ErrorCode.ERROR_LOG_UNAVAILABLE, False)
    await limit_pages_when_back(store)
    done = await sender.outcome(sender.append(b"room:x", value))
    assert done.code == 0
    assert [entry.id for entry in await entries_after(store.history, b"room:x", 0, 9)] == [done.offset]
    assert await store.history.find(b"room:x", sender.session, 1) == done.offset


async def test_changes_fail_with_their_own_code_when_the_disk_is_full(store: EmbeddedStore) -> None:
    await limit_pages(store, 0)
    players = [b"player-%d" % number * 4 for number in range(200)]
    answers = await asyncio.gather(
        *(store.relations.block(player, b"x" * 60) for player in players), return_exceptions=True
    )
    failures = [answer for answer in answers if isinstance(answer, BackendUnavailable)]
    assert failures
    assert {failure.code for failure in failures} == {ErrorCode.ERROR_RELATIONS_UNAVAILABLE}
    await limit_pages_when_back(store)
    for player, answer in zip(players, answers, strict=True):
        assert await store.relations.blocks(player) == ([] if answer else [b"x" * 60])


async def test_a_change_that_raises_takes_only_itself_back(store: EmbeddedStore) -> None:
    def spoil(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO blocks VALUES (x'01', x'02')")
        raise KeyError("a mistake")

    sender = Sender(store)
    stall, task = await stall_writer(store)
    token = sender.append(b"room:x", sender.record(b"kept"))
    results = asyncio.gather(
        store.relations.block(b"ann", b"bob"),
        store._writer.change(spoil, CODE),
        store.relations.block(b"ann", b"eve"),
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    stall.released.set()
    assert [type(result) for result in await results] == [type(None), KeyError, type(None)]
    assert (await sender.outcome(token)).code == 0
    assert await store.relations.blocks(b"ann") == [b"bob", b"eve"]
    assert await store.relations.blocks(b"\x01") == []
    await asyncio.gather(task, return_exceptions=True)


async def test_a_slow_disk_is_an_unavailable_backend(impatient: EmbeddedStore) -> None:
    stall, task = await stall_writer(impatient)
    with pytest.raises(BackendUnavailable, match=r"within 0\.1 s") as caught:
        await impatient.relations.block(b"ann", b"bob")
    assert caught.value.code == ErrorCode.ERROR_RELATIONS_UNAVAILABLE
    assert caught.value.retry_after_ms > 0
    stall.released.set()
    await asyncio.gather(task, return_exceptions=True)
    await in_the_end(lambda: impatient.relations.block(b"ann", b"eve"))
    found = await in_the_end(lambda: impatient.relations.blocks(b"ann"))
    assert found == [b"eve"], "nobody waits for the first any more"


async def test_a_slow_look_up_is_an_unavailable_backend(impatient: EmbeddedStore) -> None:
    await in_the_end(lambda: impatient.relations.block(b"ann", b"bob"))
    stall = Stall()
    task = asyncio.create_task(impatient._reader.look_up(stall, CODE))
    await eventually(stall.entered.is_set)
    for call, code in (
        (impatient.relations.profiles([b"ann"]), ErrorCode.ERROR_RELATIONS_UNAVAILABLE),
        (impatient.history.heads([b"room:x"]), ErrorCode.ERROR_HISTORY_UNAVAILABLE),
        (impatient.log.tail(0, Collector()), ErrorCode.ERROR_LOG_UNAVAILABLE),
    ):
        with pytest.raises(BackendUnavailable) as caught:
            await call
        assert caught.value.code == code
    stall.released.set()
    await asyncio.gather(task, return_exceptions=True)
    assert await in_the_end(lambda: impatient.relations.blocks(b"ann")) == [b"bob"]


async def test_an_unreadable_file_is_an_unavailable_backend(store: EmbeddedStore) -> None:
    await store._writer.change(lambda connection: connection.execute("ALTER TABLE blocks RENAME TO gone"), CODE)
    with pytest.raises(BackendUnavailable):
        await store.relations.blocks(b"ann")


async def test_a_cancelled_caller_disturbs_nobody(store: EmbeddedStore) -> None:
    stall, task = await stall_writer(store)
    waiting = asyncio.create_task(store.relations.block(b"ann", b"bob"))
    await asyncio.sleep(0)
    waiting.cancel()
    stall.released.set()
    await asyncio.gather(task, waiting, return_exceptions=True)
    await store.relations.block(b"ann", b"eve")
    assert b"eve" in await store.relations.blocks(b"ann")


async def test_closing_answers_everybody(tmp_path: Path) -> None:
    others = threading.enumerate()
    store = EmbeddedStore(tmp_path)
    await store.open()
    sender = Sender(store)
    tokens = [sender.append(b"room:x", sender.record(b"")) for _ in range(500)]
    changes = [asyncio.create_task(store.relations.block(b"ann", b"%d" % number)) for number in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert set(sender.outcomes) == set(tokens)
    assert await asyncio.gather(*changes) == [None] * 20
    left = set(threading.enumerate()) - set(others)
    assert not [thread for thread in left if thread.name.startswith("chatcore-")]


async def test_a_defect_costs_its_batch_only(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows how far it came, so it is uncertain; whoever sends again gets the truth."""

    def fail(placed: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("a defect")

    sender = Sender(store)
    value = sender.record(b"twice")
    monkeypatch.setattr(store._writer._log, "committed", fail)
    lost = await sender.outcome(sender.append(b"room:x", value))
    assert (lost.code, lost.uncertain) == (ErrorCode.ERROR_LOG_UNAVAILABLE, True)
    again = await sender.outcome(sender.append(b"room:x", value))
    assert again.code == 0
    assert [entry.body for entry in await entries_after(store.history, b"room:x", 0, 9)] == [b"twice"]
    assert await store.history.find(b"room:x", sender.session, 1) != again.offset
