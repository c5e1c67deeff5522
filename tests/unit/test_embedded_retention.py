"""Retention and the chain of the embedded store: what is removed, what is remembered, and that all readers agree.

A clock that the tests move stands for days of waiting.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.log_view import LogView
from chatcore_server.backends import Head, LogRecord
from chatcore_server.embedded import EmbeddedSettings, EmbeddedStore
from chatcore_server.embedded.log_size import COUNTED_AT_ONCE, RECORD_OVERHEAD, LogSize
from support.backends import Collector, Sender, entries_after
from support.eventually import eventually_answers

CODE = ErrorCode.ERROR_INTERNAL
WINDOW_MS = 1_000
IDLE_MS = 20_000
AGE_MS = 5_000
KEPT_MS = LogView(window_ms=WINDOW_MS).replay_ms + WINDOW_MS  # for readers that start
assert KEPT_MS < AGE_MS


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


def quick(**changes: int) -> EmbeddedSettings:
    values: dict[str, int] = {
        "retention_age_ms": AGE_MS,
        "retention_size_bytes": 0,
        "replay_window_ms": WINDOW_MS,
        "chain_idle_ms": IDLE_MS,
        "trim_interval_ms": 1,
        "trim_step_records": 10,
    }
    return EmbeddedSettings(synchronous="normal", **(values | changes))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest_asyncio.fixture
async def store(tmp_path: Path, clock: Clock) -> AsyncIterator[EmbeddedStore]:
    opened = EmbeddedStore(tmp_path, quick(), clock=clock)
    await opened.open()
    yield opened
    await opened.close()


async def bodies(store: EmbeddedStore, channel: bytes) -> list[bytes]:
    return [entry.body for entry in await entries_after(store.history, channel, 0, 500)]


def sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """The log's bytes as retention has counted them, and as they are."""
    rows = connection.execute("SELECT channel, value FROM log").fetchall()
    return LogSize.read(connection, 4).bytes, sum(2 * len(name) + len(value) + RECORD_OVERHEAD for name, value in rows)


@pytest.mark.asyncio
async def test_what_is_too_old_goes(store: EmbeddedStore, clock: Clock) -> None:
    sender = Sender(store)
    await sender.send(b"room:x", *(b"old %d" % number for number in range(40)))
    clock.now += AGE_MS - 1_000
    kept = await sender.send(b"room:x", b"new")
    clock.now += 1_001
    await eventually_answers(lambda: bodies(store, b"room:x"), lambda found: found == [b"new"])
    assert (await entries_after(store.history, b"room:x", 0, 1))[0].prev == 40
    collector = Collector()
    await store.log.tail(0, collector)
    assert [record.offset for record in collector.of(b"room:x")] == [kept[0].offset]


@pytest.mark.asyncio
async def test_a_head_outlives_its_message(tmp_path: Path, store: EmbeddedStore, clock: Clock) -> None:
    """So the next message chains on it, before a restart and after, until the channel was silent for too long."""
    sender = Sender(store)
    await sender.send(b"room:x", b"one")
    head = (await store.history.heads([b"room:x"]))[0]
    clock.now += AGE_MS + 1
    await eventually_answers(lambda: bodies(store, b"room:x"), lambda found: found == [])
    assert await store.history.heads([b"room:x"]) == [head]
    await store.close()
    again = EmbeddedStore(tmp_path, quick(), clock=clock)
    await again.open()
    clock.now = head.time + IDLE_MS
    await Sender(again).send(b"room:x", b"two")
    (entry,) = await entries_after(again.history, b"room:x", 0, 9)
    assert (entry.id, entry.prev) == (head.id + 1, head.id)
    clock.now += IDLE_MS + 1
    await Sender(again).send(b"room:x", b"three")
    assert (await entries_after(again.history, b"room:x", entry.id, 9))[0].prev == 0
    await again.close()


@pytest.mark.asyncio
async def test_a_silent_channel_is_forgotten(store: EmbeddedStore, clock: Clock) -> None:
    """And the private chat, its read marks and the ended sessions with it; offsets still grow."""
    first = (await Sender(store, b"ann").send(b"dm:ann:bob", b"hi"))[0].offset
    await store.sessions.mark_read(b"bob", b"dm:ann:bob", first)
    await store.sessions.end(7, clock.now + 1_000)
    clock.now += IDLE_MS + 1
    await eventually_answers(lambda: store.history.heads([b"dm:ann:bob"]), lambda heads: heads == [Head(0, 0, 0)])
    assert await store.sessions.conversations([(b"bob", [])], 9) == [[]]
    [state] = await store.sessions.resume([(7, b"bob")], 9)
    assert not state.ended

    def count_rows(connection: "object") -> list[int]:
        tables = ("log", "trimmed_heads", "conversations", "read_marks", "ended_sessions")
        execute = connection.execute  # type: ignore[attr-defined]
        return [execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables]

    await eventually_answers(lambda: store._reader.look_up(count_rows, CODE), lambda counts: counts == [0] * 5)
    again = (await Sender(store, b"ann").send(b"dm:ann:bob", b"hi again"))[0]
    assert again.offset == first + 1
    [[found]] = await store.sessions.conversations([(b"bob", [])], 9)
    assert (found.head, found.read, found.unread) == (again.offset, 0, 1)


@pytest.mark.asyncio
async def test_offsets_go_on_after_everything_was_removed_and_a_restart(
    tmp_path: Path, store: EmbeddedStore, clock: Clock
) -> None:
    outcomes = await Sender(store).send(b"room:x", b"1", b"2", b"3")
    clock.now += 10 * IDLE_MS
    await eventually_answers(lambda: store.history.heads([b"room:x"]), lambda heads: heads == [Head(0, 0, 0)])
    await store.close()
    again = EmbeddedStore(tmp_path, quick(), clock=clock)
    await again.open()
    assert (await Sender(again).send(b"room:x", b"4"))[0].offset == outcomes[-1].offset + 1
    await again.close()


@pytest.mark.asyncio
async def test_the_log_s_time_never_goes_back(tmp_path: Path, store: EmbeddedStore, clock: Clock) -> None:
    first = (await Sender(store).send(b"room:x", b"1"))[0]
    clock.now -= 50_000
    assert (await Sender(store).send(b"room:x", b"2"))[0].time == first.time
    await store.close()
    again = EmbeddedStore(tmp_path, quick(), clock=clock)
    await again.open()
    assert (await Sender(again).send(b"room:x", b"3"))[0].time == first.time
    await again.close()


@pytest.mark.asyncio
async def test_what_is_too_much_goes_oldest_first_across_partitions(tmp_path: Path, clock: Clock) -> None:
    limit = 400_000
    by_size = quick(retention_age_ms=0, retention_size_bytes=limit, trim_step_records=2)
    store = EmbeddedStore(tmp_path, by_size, clock=clock)
    await store.open()
    sender = Sender(store)
    channels = [b"room:%d" % number for number in range(8)]
    for _ in range(30):
        for channel in channels:
            await sender.send(channel, b"x" * 4_000)
        clock.now += WINDOW_MS
    size, _ = await eventually_answers(
        lambda: store._reader.look_up(sizes, CODE), lambda found: found[0] == found[1] <= limit
    )
    assert size > limit / 2, "it stops when it is enough"
    collector = Collector()
    await store.log.tail(0, collector)
    oldest = [records[0].time for records in collector.records.values()]
    assert max(oldest) - min(oldest) <= 2 * WINDOW_MS
    await store.close()
    size_of_file = (tmp_path / "chatcore.sqlite3").stat().st_size
    assert size_of_file < 8 * 30 * 4_000, "freed pages are used again"


@pytest.mark.asyncio
async def test_other_tables_push_no_messages_out(tmp_path: Path, clock: Clock) -> None:
    """Whatever players leave there: blocks and friends of names that nobody has, groups, sessions that ended."""
    by_size = quick(retention_age_ms=0, retention_size_bytes=1 << 20, trim_interval_ms=1_000_000)
    store = EmbeddedStore(tmp_path, by_size, clock=clock)
    await store.open()
    await Sender(store).send(b"room:x", *(b"x" * 1_000 for _ in range(100)))
    clock.now += KEPT_MS + 1

    def crowd(connection: sqlite3.Connection) -> None:
        numbers = [(b"player%d" % number, b"x" * 60) for number in range(20_000)]
        for table in ("blocks", "friends"):
            connection.executemany(f"INSERT INTO {table} VALUES (?, ?)", numbers)
        connection.executemany("INSERT INTO groups VALUES (?)", [(b"group:%s" % name,) for name, _ in numbers])
        connection.executemany("INSERT INTO ended_sessions VALUES (?, ?)", [(i, clock.now * 2) for i in range(20_000)])

    await store._writer.change(crowd, CODE)
    for _ in range(20):
        await trim(store)
    assert len(await bodies(store, b"room:x")) == 100
    await store.close()
    assert (tmp_path / "chatcore.sqlite3").stat().st_size > 2 << 20


@pytest.mark.asyncio
async def test_the_log_is_counted_in_small_steps(tmp_path: Path, clock: Clock) -> None:
    """As one that another version has written."""
    store = EmbeddedStore(tmp_path, quick(trim_interval_ms=1_000_000), clock=clock)
    await store.open()
    for _ in range(5):
        await Sender(store).send(b"room:x", *(b"hello" for _ in range(COUNTED_AT_ONCE // 2)))
    await trim(store)
    counted, real = await store._reader.look_up(sizes, CODE)
    assert 0 < counted < real
    for _ in range(2):
        await trim(store)
    counted, _ = await store._reader.look_up(sizes, CODE)
    assert counted == real
    await store.close()


@pytest.mark.asyncio
async def test_a_mark_does_not_come_after_its_channel_was_forgotten(store: EmbeddedStore, clock: Clock) -> None:
    """Nobody would remove it any more."""
    outcome = (await Sender(store, b"ann").send(b"dm:ann:bob", b"hi"))[0]
    clock.now += IDLE_MS + 1
    await eventually_answers(lambda: store.history.heads([b"dm:ann:bob"]), lambda heads: heads == [Head(0, 0, 0)])
    assert not await store.sessions.mark_read(b"bob", b"dm:ann:bob", outcome.offset)
    marks = "SELECT count(*) FROM read_marks"
    assert await store._reader.look_up(lambda connection: connection.execute(marks).fetchone()[0], CODE) == 0


@pytest.mark.asyncio
async def test_readers_that_start_find_their_window(tmp_path: Path, clock: Clock) -> None:
    """Nothing younger than the replay is removed, whatever the settings say."""
    store = EmbeddedStore(tmp_path, quick(retention_age_ms=1, retention_size_bytes=1), clock=clock)
    await store.open()
    sender = Sender(store)
    await sender.send(b"room:x", b"1")
    clock.now += KEPT_MS
    await sender.send(b"room:x", b"2")
    assert await bodies(store, b"room:x") == [b"1", b"2"]
    clock.now += 1
    await eventually_answers(lambda: bodies(store, b"room:x"), lambda found: found == [b"2"])
    await store.close()


CHANNELS = [b"room:a", b"room:b", b"dm:ann:bob", b"room:d"]
steps = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 3), st.integers(1, 2), st.integers(1, 6)),
    st.tuples(st.just("send"), st.integers(0, 3), st.integers(1, 2), st.integers(1, 300)),
    st.tuples(st.just("wait"), st.sampled_from([1, 300, 999, 1_000, 1_001, 2_500, AGE_MS + 1, IDLE_MS, IDLE_MS + 1])),
    st.tuples(st.just("trim"), st.integers(1, 8)),
    st.tuples(st.just("restart")),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=30))
@example([("send", 0, 1, 1), ("wait", AGE_MS + 1), ("send", 0, 1, 2), ("trim", 3), ("restart",), ("send", 0, 1, 3)])
def test_every_reader_says_what_history_says(script: list[tuple[str | int, ...]]) -> None:
    """The writer, a writer that was restarted at any moment, a reader that has read all, and one that just started."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder), script))


async def trim(store: EmbeddedStore) -> None:
    writer = store._writer
    await writer.change(lambda connection: writer._retention.step(connection, writer._log.now(), writer._clock()), CODE)


async def play(folder: Path, script: list[tuple[str | int, ...]]) -> None:
    clock = Clock()
    players = Readers()
    by_step = quick(trim_interval_ms=1_000_000, trim_step_records=2)
    store = EmbeddedStore(folder, by_step, clock=clock)
    await store.open()
    try:
        for step in script:
            if step[0] == "wait":
                clock.now += int(step[1])
            elif step[0] == "trim":
                for _ in range(int(step[1])):
                    await trim(store)
            elif step[0] == "restart":
                await store.close()
                store = EmbeddedStore(folder, by_step, clock=clock)
                await store.open()
                await players.restart(store, clock)
            else:
                await players.send(store, *(int(number) for number in step[1:]))
        for channel in CHANNELS:
            expected = players.expected[channel]
            found = [
                (entry.id, entry.prev, entry.hash) for entry in await entries_after(store.history, channel, 0, 500)
            ]
            assert found == expected[len(expected) - len(found) :]
        await trim(store)
        await trim(store)  # the first one may have found nothing to count but something to remove
        counted, real = await store._reader.look_up(sizes, CODE)
        assert counted == real
    finally:
        await store.close()


class Readers:
    """An oracle that has read the log from its beginning, and a reader that starts anew with every restart."""

    def __init__(self) -> None:
        self.oldest = LogView(window_ms=WINDOW_MS, chain_idle_ms=IDLE_MS)
        self.newest = LogView(window_ms=WINDOW_MS, chain_idle_ms=IDLE_MS)
        for channel in CHANNELS:
            self.oldest.learn_head(channel, 0, 0, 0)
            self.newest.learn_head(channel, 0, 0, 0)
        self.expected: dict[bytes, list[tuple[int, int, int]]] = {channel: [] for channel in CHANNELS}

    async def send(self, store: EmbeddedStore, channel_number: int, session: int, seq: int) -> None:
        channel = CHANNELS[channel_number]
        sender = Sender(store)
        sender.session = session
        value = sender.record(b"%d" % seq, seq=seq)
        outcome = await sender.outcome(sender.append(channel, value))
        placed = self.oldest.place(outcome.partition, outcome.offset, outcome.time, channel, value)
        assert self.newest.place(outcome.partition, outcome.offset, outcome.time, channel, value) == placed
        if placed is not None:
            self.expected[channel].append((outcome.offset, *placed))
            assert await store.history.heads([channel]) == [Head(outcome.offset, placed[1], outcome.time)]

    async def restart(self, store: EmbeddedStore, clock: Clock) -> None:
        """As a gateway starts: the window's records, then history for the heads that it could not know."""
        since = clock.now - self.oldest.replay_ms
        view = self.newest = LogView(window_ms=WINDOW_MS, chain_idle_ms=IDLE_MS, since_ms=since)

        replayed: list[tuple[int, LogRecord]] = []

        def keep(partition: int, records: Sequence[LogRecord]) -> None:
            replayed.extend((partition, record) for record in records)

        await store.log.tail(since, keep)
        for partition, record in replayed:
            view.place(partition, *record)
        for channel, head in zip(CHANNELS, await store.history.heads(CHANNELS), strict=True):
            view.learn_head(channel, *head)
