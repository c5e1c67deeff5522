"""Rights that change while they are looked up: the old answer must not win. And history that lags behind the log."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from chatcore import operations
from chatcore.errors import Blocked, NotAllowed
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import Head, HistoryPage
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer
from support.slow_answers import slow_down

pytestmark = pytest.mark.asyncio

GUILD, CHAT, ROOM = "group:guild", "dm:ann:bob", "room:lobby"


async def test_a_kick_while_joining(server: LocalServer) -> None:
    owner, ann = await server.login("owner"), await server.login("ann")
    await owner.client.create_group(GUILD)
    await owner.client.add_member(GUILD, "ann")
    slow = slow_down(server, "role")
    joining = asyncio.create_task(ann.client.join(GUILD))
    await until(lambda: slow.is_asked)
    await owner.client.remove_member(GUILD, "ann")
    slow.may_answer = True
    with pytest.raises(NotAllowed):
        await joining
    assert server.do(lambda worker: worker.hub.subscribers(GUILD.encode())) == 0


async def test_a_block_while_joining(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    slow = slow_down(server, "blocked_between")
    joining = asyncio.create_task(ann.client.join(CHAT))
    await until(lambda: slow.is_asked)
    await bob.client.block("ann")
    slow.may_answer = True
    with pytest.raises(Blocked):
        await joining


async def test_a_block_while_logging_in(server: LocalServer) -> None:
    phone, bob = await server.login("ann"), await server.login("bob")
    await bob.client.join(ROOM)
    await phone.client.block("bob")
    for change, heard in ((phone.client.unblock, True), (phone.client.block, False)):
        slow = slow_down(server, "profiles")
        logging_in = asyncio.create_task(server.login("ann"))
        await until(lambda slow=slow: slow.is_asked)  # type: ignore[misc]
        await change("bob")
        slow.may_answer = True
        tablet = await logging_in
        await tablet.client.join(ROOM)
        await bob.client.send(ROOM, "to all but the blocking")
        last = await tablet.client.send(ROOM, "end")
        await until(lambda t=tablet, i=last.id: t.messages(ROOM) and t.messages(ROOM)[-1].id == i)  # type: ignore[misc]
        assert ("to all but the blocking" in tablet.texts(ROOM)) == heard


async def test_a_kick_while_logging_in(server: LocalServer) -> None:
    owner = await server.login("owner")
    await owner.client.create_group(GUILD)
    await owner.client.add_member(GUILD, "ann")
    slow = slow_down(server, "profiles")
    ann = await RawClient.open(server.uri)
    logging_in = asyncio.create_task(ann.login(token=server.token("ann"), channels={GUILD: 0, ROOM: 0}))
    await until(lambda: slow.is_asked)
    await owner.client.remove_member(GUILD, "ann")
    slow.may_answer = True
    welcome = await logging_in
    assert list(welcome["channels"]) == [ROOM]
    assert welcome["lost"] == {GUILD: ErrorCode.ERROR_RELATIONS_UNAVAILABLE}  # ask again, then you will know
    assert await ann.request(operations.Operation.JOIN, channel=GUILD) == "not_allowed"
    await ann.close()


async def test_who_hangs_up_while_joining_leaves_nothing_behind(server: LocalServer) -> None:
    slow = slow_down(server, "role")
    ann = await RawClient.open(server.uri)
    await ann.login(token=server.token("ann"))
    ann.ask(operations.Operation.JOIN, channel=GUILD)
    await until(lambda: slow.is_asked)
    await ann.close()
    await until(lambda: server.do(lambda worker: worker.hub.counters()["connections"]) == 0)
    slow.may_answer = True
    await until(lambda: server.do(lambda worker: worker._requests.n_under_way) == 0)
    assert server.do(lambda worker: worker.hub.counters()["channels"]) == 0


class LateHistory:
    """In front of the history: blind for what is new until it has been asked a few times."""

    def __init__(self, real: Any, n_blind: int) -> None:
        self._real = real
        self._n_blind = n_blind

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def heads(self, channels: Sequence[bytes]) -> list[Head]:
        self._n_blind -= 1
        if self._n_blind >= 0:
            return [Head(0, 0, 0) for _ in channels]
        found: list[Head] = await self._real.heads(channels)
        return found

    async def after(self, channel: bytes, after: int, limit: int, size: int) -> HistoryPage:
        if self._n_blind > 0:
            return HistoryPage([], False)
        found: HistoryPage = await self._real.after(channel, after, limit, size)
        return found


async def test_sync_waits_for_a_history_that_lags(server: LocalServer) -> None:
    ann = await RawClient.open(server.uri)
    number = (await ann.login(token=server.token("ann"), channels={ROOM: 0}))["channels"][ROOM][0]
    ann.send(1, number, b"hello")
    await ann.ack()
    store: Any = server.server.store
    server.do(lambda worker: setattr(store, "history", LateHistory(store.history, 3)))
    page = await ann.request(operations.Operation.SYNC, channel=ROOM)
    assert [entry[6] for entry in page["entries"]] == [b"hello"]
    await ann.close()
