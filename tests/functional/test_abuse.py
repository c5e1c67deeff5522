"""What players must not be able to do, to others and to the server, by means that the protocol has."""

import asyncio
import contextlib
import sqlite3
import threading
from functools import partial
from typing import Any

import pytest

from chatcore.errors import AlreadyExists, Blocked, ChatError, ListFull, NotAllowed, RateLimited
from chatcore.events import ConnectionClosed
from chatcore.operations import ClosedEvent, Operation, ReadEvent
from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import encode_request
from chatcore_server.embedded.database import FILE_NAME
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

Start = Any  # the fixture start_server
OpenRaw = Any  # the fixture open_raw
DEEP = b"\x91" * 3000 + b"\xc0"  # MessagePack: lists in lists


async def test_values_in_values_are_a_bad_request(server: LocalServer, open_raw: OpenRaw) -> None:
    client: RawClient = await open_raw(server)
    client.write_frame(FrameType.FRAME_HELLO, b"chat\x01\0\0\0\x81\xa1x" + DEEP)
    assert await client.closed_by() == "bad_request"
    client = await open_raw(server)
    await client.login(token=server.token("ann"))
    client.writer.write(encode_request(7, Operation.JOIN, b"\x81\xa1x" + DEEP))
    assert await client.answer() == (7, "bad_request")


async def test_a_player_has_one_bucket_however_many_connections(start_server: Start, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(
        limits={"frame_burst": 60, "frames_per_second": 1, "player_frame_burst": 100, "player_frames_per_second": 1}
    )
    accepted = 0
    for _ in range(4):
        client: RawClient = await open_raw(server)
        welcome = await client.login(token=server.token("ann"), channels={"room:x": 0})
        for seq in range(1, 61):
            client.send(seq, welcome["channels"]["room:x"][0], b"")
        for _ in range(60):
            kind, _ = await client.next(FrameType.FRAME_ACK, FrameType.FRAME_REFUSED)
            accepted += kind == FrameType.FRAME_ACK
    assert 100 <= accepted < 120  # some tokens have grown back


async def test_private_chats_give_way_and_come_again(start_server: Start) -> None:
    server: LocalServer = start_server(limits={"channels": 3})
    bob = await server.login("bob")
    for room in ("room:1", "room:2"):
        await bob.client.join(room)
    talkers = [await server.login(name) for name in ("ann", "cid", "dan")]
    chats = ["dm:ann:bob", "dm:bob:cid", "dm:bob:dan"]
    for talker, chat in zip(talkers, chats, strict=True):
        await talker.client.join(chat)
        await talker.client.send(chat, "first")
        await bob.hears(chat, "first")
    given_way = bob.told(ClosedEvent, code=int(ErrorCode.ERROR_TOO_MANY_CHANNELS))
    assert [closed.channel for closed in given_way] == chats[:2]
    await talkers[0].client.send(chats[0], "second")
    await bob.hears(chats[0], "first", "second")
    await bob.client.join("room:3")  # the private chat gives way to that, too
    with pytest.raises(ChatError) as caught:
        await bob.client.join("room:4")
    assert caught.value.name == "too_many_channels"
    await talkers[1].client.send(chats[1], "second")  # and has a place of its own beside the rooms
    await bob.hears(chats[1], "first", "second")
    await talkers[2].client.send(chats[2], "second")
    await bob.hears(chats[2], "first", "second")


async def test_lists_that_a_login_looks_up_have_an_end(start_server: Start) -> None:
    server: LocalServer = start_server(limits={"blocks": 2, "friends": 1})
    ann, bob, cid = [await server.login(name) for name in ("ann", "bob", "cid")]
    for name in ("x", "y", "y"):
        await ann.client.block(name)
    with pytest.raises(ListFull):
        await ann.client.block("z")
    await ann.client.unblock("x")
    await ann.client.block("z")
    for other in (bob, cid):
        await other.client.add_friend("ann")
    for _ in range(2):
        assert await ann.client.add_friend("bob")
    with pytest.raises(ListFull):
        await ann.client.add_friend("cid")


async def test_whom_nobody_knows_takes_a_friend_s_place(start_server: Start) -> None:
    """Also where many are added at once, and when those have answered."""
    server: LocalServer = start_server(limits={"blocks": 3, "friends": 3})
    eve = await server.login("eve")
    for request in (eve.client.add_friend, eve.client.block):
        answers = await asyncio.gather(*(request(f"nobody{i}") for i in range(10)), return_exceptions=True)
        assert sum(isinstance(answer, ListFull) for answer in answers) == 7
        for i in range(10):
            await eve.client.unblock(f"nobody{i}")
    for i in (7, 8, 9):
        await eve.client.add_friend(f"nobody{i}")  # a block has ended what was asked before
    with pytest.raises(ListFull):
        await eve.client.add_friend("nobody1")
    for i in (1, 7, 8, 9):
        other = await server.login(f"nobody{i}")
        assert await other.client.add_friend("eve") == (i != 1)
    assert sorted((await eve.client.friends()).friends) == ["nobody7", "nobody8", "nobody9"]


async def test_groups_have_an_end(start_server: Start) -> None:
    server: LocalServer = start_server(limits={"groups": 2, "group_members": 2, "creation_burst": 4})
    ann, bob, cid = [await server.login(name) for name in ("ann", "bob", "cid")]
    for group in ("group:1", "group:2"):
        await ann.client.create_group(group)
    with pytest.raises(ListFull):
        await ann.client.create_group("group:3")
    assert await ann.client.create_group("group:2") == "owner"  # again
    with pytest.raises(RateLimited) as caught:
        for _ in range(20):
            await ann.client.create_group("group:2")
    assert 0 < caught.value.retry_after_ms <= 1000
    await bob.client.create_group("group:bob")
    with pytest.raises(ListFull):
        await bob.client.add_member("group:bob", "ann")
    for _ in range(2):
        await ann.client.add_member("group:1", "bob")
    with pytest.raises(ListFull):
        await ann.client.add_member("group:1", "cid")
    await bob.client.leave_group("group:1")
    await ann.client.add_member("group:1", "cid")
    assert [member.player for member in await cid.client.members("group:1")] == ["ann", "cid"]


async def test_who_is_added_to_many_groups_at_once(start_server: Start) -> None:
    server: LocalServer = start_server(limits={"groups": 3})
    owners = [await server.login(f"owner{i}") for i in range(8)]
    for owner in owners:
        await owner.client.create_group(f"group:{owner.name}")
    answers = await asyncio.gather(
        *(owner.client.add_member(f"group:{owner.name}", "victim") for owner in owners), return_exceptions=True
    )
    assert [type(answer) for answer in answers if answer is not None] == [ListFull] * 5
    victim = await server.login("victim")
    assert len(await victim.client.conversations()) == 3


async def test_who_has_blocked_a_player_is_not_added_by_it(server: LocalServer) -> None:
    ann, eve = await server.login("ann"), await server.login("eve")
    await eve.client.create_group("group:g")
    await eve.client.add_member("group:g", "ann")
    await ann.client.leave_group("group:g")
    await ann.client.block("eve")
    with pytest.raises(Blocked):
        await eve.client.add_member("group:g", "ann")
    await ann.client.unblock("eve")
    await eve.client.add_member("group:g", "ann")


async def test_channels_of_a_hello_are_joins(start_server: Start, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(limits={"joins_per_second": 1, "join_burst": 100, "channels": 150})
    rooms = {f"room:{i}": 0 for i in range(90)}
    ann: RawClient = await open_raw(server)
    welcome = await ann.login(token=server.token("ann"), channels=rooms)
    assert (welcome["channels"].keys(), welcome["lost"]) == (rooms.keys(), {})
    for _ in range(3):  # nothing is new to it
        again: RawClient = await open_raw(server)
        resumed = await again.login(ticket=welcome["ticket"], channels=rooms)
        assert (resumed["resumed"], resumed["channels"].keys(), resumed["lost"]) == (True, rooms.keys(), {})
    more = rooms | {f"room:more{i}": 0 for i in range(50)} | {"room:\N{CYRILLIC SMALL LETTER A}": 0}
    last: RawClient = await open_raw(server)
    resumed = await last.login(ticket=welcome["ticket"], channels=more)
    n_limited = list(resumed["lost"].values()).count(ErrorCode.ERROR_RATE_LIMITED)
    assert 25 <= n_limited <= 40, "some tokens have grown back"
    assert len(resumed["channels"]) == 140 - n_limited
    assert "rate_limited" in [await last.request(Operation.JOIN, channel=f"room:other{i}") for i in range(3)]
    assert (server.counted("lost_rate_limited"), server.counted("lost_bad_name")) == (n_limited, 1)
    groups: RawClient = await open_raw(server)
    welcome = await groups.login(token=server.token("ann"), channels={f"group:{i}": 0 for i in range(50)})
    assert list(welcome["lost"].values()).count(ErrorCode.ERROR_RATE_LIMITED) >= 35, "these are not looked up"


async def test_marks_where_nobody_has_written_leave_nothing(server: LocalServer) -> None:
    eve = await server.login("eve")
    other = await server.login("eve")
    await asyncio.gather(*(eve.client.mark_read(f"dm:eve:x{i}", 5) for i in range(20)))
    await eve.client.send_direct("x0", "hello")
    receipt = await eve.client.send_direct("x0", "again")
    await eve.client.mark_read("dm:eve:x0", receipt.id)
    await other.is_told(ReadEvent, channel="dm:eve:x0", id=receipt.id)
    assert len(other.told(ReadEvent)) == 1
    with contextlib.closing(sqlite3.connect(server.folder / FILE_NAME)) as connection:
        assert connection.execute("SELECT channel, id FROM read_marks").fetchall() == [(b"dm:eve:x0", receipt.id)]


async def test_a_token_s_grants_hold_for_groups(server: LocalServer, open_raw: OpenRaw) -> None:
    owner = await server.login("owner")
    await owner.client.create_group("group:g")
    await owner.client.add_member("group:g", "ann", "officer")
    await owner.client.join("group:g")
    await owner.client.send("group:g", "for the guild")
    ann = await server.login("ann", channels=["room:only"])
    assert await ann.client.conversations() == {}
    for call in (
        ann.client.add_member("group:g", "friend"),
        ann.client.remove_member("group:g", "friend"),
        ann.client.leave_group("group:g"),
        ann.client.create_group("group:mine"),
    ):
        with pytest.raises(NotAllowed):
            await call
    raw: RawClient = await open_raw(server)
    welcome = await raw.login(token=server.token("ann", channels=["room:only"]))
    assert welcome["conversations"] == {}
    for number in range(20):  # all behind one another, and nobody there when their turn comes
        raw.ask(Operation.CREATE_GROUP, channel="group:mine", number=number)
    await raw.close()
    other = await server.login("other")
    assert await other.client.create_group("group:mine") == "owner"


async def test_a_blocked_player_learns_nothing_and_counts_for_nothing(server: LocalServer) -> None:
    ann, eve = await server.login("ann"), await server.login("eve")
    await ann.client.create_group("group:g")
    await ann.client.add_member("group:g", "eve")
    for channel in ("group:g", "dm:ann:eve"):
        await eve.client.join(channel)
        await eve.client.send(channel, "one")
    assert {name: state.unread for name, state in (await ann.client.conversations()).items()} == {
        "group:g": 1,
        "dm:ann:eve": 1,
    }
    await ann.client.block("eve")
    await eve.client.send("group:g", "two")
    assert {state.unread for state in (await ann.client.conversations()).values()} == {0}
    with pytest.raises(Blocked):
        await eve.client.members("dm:ann:eve")


async def test_a_resume_does_not_overtake_a_logout(server: LocalServer, open_raw: OpenRaw) -> None:
    """The resume has looked its session up before the logout, and comes in after it."""
    ann: RawClient = await open_raw(server)
    ticket = (await ann.login(token=server.token("ann")))["ticket"]
    looked_up, go_on = threading.Event(), threading.Event()
    sessions = server.server.store.sessions  # type: ignore[union-attr]
    real = sessions.resume

    async def slow(*arguments: Any) -> Any:
        found = await real(*arguments)
        looked_up.set()
        await asyncio.to_thread(go_on.wait, 10)
        return found

    server.do(lambda worker: setattr(sessions, "resume", slow))
    again: RawClient = await open_raw(server)
    again.hello(ticket=ticket)
    assert await asyncio.to_thread(looked_up.wait, 10)
    ann.ask(Operation.LOGOUT)
    assert await ann.closed_by() == "logged_out"
    go_on.set()
    assert await again.closed_by() == "bad_ticket"


async def test_the_name_of_an_ended_group_does_not_open_its_history(server: LocalServer) -> None:
    ann, eve = await server.login("ann"), await server.login("eve")
    await ann.client.create_group("group:g")
    await ann.client.join("group:g")
    await ann.client.send("group:g", "secret")
    await ann.client.leave_group("group:g")
    await until(lambda: ann.told(ClosedEvent))
    for player in (eve, ann):
        with pytest.raises(AlreadyExists):
            await player.client.create_group("group:g")
    with pytest.raises(ChatError):
        await eve.client.history("group:g")


async def test_a_legal_burst_harms_nobody(server: LocalServer, open_raw: OpenRaw) -> None:
    """What one client may send at once is more than is kept for a receiver."""
    listeners = [await server.login(f"p{i}") for i in range(8)]
    for each in listeners:
        await each.client.join("room:x")
    loud: RawClient = await open_raw(server)
    welcome = await loud.login(token=server.token("loud"), channels={"room:x": 0})
    number = welcome["channels"]["room:x"][0]
    for seq in range(1, 129):
        loud.send(seq, number, b"%04d" % seq + bytes(3900))
    assert [(await loud.ack())[0] for _ in range(128)] == list(range(1, 129))
    for each in listeners:
        await until(partial(lambda each: len(each.messages("room:x")) == 128, each))
        assert [int(message.body[:4]) for message in each.messages("room:x")] == list(range(1, 129))
        assert not each.told(ConnectionClosed)


async def test_many_large_answers_at_once_are_no_overflow(server: LocalServer, open_raw: OpenRaw) -> None:
    writer = await server.login("writer")
    rooms = [f"room:{i}" for i in range(12)]
    for room in rooms:
        await writer.client.join(room)
        await asyncio.gather(*(writer.client.send(room, bytes(3900)) for _ in range(15)))
    reader: RawClient = await open_raw(server)
    await reader.login(token=server.token("reader"))
    wanted = {reader.ask(Operation.SYNC, channel=room): room for room in rooms}
    answers = dict([await reader.answer() for _ in rooms])
    assert answers.keys() == wanted.keys()
    assert all(isinstance(answer, dict) and len(answer["entries"]) == 15 for answer in answers.values())
