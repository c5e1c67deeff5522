"""The contract of SessionStore: presence, read marks, private chats, ended sessions."""

import secrets
import time
from collections.abc import Sequence

import pytest

from chatcore_server.backends import BackendUnavailable, Conversation, PresenceChange, ResumeState
from support.backends import Backends, Deployment, Sender, unique
from support.eventually import eventually_answers

pytestmark = pytest.mark.asyncio


def direct(first: bytes, second: bytes) -> bytes:
    return b"dm:" + b":".join(sorted((first, second)))


def soon_ms() -> int:
    return int(time.time() * 1000) + 600_000


async def conversations(
    backends: Backends, player: bytes, groups: Sequence[bytes] = (), limit: int = 256
) -> list[Conversation]:
    [found] = await backends.sessions.conversations([(player, groups)], limit)
    return found


async def resume(backends: Backends, session: int, player: bytes, limit: int = 256) -> ResumeState:
    [state] = await backends.sessions.resume([(session, player)], limit)
    return state


async def set_presence(backends: Backends, player: bytes, session: int, presence: str) -> tuple[str, str]:
    [both] = await backends.sessions.set_presences([PresenceChange(player, session, presence)])
    return both


async def settled(backends: Backends, player: bytes, groups: list[bytes], n_unread: int) -> list[Conversation]:
    """Views may lag: ask until as many messages are unread in all."""
    return await eventually_answers(
        lambda: conversations(backends, player, groups),
        lambda found: sum(conversation.unread for conversation in found) == n_unread,
    )


async def test_presence_is_the_best_of_all_sessions(backends: Backends) -> None:
    player = unique("p")
    assert await backends.sessions.presence_of([player]) == ["offline"]
    before = "offline"
    for session, presence, after in (
        (1, "away", "away"),
        (2, "online", "online"),
        (2, "away", "away"),
        (1, "online", "online"),
        (1, "offline", "away"),
        (1, "offline", "away"),
        (2, "offline", "offline"),
    ):
        assert await set_presence(backends, player, session, presence) == (before, after)
        assert await backends.sessions.presence_of([player]) == [after]
        before = after


async def test_presence_of_many(backends: Backends) -> None:
    """Changes in their order, also of the same player."""
    players = [unique("p") for _ in range(3)]
    changes = [
        PresenceChange(players[0], 1, "online"),
        PresenceChange(players[2], 2**64 - 1, "online"),
        PresenceChange(players[2], 2**64 - 1, "away"),
    ]
    found = await backends.sessions.set_presences(changes)
    assert found == [("offline", "online"), ("offline", "online"), ("online", "away")]
    assert await backends.sessions.presence_of(players) == ["online", "offline", "away"]
    assert await backends.sessions.presence_of([]) == []
    assert await backends.sessions.set_presences([]) == []


async def test_a_private_chat_appears_for_both_with_its_first_message(backends: Backends) -> None:
    ann, bob, eve = unique("a"), unique("b"), unique("e")
    channel = direct(ann, bob)
    head = (await Sender(backends, ann).send(channel, b"hi"))[-1].offset
    assert await settled(backends, bob, [], 1) == [Conversation(channel, head, 0, 1)]
    assert await settled(backends, ann, [], 0) == [Conversation(channel, head, 0, 0)]
    assert await conversations(backends, eve) == []


async def test_unread_counts_messages_of_others_after_the_read_mark(backends: Backends) -> None:
    ann, bob = unique("a"), unique("b")
    channel = direct(ann, bob)
    from_ann, from_bob = Sender(backends, ann), Sender(backends, bob)
    ids = [outcome.offset for outcome in await from_ann.send(channel, b"1", b"2", b"3", b"4")]
    await from_bob.send(channel, b"5")
    ids += [outcome.offset for outcome in await from_ann.send(channel, b"6")]
    assert [found.unread for found in await settled(backends, bob, [], 5)] == [5]
    assert await backends.sessions.mark_read(bob, channel, ids[2])
    (found,) = await settled(backends, bob, [], 2)
    assert (found.head, found.read) == (ids[-1], ids[2])
    assert await backends.sessions.mark_read(bob, channel, ids[-1])
    assert [found.unread for found in await settled(backends, bob, [], 0)] == [0]
    assert [found.unread for found in await settled(backends, ann, [], 1)] == [1]


async def test_there_is_no_mark_without_a_message(backends: Backends) -> None:
    ann, bob = unique("a"), unique("b")
    channel = direct(ann, bob)
    assert not await backends.sessions.mark_read(bob, channel, 5)
    await Sender(backends, ann).send(channel, b"1")
    assert [(found.read, found.unread) for found in await settled(backends, bob, [], 1)] == [(0, 1)]


async def test_later_copies_are_not_unread(backends: Backends) -> None:
    ann, bob = unique("a"), unique("b")
    channel = direct(ann, bob)
    sender = Sender(backends, ann)
    value = sender.record(b"once", seq=50)
    for _ in range(3):
        await sender.outcome(sender.append(channel, value))
    last = (await sender.send(channel, b"last"))[-1].offset
    (found,) = await eventually_answers(
        lambda: conversations(backends, bob), lambda found: bool(found) and found[0].head == last
    )
    assert found.unread == 2


async def test_unread_is_counted_to_a_thousand(backends: Backends) -> None:
    ann, bob = unique("a"), unique("b")
    sender = Sender(backends, ann)
    tokens = [sender.append(direct(ann, bob), sender.record(b"")) for _ in range(1_100)]
    for token in tokens:
        await sender.outcome(token)
    (found,) = await settled(backends, bob, [], 1_000)
    assert found.head == sender.outcomes[tokens[-1]].offset


async def test_the_read_mark_only_moves_forward(deployment: Deployment, backends: Backends) -> None:
    ann, bob = unique("a"), unique("b")
    channel = direct(ann, bob)
    ids = [outcome.offset for outcome in await Sender(backends, ann).send(channel, b"1", b"2", b"3")]
    sessions = backends.sessions
    assert await sessions.mark_read(bob, channel, ids[1])
    assert not await sessions.mark_read(bob, channel, ids[1])
    assert not await sessions.mark_read(bob, channel, ids[0])
    assert (await settled(backends, bob, [], 1))[0].read == ids[1]
    assert await sessions.mark_read(bob, channel, ids[2])
    await backends.close()
    again = deployment.connect()
    await again.open()
    try:
        assert (await settled(again, bob, [], 0))[0].read == ids[2]
    finally:
        await again.close()


async def test_groups_are_listed_as_asked(backends: Backends) -> None:
    ann, bob = unique("a"), unique("b")
    silent, loud = unique("group:"), unique("group:")
    outcomes = await Sender(backends, ann).send(loud, b"1", b"2")
    found = await settled(backends, bob, [silent, loud], 2)
    assert found == [Conversation(loud, outcomes[-1].offset, 0, 2), Conversation(silent, 0, 0, 0)]


async def test_conversations_come_newest_first_up_to_the_limit(backends: Backends) -> None:
    """By time, across partitions."""
    bob = unique("b")
    others = [unique("p") for _ in range(9)]
    times = []
    for other in others:
        outcome = (await Sender(backends, other).send(direct(bob, other), b"hi"))[-1]
        times.append(outcome.time)
        await eventually_answers(lambda: _now(), lambda now: now > times[-1])
    await settled(backends, bob, [], len(others))
    newest = [direct(bob, other) for other in reversed(others)]
    for limit in (256, 4):
        found = await conversations(backends, bob, limit=limit)
        assert [conversation.channel for conversation in found] == newest[:limit]


async def _now() -> int:
    return int(time.time() * 1000)


async def test_resume_answers_all_at_once(backends: Backends) -> None:
    ann, bob, eve = unique("a"), unique("b"), unique("e")
    channel = direct(ann, bob)
    await backends.relations.block(bob, eve)
    await Sender(backends, ann).send(channel, b"hi")
    await settled(backends, bob, [], 1)
    session = secrets.randbits(64)
    state = await resume(backends, session, bob)
    assert not state.ended
    assert [conversation.channel for conversation in state.directs] == [channel]
    assert state.blocks == [eve]
    assert await resume(backends, session, unique("nobody")) == (False, [], [])
    assert (await resume(backends, session, bob, 0)).directs == []


async def test_many_are_asked_about_at_once(backends: Backends) -> None:
    """Each gets its own answer, whatever the others have, and who is named twice gets it twice."""
    players = [unique("p") for _ in range(70)]
    ended, blocked, group = 2**64 - 7, unique("x"), unique("group:")
    await backends.sessions.end(ended, soon_ms())
    await backends.relations.block(players[3], blocked)
    await Sender(backends, players[5]).send(direct(players[5], players[66]), b"hi")
    await settled(backends, players[66], [], 1)
    asked = [(2**64 - 1 - i, player) for i, player in enumerate(players)] + [(1, players[66])]
    states = await backends.sessions.resume(asked, 256)
    assert [i for i, state in enumerate(states) if state.ended] == [6]
    assert [i for i, state in enumerate(states) if state.blocks] == [3]
    assert [i for i, state in enumerate(states) if state.directs] == [5, 66, 70]
    assert states[66] == states[70] == await resume(backends, 1, players[66])
    with_group = [(player, [group] if i == 9 else []) for i, player in enumerate(players)]
    found = await backends.sessions.conversations(with_group, 256)
    assert [i for i, one in enumerate(found) if one] == [5, 9, 66]
    assert found[66] == states[66].directs
    assert await backends.sessions.resume([], 256) == []
    assert await backends.sessions.conversations([], 256) == []


@pytest.mark.parametrize("session", [1, 2**63 - 1, 2**63, 2**64 - 1])
async def test_an_ended_session_stays_ended(deployment: Deployment, backends: Backends, session: int) -> None:
    player = unique("p")
    await backends.sessions.end(session, soon_ms())
    await backends.sessions.end(session, soon_ms())
    assert (await resume(backends, session, player)).ended
    assert not (await resume(backends, session ^ 2, player)).ended
    await backends.close()
    again = deployment.connect()
    await again.open()
    try:
        assert (await resume(again, session, player)).ended
    finally:
        await again.close()


async def test_a_failure_is_never_an_empty_answer(backends: Backends) -> None:
    await backends.close()
    for call in (
        resume(backends, 1, b"ann"),
        conversations(backends, b"ann"),
        backends.sessions.mark_read(b"ann", b"room:x", 1),
        backends.sessions.end(1, soon_ms()),
    ):
        with pytest.raises(BackendUnavailable):
            await call
