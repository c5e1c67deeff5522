"""The embedded store's file: what opens, what does not and what the operator is told. Real files, no server."""

import asyncio
import os
import resource
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import Head
from chatcore_server.embedded import EmbeddedSettings, EmbeddedStore, EmbeddedStoreError
from chatcore_server.embedded.database import (
    APPLICATION_ID,
    FILE_NAME,
    LOCK_NAME,
    RESERVED_BYTES,
    SCHEMA_VERSION,
    connect_writer,
)
from support.backends import Sender, entries_after
from support.journal import journal_path, used_journal_bytes

pytestmark = pytest.mark.asyncio
CODE = ErrorCode.ERROR_INTERNAL
NOBODY = 65_534  # a user that every Unix has


async def create(folder: Path) -> bytes:
    """A store with one message in it, closed; the channel."""
    store = EmbeddedStore(folder)
    await store.open()
    await Sender(store).send(b"room:x", b"hello")
    await store.close()
    return b"room:x"


def open_to_all(folder: Path) -> Path:
    folder.chmod(0o755)
    return folder


def modes_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}


async def test_the_file_is_for_one_user_even_in_a_folder_for_all(tmp_path: Path) -> None:
    store = EmbeddedStore(open_to_all(tmp_path))
    await store.open()
    await Sender(store).send(b"room:x", b"hello")
    modes = modes_in(tmp_path)
    await store.close()
    assert {FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", LOCK_NAME} == modes.keys()
    assert set(modes.values()) == {0o600}


async def test_commits_do_not_make_the_journal_longer(tmp_path: Path) -> None:
    for _ in range(2):
        store = EmbeddedStore(tmp_path)
        await store.open()
        assert journal_path(tmp_path).stat().st_size == RESERVED_BYTES
        await Sender(store).send(b"room:x", b"hello")
        assert 0 < used_journal_bytes(tmp_path) < RESERVED_BYTES == journal_path(tmp_path).stat().st_size
        await store.close()


async def test_the_journal_of_a_killed_server_is_kept(tmp_path: Path) -> None:
    """What is only in the journal must be there again: it is no empty one to be made anew."""
    store = EmbeddedStore(tmp_path / "data")
    await store.open()
    await Sender(store).send(b"room:x", b"hello")
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    await store.close()
    copy = EmbeddedStore(tmp_path / "copy")
    await copy.open()
    assert [entry.body for entry in await entries_after(copy.history, b"room:x", 0, 9)] == [b"hello"]
    await copy.close()


async def test_a_store_opens_where_there_is_no_room_for_a_journal(tmp_path: Path) -> None:
    await create(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (RESERVED_BYTES // 2, limits[1]))
    try:
        store = EmbeddedStore(tmp_path)
        await store.open()
        await Sender(store).send(b"room:x", b"hello")
        assert 0 < journal_path(tmp_path).stat().st_size < RESERVED_BYTES // 2
        await store.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def refusal(folder: Path, settings: EmbeddedSettings | None = None) -> EmbeddedStoreError:
    with pytest.raises(EmbeddedStoreError) as caught:
        await EmbeddedStore(folder, settings).open()
    assert caught.value.fix in str(caught.value)
    assert str(folder) in str(caught.value)
    return caught.value


def edit(folder: Path, statement: str) -> None:
    connection = sqlite3.connect(folder / FILE_NAME)
    connection.execute(statement)
    connection.commit()
    connection.close()


async def test_a_new_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    await create(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    connection = sqlite3.connect(tmp_path / "a" / "b" / FILE_NAME)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize(("name", "level"), [("full", 2), ("normal", 1)])
async def test_synchronous_is_as_the_settings_say(tmp_path: Path, name: str, level: int) -> None:
    store = EmbeddedStore(tmp_path, EmbeddedSettings(synchronous=name))  # type: ignore[arg-type]
    await store.open()
    found = await store._writer.change(lambda connection: connection.execute("PRAGMA synchronous").fetchone()[0], CODE)
    assert found == level
    await store.close()


async def test_two_servers_never_share_a_folder(tmp_path: Path) -> None:
    first = EmbeddedStore(tmp_path)
    await first.open()
    error = await refusal(tmp_path)
    assert "in use by another server" in error.reason
    assert (tmp_path / LOCK_NAME).read_text().strip() in error.reason
    await first.close()
    await create(tmp_path)


async def test_a_failed_open_lets_go_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 100)
    for _ in range(2):
        assert "in use" not in (await refusal(tmp_path)).reason


async def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"")
    assert "cannot use the data folder" in (await refusal(tmp_path / "data")).reason


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.write_bytes(b"#!/bin/sh\n" + b"x" * 8192), "not a SQLite file"),
        (lambda path: edit(path.parent, "PRAGMA application_id = 12345"), "another program"),
        (lambda path: edit(path.parent, "PRAGMA user_version = 99"), "newer chatcore"),
        (lambda path: path.write_bytes(path.read_bytes()[:100] + b"\xff" * 4000), "damaged"),
    ],
)
async def test_a_file_that_is_not_ours_stays_as_it_is(
    tmp_path: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    await create(tmp_path)
    spoil(tmp_path / FILE_NAME)
    before = (tmp_path / FILE_NAME).read_bytes()
    assert reason in (await refusal(tmp_path)).reason
    assert (tmp_path / FILE_NAME).read_bytes() == before


@contextmanager
def plain_user() -> Iterator[Path]:
    """A folder of a user for whom permissions hold; for root they do not. Nothing can be imported within."""
    before = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, before or NOBODY, -1)
        os.seteuid(before or NOBODY)
        try:
            yield Path(folder)
        finally:
            os.seteuid(before)


@pytest.mark.parametrize("name", [FILE_NAME, f"{FILE_NAME}-wal"])
async def test_a_file_that_can_only_be_read_is_refused_until_it_can_be_written(name: str) -> None:
    with plain_user() as folder:
        path = folder / FILE_NAME
        connect_writer(path, "full", 4).close()
        if name != FILE_NAME:
            (folder / name).write_bytes(b"x" * 100)
        (folder / name).chmod(0o400)
        for _ in range(2):
            with pytest.raises(EmbeddedStoreError) as caught:
                connect_writer(path, "full", 4).close()
            assert f"cannot write {path}: " in caught.value.reason
            assert "permissions" in caught.value.fix
        (folder / name).chmod(0o600)
        connect_writer(path, "full", 4).close()


async def test_a_foreign_sqlite_file_without_an_id_is_refused(tmp_path: Path) -> None:
    edit(tmp_path, "CREATE TABLE somebody_elses (x)")
    assert "another program" in (await refusal(tmp_path)).reason


async def test_a_creation_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    edit(tmp_path, "PRAGMA journal_mode = wal")
    await create(tmp_path)


async def test_another_number_of_partitions_is_refused(tmp_path: Path) -> None:
    await create(tmp_path)
    error = await refusal(tmp_path, EmbeddedSettings(partitions=7))
    assert "has 4 partitions, the configuration says 7" in error.reason
    assert "Set partitions to 4" in error.fix


async def test_opening_again_goes_on(tmp_path: Path) -> None:
    channel = await create(tmp_path)
    store = EmbeddedStore(tmp_path)
    await store.open()
    assert await store.history.heads([channel]) != [Head(0, 0, 0)]
    await store.close()
    await store.close()


async def test_it_works_from_one_loop_after_another(tmp_path: Path) -> None:
    await asyncio.to_thread(lambda: asyncio.run(create(tmp_path)))
    await create(tmp_path)
