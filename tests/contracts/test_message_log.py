"""The contract of MessageLog (chatcore_server/backends.py), for every implementation."""

import asyncio
import time

import pytest

from chatcore_server.backends import BackendUnavailable, LogFull, LogRecord
from support.backends import CONTROL, Backends, Collector, Deployment, Sender, unique
from support.eventually import eventually

pytestmark = pytest.mark.asyncio


def now_ms() -> int:
    return int(time.time() * 1000)


async def test_every_append_has_one_outcome_after_append_returned(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    tokens = [sender.append(channel, sender.record(b"%d" % number)) for number in range(300)]
    assert sender.outcomes == {}, "an outcome before the loop could turn"
    for token in tokens:
        assert (await sender.outcome(token)).code == 0
    last = sender.append(channel, sender.record(b"what came before it has been told twice by now, if it ever is"))
    await sender.outcome(last)
    assert set(sender.outcomes) == {*tokens, last}


async def test_outcomes_come_in_batches(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    tokens = [sender.append(channel, sender.record(b"")) for _ in range(1_000)]
    await sender.outcome(tokens[-1])
    await eventually(lambda: len(sender.outcomes) == len(tokens))
    assert len(sender.batches) < len(tokens) / 2


async def test_offsets_grow_in_the_order_of_appends(backends: Backends) -> None:
    sender = Sender(backends)
    channels = [unique("room:") for _ in range(20)]
    tokens = [(channel, sender.append(channel, sender.record(b""))) for _ in range(30) for channel in channels]
    last: dict[int, int] = {}
    for channel, token in tokens:
        outcome = await sender.outcome(token)
        assert outcome.partition == backends.log.partition_of(channel)
        assert outcome.offset > last.get(outcome.partition, 0)
        last[outcome.partition] = outcome.offset


async def test_a_channel_stays_in_its_partition(deployment: Deployment, backends: Backends) -> None:
    channels = [unique("room:") for _ in range(200)]
    before = [backends.log.partition_of(channel) for channel in channels]
    epoch, partitions = backends.log.epoch, backends.log.partitions
    assert epoch
    assert set(before) <= set(range(partitions))
    assert partitions == 1 or len(set(before)) > 1
    await backends.close()
    again = deployment.connect()
    await again.open()
    try:
        assert (again.log.epoch, again.log.partitions) == (epoch, partitions)
        assert [again.log.partition_of(channel) for channel in channels] == before
    finally:
        await again.close()


async def test_the_log_keeps_whatever_it_is_given(backends: Backends) -> None:
    """Copies, control records and bytes that are no record: dropping is the readers' work."""
    sender = Sender(backends)
    channel = unique("room:")
    collector = Collector({channel})
    since = now_ms()
    message = sender.record(b"said", seq=1)
    control = sender.record(b"kick", seq=2, kind=CONTROL)
    values = [message, message, control, b"", b"\x01", b"\x01\x01broken", b"\xff" * 5000]
    outcomes = [await sender.outcome(sender.append(channel, value)) for value in values]
    assert [outcome.code for outcome in outcomes] == [0] * len(values)
    await backends.log.tail(since - 1000, collector)
    await eventually(lambda: len(collector.of(channel)) >= len(values))
    assert collector.values(channel) == values


async def test_the_time_of_an_outcome_is_the_record_s(deployment: Deployment, backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    collector = Collector({channel})
    await backends.log.tail(now_ms(), collector)
    start = now_ms()
    outcomes = await sender.send(channel, b"one", b"two", b"three")
    await eventually(lambda: len(collector.of(channel)) == 3)
    assert [(record.offset, record.time) for record in collector.of(channel)] == [
        (outcome.offset, outcome.time) for outcome in outcomes
    ]
    for outcome in outcomes:
        assert start - deployment.clock_skew_ms <= outcome.time <= now_ms() + deployment.clock_skew_ms


async def test_a_tail_returns_when_it_has_handed_over_what_was_there(backends: Backends) -> None:
    sender = Sender(backends)
    channels = [unique("room:") for _ in range(8)]
    since = now_ms() - 1000
    for channel in channels:
        await sender.send(channel, *(b"%d" % number for number in range(25)))
    collector = Collector(set(channels))
    await backends.log.tail(since, collector)
    assert [len(collector.of(channel)) for channel in channels] == [25] * len(channels)


async def test_a_tail_starts_at_a_time(backends: Backends) -> None:
    """Earlier records stay out; of the moment itself and later, none is missing."""
    sender = Sender(backends)
    channel = unique("room:")
    old = (await sender.send(channel, b"old"))[-1]
    await eventually(lambda: now_ms() > old.time + 5)
    new = await sender.send(channel, b"new", b"newer")
    for since, expected in ((new[0].time, 2), (old.time, 3), (new[-1].time + 3_600_000, 0)):
        collector = Collector({channel})
        await backends.log.tail(since, collector)
        assert len(collector.of(channel)) == expected


async def test_replay_then_live_without_gap_or_repetition(backends: Backends) -> None:
    """Appends go on all the while; the Collector checks that offsets grow."""
    sender = Sender(backends)
    channels = [unique("room:") for _ in range(6)]
    since = now_ms() - 1000
    sent: dict[bytes, list[bytes]] = {channel: [] for channel in channels}

    async def chatter(rounds: int) -> None:
        for _ in range(rounds):
            for channel in channels:
                value = sender.record(b"")
                await sender.append_when_there_is_room(channel, value)
                sent[channel].append(value)
            await asyncio.sleep(0)

    await chatter(60)
    talking = asyncio.create_task(chatter(400))
    collectors = [Collector(set(channels)) for _ in range(4)]
    for collector in collectors:
        await backends.log.tail(since, collector)
        n_sent = len(sent[channels[0]])
        await eventually(lambda: talking.done() or len(sent[channels[0]]) > n_sent)  # noqa: B023
    await talking
    for collector in collectors:
        for channel in channels:
            await eventually(lambda: len(collector.of(channel)) >= len(sent[channel]))  # noqa: B023
            assert collector.values(channel) == sent[channel]


async def test_live_records_come_for_ever(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    collector = Collector({channel})
    await backends.log.tail(now_ms(), collector)
    for number in range(1, 40):
        await sender.send(channel, b"%d" % number)
        await eventually(lambda: len(collector.of(channel)) == number)  # noqa: B023


async def test_one_receiver_s_failure_is_not_another_s(backends: Backends) -> None:
    """A callback that raises is reported to the loop; other tails and the outcomes go on."""
    sender = Sender(backends)
    channel = unique("room:")
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def fail(partition: int, records: "list[LogRecord] | object") -> None:
        raise RuntimeError("not mine")

    collector = Collector({channel})
    await backends.log.tail(now_ms(), fail)
    await backends.log.tail(now_ms(), collector)
    await sender.send(channel, b"one")
    await sender.send(channel, b"two")
    await eventually(lambda: len(collector.of(channel)) == 2)
    assert failures
    assert all(isinstance(failure, RuntimeError) for failure in failures)


async def test_close_waits_for_every_outcome(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    tokens = [sender.append(channel, sender.record(b"")) for _ in range(500)]
    await backends.log.close()
    assert set(sender.outcomes) == set(tokens)


async def test_a_full_queue_refuses_and_loses_nothing(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    value = sender.record(b"x" * 1_000)
    tokens: list[object] = []
    with pytest.raises(LogFull):
        while len(tokens) < 1_000_000:
            tokens.append(sender.append(channel, value))
    assert tokens
    for token in tokens:
        assert (await sender.outcome(token)).code == 0
    await sender.send(channel, b"there is room again")
    assert len(sender.outcomes) == len(tokens) + 1


async def test_a_closed_log_takes_nothing_in(backends: Backends) -> None:
    sender = Sender(backends)
    await backends.log.close()
    with pytest.raises(LogFull):
        sender.append(b"room:x", sender.record(b""))
    await backends.close()
    with pytest.raises(BackendUnavailable):
        await backends.log.tail(0, Collector())


async def test_what_is_durable_is_there_after_reconnecting(deployment: Deployment, backends: Backends) -> None:
    sender = Sender(backends)
    channels = [unique("room:") for _ in range(5)]
    since = now_ms() - 1000
    first = {channel: await sender.send(channel, b"1", b"2", b"3") for channel in channels}
    await backends.close()
    again = deployment.connect()
    await again.open()
    try:
        collector = Collector(set(channels))
        await again.log.tail(since, collector)
        sender = Sender(again)
        for channel in channels:
            outcome = (await sender.send(channel, b"4"))[0]
            assert outcome.offset > first[channel][-1].offset
            expected = [(o.offset, o.time) for o in (*first[channel], outcome)]
            await eventually(lambda: len(collector.of(channel)) >= 4)  # noqa: B023
            assert [(record.offset, record.time) for record in collector.of(channel)] == expected
    finally:
        await again.close()
