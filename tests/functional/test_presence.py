"""Friends and their presence, devices, sessions that end."""

import asyncio
from typing import Any

import pytest

from chatcore import operations
from chatcore.errors import Blocked, ConnectionLost, TooManySessions
from chatcore.events import Connected, ConnectionClosed
from support.players import Player, until
from support.servers import LocalServer
from support.slow_answers import slow_down

pytestmark = pytest.mark.asyncio

Start = Any  # the fixture start_server


async def befriend(ann: Player, bob: Player) -> None:
    assert not await ann.client.add_friend(bob.name)
    assert (await bob.client.friends()).asked == [ann.name]
    assert await bob.client.add_friend(ann.name)


async def test_friends_are_told(server: LocalServer) -> None:
    ann, bob, cid = await server.login("ann"), await server.login("bob"), await server.login("cid")
    await befriend(ann, bob)
    assert (await ann.client.friends()).friends == {"bob": "online"}
    await ann.is_told(operations.PresenceEvent, player="bob", presence="online")
    await bob.client.set_presence("away")
    await ann.is_told(operations.PresenceEvent, player="bob", presence="away")
    second = await server.login("bob")  # the better of both devices counts
    await ann.is_told(operations.PresenceEvent, times=2, player="bob", presence="online")
    await second.client.logout()
    await ann.is_told(operations.PresenceEvent, times=2, player="bob", presence="away")
    await bob.client.logout()
    await ann.is_told(operations.PresenceEvent, player="bob", presence="offline")
    assert (await ann.client.friends()).friends == {"bob": "offline"}
    assert not cid.told(operations.PresenceEvent)
    await ann.client.remove_friend("bob")
    assert (await ann.client.friends()).friends == {}


async def test_changes_are_told_in_their_order(server: LocalServer) -> None:
    """Also when an earlier one waits for a look-up."""
    ann, bob = await server.login("ann"), await server.login("bob")
    await befriend(ann, bob)
    slow = slow_down(server, "profiles")
    changes = [asyncio.create_task(bob.client.set_presence("away"))]
    await until(lambda: slow.is_asked)
    changes += [asyncio.create_task(bob.client.set_presence(presence)) for presence in ("online", "away")]
    await asyncio.wait(changes, timeout=0.05)
    slow.may_answer = True
    await asyncio.gather(*changes)
    await until(lambda: len(ann.told(operations.PresenceEvent, player="bob")) == 4)
    told = ann.told(operations.PresenceEvent, player="bob")
    assert [event.presence for event in told] == ["online", "away", "online", "away"]


async def test_those_in_the_same_channel_are_told_who_is_away(server: LocalServer) -> None:
    ann, bob, cid = await server.login("ann"), await server.login("bob"), await server.login("cid")
    for player in (ann, bob):
        await player.client.join("room:lobby")
        await player.client.join("room:other")
    await cid.client.join("dm:bob:cid")
    await bob.client.set_presence("away")
    await ann.is_told(operations.PresenceEvent, player="bob", presence="away")
    await bob.client.set_presence("online")
    await ann.is_told(operations.PresenceEvent, player="bob", presence="online")
    assert len(ann.told(operations.PresenceEvent)) == 2  # once each, however many channels they share
    assert not bob.told(operations.PresenceEvent)
    assert not cid.told(operations.PresenceEvent)


async def test_a_block_ends_a_friendship(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await befriend(ann, bob)
    await ann.client.block("bob")
    assert (await bob.client.friends()).friends == {}
    with pytest.raises(Blocked):
        await bob.client.add_friend("ann")


async def test_a_lost_connection_is_offline_after_the_grace_period(start_server: Start) -> None:
    server = start_server(sessions={"resume_grace": "300ms"})
    ann, bob = await server.login("ann"), await server.login("bob")
    await befriend(ann, bob)
    for player in (ann, bob):
        await player.client.join("room:lobby")
    await bob.close()
    await ann.is_told(operations.PresenceEvent, player="bob", presence="offline")
    await ann.is_told(operations.LeftEvent, player="bob")


async def test_a_resume_within_it_is_not_noticed(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await befriend(ann, bob)
    for player in (ann, bob):
        await player.client.join("room:lobby")
    await ann.is_told(operations.JoinedEvent, player="bob")
    await ann.is_told(operations.PresenceEvent, player="bob")
    joined, presence = len(ann.told(operations.JoinedEvent)), len(ann.told(operations.PresenceEvent))
    session = bob.client.session_id
    server.do(lambda worker: [worker.hub.close_connection(c, 107) for _, c in worker.hub.sessions_of(b"bob")])
    server.do(lambda worker: worker.wake())
    await bob.is_told(ConnectionClosed)
    assert [member.player for member in await ann.client.members("room:lobby")] == ["ann", "bob"]
    assert (await bob.is_told(Connected, times=2)).resumed
    assert bob.client.session_id == session
    await bob.client.send("room:lobby", "still here")
    await ann.hears("room:lobby", "still here")
    assert not ann.told(operations.LeftEvent)
    assert len(ann.told(operations.JoinedEvent)) == joined
    assert len(ann.told(operations.PresenceEvent)) == presence


async def test_too_many_devices_are_refused(start_server: Start) -> None:
    server = start_server(sessions={"sessions_per_player": 2})
    ann, _ = await server.login("ann"), await server.login("ann")
    with pytest.raises(TooManySessions):
        await server.login("ann")
    await ann.client.logout()
    await server.login("ann")
    with pytest.raises(TooManySessions):
        await server.login("ann")


async def test_a_device_without_connection_gives_way(start_server: Start) -> None:
    server = start_server(sessions={"sessions_per_player": 1})
    ann = await server.login("ann")
    await ann.close()
    await until(lambda: server.do(lambda worker: worker.hub.counters()["connections"]) == 0)
    await server.login("ann")


async def test_the_newest_device_wins(start_server: Start) -> None:
    server = start_server(sessions={"sessions_per_player": 1, "on_excess": "newest_wins"})
    old = await server.login("ann")
    new = await server.login("ann")
    await old.is_closed("session_replaced")
    assert new.client.connected
    assert new.client.session_id != old.client.session_id
    with pytest.raises(Exception, match="session_replaced"):
        await old.client.join("room:lobby")


async def test_logout_ends_the_session(server: LocalServer) -> None:
    ann = await server.login("ann")
    await ann.client.logout()
    assert server.do(lambda worker: worker.hub.sessions_of(b"ann")) == []
    with pytest.raises(ConnectionLost):
        await ann.client.join("room:lobby")
