"""Private chats: no join needed, echo to own devices, offline delivery, read marks, blocks."""

import pytest

from chatcore import operations
from chatcore.errors import Blocked, NotAllowed
from chatcore.events import Connected, Signal
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

CHAT = "dm:ann:bob"


async def test_the_first_message_opens_it_for_both_players_devices(server: LocalServer) -> None:
    ann, phone = await server.login("ann"), await server.login("ann")
    bob, tablet = await server.login("bob"), await server.login("bob")
    cid = await server.login("cid")
    await ann.client.send_direct("bob", "psst")
    for player in (ann, phone, bob, tablet):
        await player.hears(CHAT, "psst")
    opened = await bob.is_told(operations.OpenedEvent, channel=CHAT)
    assert (opened.head, opened.hash) == (0, 0)
    await tablet.client.send(CHAT, "what?")  # answers without joining
    for player in (ann, phone, bob, tablet):
        await player.hears(CHAT, "psst", "what?")
        assert len(player.told(operations.OpenedEvent)) <= 1
    assert not cid.messages(CHAT)
    with pytest.raises(NotAllowed):
        await cid.client.join(CHAT)
    with pytest.raises(NotAllowed):
        await cid.client.history(CHAT)


async def test_it_reopens_with_its_head(server: LocalServer) -> None:
    ann = await server.login("ann")
    first = await ann.client.send_direct("bob", "one")
    bob = await server.login("bob")
    await ann.client.send(CHAT, "two")
    opened = await bob.is_told(operations.OpenedEvent, channel=CHAT)
    assert opened.head == first.id
    await bob.hears(CHAT, "two")


async def test_who_is_offline_finds_it_at_the_next_login(server: LocalServer) -> None:
    ann = await server.login("ann")
    await ann.client.send_direct("bob", "one")
    last = await ann.client.send(CHAT, "two")
    bob = await server.login("bob")
    conversation = (await bob.is_told(Connected)).conversations[CHAT]
    assert (conversation.head, conversation.read, conversation.unread) == (last.id, 0, 2)
    assert [message.text for message in await bob.client.history(CHAT)] == ["one", "two"]
    await bob.client.mark_read(CHAT, last.id)
    assert (await bob.client.conversations())[CHAT].unread == 0
    assert (await ann.client.conversations())[CHAT].unread == 0  # own messages are not unread
    assert [(member.player, member.presence) for member in await bob.client.members(CHAT)] == [
        ("ann", "online"),
        ("bob", "online"),
    ]


async def test_a_block_closes_the_private_chat_for_both(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.send_direct("bob", "hello")
    await bob.hears(CHAT, "hello")
    await bob.client.block("ann")
    for player in (ann, bob):
        with pytest.raises(Blocked):
            await player.client.send(CHAT, "no")
    again = await server.login("ann")
    with pytest.raises(Blocked):
        await again.client.join(CHAT)
    assert await bob.client.blocks() == ["ann"]
    assert await ann.client.blocks() == []
    await bob.client.unblock("ann")
    await ann.client.send(CHAT, "friends again?")
    await bob.hears(CHAT, "hello", "friends again?")
    await again.client.join(CHAT)


async def test_two_blocks_need_two_unblocks(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.join(CHAT)
    await ann.client.block("bob")
    await bob.client.block("ann")
    await ann.client.unblock("bob")
    with pytest.raises(Blocked):
        await ann.client.send(CHAT, "no")
    await bob.client.unblock("ann")
    await ann.client.send(CHAT, "yes")
    await bob.hears(CHAT, "yes")


async def test_the_blocked_are_hidden_in_rooms_and_groups_and_history(server: LocalServer) -> None:
    room, group = "room:lobby", "group:guild"
    ann, bob, cid = await server.login("ann"), await server.login("bob"), await server.login("cid")
    await ann.client.create_group(group)
    for name in ("bob", "cid"):
        await ann.client.add_member(group, name)
    for channel in (room, group):
        for player in (ann, bob, cid):
            await player.client.join(channel)
        await bob.client.send(channel, "before")
        await ann.hears(channel, "before")
    await ann.client.block("bob")
    for channel in (room, group):
        await bob.client.send(channel, "unheard")
        await cid.client.send(channel, "heard")
        await ann.hears(channel, "before", "heard")
        await cid.hears(channel, "before", "unheard", "heard")
        assert [message.text for message in await ann.client.history(channel)] == ["heard"]
        assert [message.text for message in await cid.client.history(channel)] == ["before", "unheard", "heard"]
    bob.client.typing(room)
    cid.client.typing(room)
    await ann.is_told(Signal, kind=1)
    assert [signal.sender for signal in ann.told(Signal)] == ["cid"]
    later = await server.login("ann")  # a device that comes later knows the block, too
    await later.client.join(room)
    await bob.client.send(room, "still unheard")
    await cid.client.send(room, "end")
    await later.hears(room, "end")
    assert later.texts(room) == ["end"]
    await ann.client.unblock("bob")
    await bob.client.send(room, "heard again")
    await later.hears(room, "end", "heard again")


async def test_only_with_others(server: LocalServer) -> None:
    ann = await server.login("ann")
    with pytest.raises(NotAllowed):
        await ann.client.block("ann")
    with pytest.raises(NotAllowed):
        await ann.client.add_friend("ann")
