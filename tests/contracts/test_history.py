"""The contract of History: what was said by channel, consistent with what every reader of the log says."""

import asyncio

import pytest

from chatcore_ext.chain_hash import chain_hash
from chatcore_server.backends import ENTRY_OVERHEAD, BackendUnavailable, Head, HistoryEntry, Outcome
from support.backends import CONTROL, PLENTY, Backends, Deployment, Sender, entries_after, unique
from support.eventually import eventually_answers

pytestmark = pytest.mark.asyncio


def expected_chain(sender: bytes, said: list[tuple[Outcome, bytes]]) -> list[HistoryEntry]:
    """The slow, obvious chain: docs/protocol.md, "Hash"."""
    entries: list[HistoryEntry] = []
    prev = hash = 0
    for outcome, body in said:
        hash = chain_hash(hash, outcome.offset, sender, body)
        entries.append(HistoryEntry(outcome.offset, prev, hash, outcome.time, sender, body))
        prev = outcome.offset
    return entries


async def lagging(backends: Backends, channel: bytes, expected: list[HistoryEntry]) -> None:
    """History may lag, but must come to exactly this."""
    found = await eventually_answers(
        lambda: entries_after(backends.history, channel, 0, 500), lambda entries: len(entries) >= len(expected)
    )
    assert found == expected


async def test_messages_chain(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    bodies = [b"%d" % number for number in range(40)]
    outcomes = await sender.send(channel, *bodies)
    await lagging(backends, channel, expected_chain(b"ann", list(zip(outcomes, bodies, strict=True))))


async def test_channels_do_not_touch_each_other(backends: Backends) -> None:
    sender = Sender(backends)
    channels = [unique("room:") for _ in range(12)]
    said: dict[bytes, list[tuple[Outcome, bytes]]] = {channel: [] for channel in channels}
    for number in range(5):
        for channel in channels:
            said[channel] += zip(await sender.send(channel, b"%d" % number), [b"%d" % number], strict=True)
    for channel in channels:
        await lagging(backends, channel, expected_chain(b"ann", said[channel]))


async def test_later_copies_do_not_exist(backends: Backends) -> None:
    """In one batch, in the next, and after something else was said."""
    sender = Sender(backends)
    channel = unique("room:")
    first, second = sender.record(b"first", seq=1), sender.record(b"second", seq=2)
    said = []
    for number, value in enumerate((first, first, second)):
        outcome = await sender.outcome(sender.append(channel, value))
        if number != 1:
            said.append((outcome, value[-6:] if value is second else b"first"))
    tokens = [sender.append(channel, value) for value in (first, second, sender.record(b"third", seq=3), first)]
    outcomes = [await sender.outcome(token) for token in tokens]
    said.append((outcomes[2], b"third"))
    assert len({outcome.offset for outcome in outcomes}) == 4, "the log itself keeps copies"
    await lagging(backends, channel, expected_chain(b"ann", said))


async def test_what_is_no_message_is_not_there(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    said = list(zip(await sender.send(channel, b"one"), [b"one"], strict=True))
    for value in (sender.record(b"kick", seq=7, kind=CONTROL), b"", b"\x01\x01torn"):
        assert (await sender.outcome(sender.append(channel, value))).code == 0
    said += zip(await sender.send(channel, b"two"), [b"two"], strict=True)
    await lagging(backends, channel, expected_chain(b"ann", said))


async def test_the_same_seq_of_two_sessions_is_two_messages(backends: Backends) -> None:
    ann, bob = Sender(backends, b"ann"), Sender(backends, b"bob")
    channel = unique("room:")
    await ann.outcome(ann.append(channel, ann.record(b"a", seq=1)))
    await bob.outcome(bob.append(channel, bob.record(b"b", seq=1)))
    entries = await eventually_answers(
        lambda: entries_after(backends.history, channel, 0, 9), lambda found: len(found) >= 2
    )
    assert [(entry.sender, entry.body) for entry in entries] == [(b"ann", b"a"), (b"bob", b"b")]


async def test_any_bytes_come_back(backends: Backends) -> None:
    sender = Sender(backends, bytes(range(45, 109)))
    channel = unique("room:")
    bodies = [b"", bytes(range(256)), b"\x00" * 4096, "über".encode(), b'"]}', b"\xff\xfe"]
    outcomes = await sender.send(channel, *bodies)
    await lagging(backends, channel, expected_chain(sender.player, list(zip(outcomes, bodies, strict=True))))


async def test_pages_forward_and_back(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    ids = [outcome.offset for outcome in await sender.send(channel, *(b"%d" % number for number in range(25)))]
    history = backends.history
    await eventually_answers(lambda: entries_after(history, channel, 0, 100), lambda found: len(found) == 25)

    async def after(id: int, limit: int) -> list[int]:
        return [entry.id for entry in await entries_after(history, channel, id, limit)]

    async def before(id: int, limit: int) -> list[int]:
        return [entry.id for entry in (await history.before(channel, id, limit, PLENTY)).entries]

    assert await after(0, 10) == ids[:10]
    assert await after(ids[9], 10) == ids[10:20]
    assert await after(ids[9] - 1, 2) == ids[9:11]
    assert await after(ids[-1], 10) == []
    assert await before(2**64 - 1, 10) == ids[-10:]
    assert await before(ids[-10], 10) == ids[5:15]
    assert await before(ids[1], 10) == ids[:1]
    assert await before(ids[0], 10) == []
    assert await after(2**64 - 1, 10) == []


async def test_a_page_is_as_large_as_was_asked_for(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    bodies = [b"x" * (number * 13 % 90) for number in range(30)]
    said = expected_chain(b"ann", list(zip(await sender.send(channel, *bodies), bodies, strict=True)))
    history = backends.history
    await eventually_answers(lambda: entries_after(history, channel, 0, 100), lambda found: found == said)
    sizes = [len(b"ann") + len(body) + ENTRY_OVERHEAD for body in bodies]
    for size in (0, sizes[0] - 1, sizes[0], sum(sizes[:2]) - 1, sum(sizes[:2]), 500, sum(sizes) - 1, sum(sizes)):
        for limit in (1, 2, 29, 30):
            for start in (0, 1, 15, 29):
                n = fitting(sizes[start:], limit, size)
                after = await history.after(channel, said[start].id - 1, limit, size)
                assert after == (said[start : start + n], start + n < len(said))
                n = fitting(sizes[start::-1], limit, size)
                before = await history.before(channel, said[start].id + 1, limit, size)
                assert before == (said[start + 1 - n : start + 1], start + 1 > n)


def fitting(sizes: list[int], limit: int, size: int) -> int:
    return max(n for n in range(1, min(limit, len(sizes)) + 1) if n == 1 or sum(sizes[:n]) <= size)


async def test_heads(backends: Backends) -> None:
    sender = Sender(backends)
    channels = [unique("room:") for _ in range(3)]
    expected = []
    for number, channel in enumerate(channels[:2], start=1):
        bodies = [b"%d" % body for body in range(number)]
        last = expected_chain(b"ann", list(zip(await sender.send(channel, *bodies), bodies, strict=True)))[-1]
        expected.append(Head(last.id, last.hash, last.time))
    expected.append(Head(0, 0, 0))
    await eventually_answers(lambda: backends.history.heads(channels), lambda heads: heads == expected)
    assert await backends.history.heads([]) == []
    assert await backends.history.heads(channels[::-1]) == expected[::-1]


async def test_find_names_the_first_copy(backends: Backends) -> None:
    sender = Sender(backends)
    channel = unique("room:")
    value = sender.record(b"", seq=3)
    assert await backends.history.find(channel, sender.session, 3) == 0
    first = await sender.outcome(sender.append(channel, value))
    await sender.outcome(sender.append(channel, value))
    await eventually_answers(
        lambda: backends.history.find(channel, sender.session, 3), lambda found: found == first.offset
    )
    assert await backends.history.find(channel, sender.session, 4) == 0
    assert await backends.history.find(channel, sender.session ^ 1, 3) == 0


async def test_the_chain_goes_on_after_reconnecting(deployment: Deployment, backends: Backends) -> None:
    """And copies of what was sent before are still later copies."""
    sender = Sender(backends)
    channel = unique("room:")
    value = sender.record(b"kept", seq=900)
    said = [(await sender.outcome(sender.append(channel, value)), b"kept")]
    await backends.close()
    again = deployment.connect()
    await again.open()
    try:
        sender_again = Sender(again)
        await sender_again.outcome(sender_again.append(channel, value))
        said += zip(await sender_again.send(channel, b"more"), [b"more"], strict=True)
        await lagging(again, channel, expected_chain(b"ann", said))
        await eventually_answers(
            lambda: again.history.find(channel, sender.session, 900), lambda found: found == said[0][0].offset
        )
    finally:
        await again.close()


async def test_many_look_ups_at_once(backends: Backends) -> None:
    sender = Sender(backends)
    channels = [unique("room:") for _ in range(30)]
    outcomes = {channel: (await sender.send(channel, b"one"))[0] for channel in channels}
    await eventually_answers(lambda: backends.history.heads(channels), lambda heads: all(head.id for head in heads))
    answers = await asyncio.gather(*(entries_after(backends.history, channel, 0, 5) for channel in channels * 5))
    assert [[entry.id for entry in answer] for answer in answers] == [
        [outcomes[channel].offset] for channel in channels * 5
    ]


async def test_a_failure_is_never_an_empty_answer(backends: Backends) -> None:
    await backends.close()
    for look_up in (
        backends.history.heads([b"room:x"]),
        backends.history.after(b"room:x", 0, 1, 1),
        backends.history.before(b"room:x", 1, 1, 1),
        backends.history.find(b"room:x", 1, 1),
    ):
        with pytest.raises(BackendUnavailable):
            await look_up
