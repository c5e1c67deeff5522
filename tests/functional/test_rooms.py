"""Two clients in rooms: what is said, who is there, typing, history."""

import asyncio

import pytest

from chatcore import operations
from chatcore.errors import BadName, NotAllowed
from chatcore.events import Signal
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

ROOM = "room:lobby"


async def test_what_is_said_is_heard_once_by_all(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    joined = await ann.client.join(ROOM)
    assert (joined.head, joined.role) == (0, "")
    await bob.client.join(ROOM)
    receipts = [await ann.client.send(ROOM, "hello"), await bob.client.send(ROOM, b"\xff\x00")]
    await ann.hears(ROOM, "hello", "\ufffd\0")
    await bob.hears(ROOM, "hello", "\ufffd\0")
    assert [message.id for message in ann.messages(ROOM)] == [receipt.id for receipt in receipts]
    assert [message.own for message in ann.messages(ROOM)] == [True, False]
    assert [message.sender for message in bob.messages(ROOM)] == ["ann", "bob"]


async def test_many_sends_at_once_keep_their_order(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.join(ROOM)
    await bob.client.join(ROOM)
    texts = [f"{i}" for i in range(300)]
    await asyncio.gather(*(ann.client.send(ROOM, text) for text in texts))
    await bob.hears(ROOM, *texts)
    await ann.hears(ROOM, *texts)


async def test_history_ends_where_live_begins(server: LocalServer) -> None:
    ann = await server.login("ann")
    await ann.client.join(ROOM)
    for i in range(5):
        await ann.client.send(ROOM, f"before {i}")
    bob = await server.login("bob")
    joined = await bob.client.join(ROOM)
    await ann.client.send(ROOM, "after")
    await bob.hears(ROOM, "after")
    history = await bob.client.history(ROOM, before=joined.head + 1)
    assert [message.text for message in history] == [f"before {i}" for i in range(5)]
    assert history[-1].id == joined.head
    assert bob.texts(ROOM) == ["after"]
    page = await bob.client.history(ROOM, before=history[-1].id, limit=2)
    assert [message.text for message in page] == ["before 2", "before 3"]


async def test_coming_and_going(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.join(ROOM)
    await bob.client.join(ROOM)
    await ann.is_told(operations.JoinedEvent, channel=ROOM, player="bob")
    assert [member.player for member in await ann.client.members(ROOM)] == ["ann", "bob"]
    second = await server.login("bob")
    await second.client.join(ROOM)
    await bob.client.leave(ROOM)
    assert not ann.told(operations.LeftEvent)  # bob is still here, by the other session
    await second.client.logout()
    await ann.is_told(operations.LeftEvent, channel=ROOM, player="bob")
    assert len(ann.told(operations.JoinedEvent)) == 1
    assert not bob.told(operations.JoinedEvent)
    assert [member.player for member in await ann.client.members(ROOM)] == ["ann"]


async def test_typing_reaches_the_others(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.join(ROOM)
    await bob.client.join(ROOM)
    ann.client.typing(ROOM)
    ann.client.typing(ROOM, stopped=True)
    ann.client.signal(ROOM, 200, b"wave")
    await bob.is_told(Signal, kind=200)
    assert [(signal.sender, signal.kind, signal.body) for signal in bob.told(Signal)] == [
        ("ann", 1, b""),
        ("ann", 1, b"\0"),
        ("ann", 200, b"wave"),
    ]
    assert not ann.told(Signal)


async def test_grants_of_the_token(server: LocalServer) -> None:
    ann = await server.login("ann", channels=["room:open"])
    await ann.client.join("room:open")
    for channel in (ROOM, "group:guild", "dm:ann:bob"):
        with pytest.raises(NotAllowed):
            await ann.client.join(channel)
    with pytest.raises(NotAllowed):
        await ann.client.history(ROOM)


async def test_wrong_names(server: LocalServer) -> None:
    ann = await server.login("ann")
    with pytest.raises(BadName):
        await ann.client.history("lobby")
