"""A server whose backends fail: nothing unchecked is let in, nothing undurable is called durable, the rest goes on."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from chatcore.errors import ChatError
from chatcore.events import Connected
from chatcore.operations import Operation, PresenceEvent
from chatcore_ext.constants import UNKNOWN_ID, FrameType, SendFlag
from chatcore_ext.error_codes import ErrorCode, ErrorFlag
from chatcore_server.backends import BackendUnavailable, LogFull, Outcome
from support.players import Player, until
from support.raw import RawClient
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

GUILD, CHAT = "group:guild", "dm:ann:bob"


class Outage:
    """Stands in for a backend that does not answer."""

    def __init__(self, code: ErrorCode) -> None:
        self._code = code

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def fail(*arguments: object) -> None:
            raise BackendUnavailable(self._code, "out of order", retry_after_ms=700)

        return fail


@contextmanager
def outage(server: LocalServer, backend: str, code: ErrorCode) -> Iterator[None]:
    store = server.server.store
    real = getattr(store, backend)
    server.do(lambda worker: setattr(store, backend, Outage(code)))
    try:
        yield
    finally:
        server.do(lambda worker: setattr(store, backend, real))


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    server = LocalServer(tmp_path / "data", {}).start()
    yield server
    await server.stop()


async def test_without_relations(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The group was changed a moment ago, so with its usual distrust of clocks a resume would ask about it once more.
    monkeypatch.setattr("chatcore_server.admission._CLOCK_SLACK_MS", 0)
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.create_group(GUILD)
    await ann.client.add_member(GUILD, "bob")
    await ann.client.join(GUILD)
    await ann.client.join(CHAT)
    raw = await RawClient.open(server.port)
    await raw.login(token=server.token("ann"))
    await raw.request(Operation.JOIN, channel=GUILD)
    await raw.request(Operation.JOIN, channel=CHAT)
    ticket = (await raw.event("ticket"))["ticket"]
    with outage(server, "relations", ErrorCode.ERROR_RELATIONS_UNAVAILABLE):
        await who_is_not_known_to_be_allowed_is_told_to_come_again(server, ann, bob)
        # Who is in goes on; rooms are open; a message opens a private chat; a ticket needs nobody.
        await ann.client.send(GUILD, "still here")
        await ann.hears(GUILD, "still here")
        await bob.client.join("room:lobby")
        await ann.client.send(CHAT, "hello")
        await bob.hears(CHAT, "hello")
        await bob.client.send(CHAT, "hello back")
        await raw.close()
        again = await RawClient.open(server.port)
        welcome = await again.login(ticket=ticket, channels={GUILD: 0, CHAT: 0, "group:other": 0})
        assert set(welcome["channels"]) == {GUILD, CHAT}
        assert welcome["lost"] == {"group:other": ErrorCode.ERROR_RELATIONS_UNAVAILABLE}
        await again.close()
    await bob.client.join(GUILD)


async def who_is_not_known_to_be_allowed_is_told_to_come_again(server: LocalServer, ann: Player, bob: Player) -> None:
    for call in (
        bob.client.join(GUILD),
        bob.client.join(CHAT),
        bob.client.history(GUILD),
        ann.client.remove_member(GUILD, "bob"),
        bob.client.block("ann"),
    ):
        with pytest.raises(ChatError) as caught:
            await call
        assert caught.value.name == "relations_unavailable"
        assert caught.value.retry
        assert caught.value.retry_after_ms == 700
    fresh = await RawClient.open(server.port)
    fresh.hello(token=server.token("cid"))
    assert await fresh.closed_by() == "relations_unavailable"
    await fresh.close()


async def test_a_wave_without_relations(server: LocalServer) -> None:
    """Those who need them are all refused, with a code that says to come again; those with a ticket come in."""
    before = await RawClient.open(server.port)
    ticket = (await before.login(token=server.token("ann")))["ticket"]
    clients = [await RawClient.open(server.port) for _ in range(20)]
    with outage(server, "relations", ErrorCode.ERROR_RELATIONS_UNAVAILABLE):
        for i, client in enumerate(clients):
            client.hello(**({"ticket": ticket} if i == 10 else {"token": server.token(f"p{i}")}))
        assert (await clients[10].welcome())["resumed"]
        others = clients[:10] + clients[11:]
        assert {await client.closed_by() for client in others} == {"relations_unavailable"}
    for client in (before, *clients):
        await client.close()


async def test_without_history(server: LocalServer) -> None:
    ann = await server.login("ann")
    with outage(server, "history", ErrorCode.ERROR_HISTORY_UNAVAILABLE):
        joined = await ann.client.join("room:new")
        assert joined.head == UNKNOWN_ID
        raw = await RawClient.open(server.port)
        welcome = await raw.login(token=server.token("bob"), channels={"room:new": 0})
        assert welcome["channels"]["room:new"][1] == UNKNOWN_ID
        assert await raw.request(Operation.SYNC, channel="room:new") == "history_unavailable"
        raw.send(1, welcome["channels"]["room:new"][0], b"all the same")
        assert (await raw.ack())[1] > 0
        await raw.close()
    await ann.hears("room:new", "all the same")


async def test_without_sessions(server: LocalServer) -> None:
    raw = await RawClient.open(server.port)
    ticket = (await raw.login(token=server.token("ann")))["ticket"]
    await raw.close()
    with outage(server, "sessions", ErrorCode.ERROR_HISTORY_UNAVAILABLE):
        again = await RawClient.open(server.port)
        again.hello(ticket=ticket, token=server.token("ann"))
        # Not a new session by the token: that would lose what the old one has not got acknowledged.
        assert await again.closed_by() == "history_unavailable"
        await again.close()
    third = await RawClient.open(server.port)
    assert (await third.login(ticket=ticket))["resumed"]
    await third.close()


async def test_presence_goes_on_after_an_outage(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.add_friend("bob")
    await bob.client.add_friend("ann")
    for backend, code in (
        ("sessions", ErrorCode.ERROR_HISTORY_UNAVAILABLE),
        ("relations", ErrorCode.ERROR_RELATIONS_UNAVAILABLE),
    ):
        with outage(server, backend, code):
            answers = await asyncio.gather(
                *(bob.client.set_presence(presence) for presence in ("away", "online")), return_exceptions=True
            )
        assert [isinstance(answer, ChatError) and answer.code for answer in answers] == [code, code]
    await bob.client.set_presence("away")
    await ann.is_told(PresenceEvent, player="bob", presence="away")


class BrokenLog:
    """A log in front of the real one that refuses, fails, or keeps everybody waiting."""

    def __init__(self, real: Any, on_outcomes: Callable[[list[Outcome]], None]) -> None:
        self._real = real
        self._on_outcomes = on_outcomes
        self.mode = ""
        self.kept: list[tuple[bytes, bytes, object]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def release(self) -> None:
        self.mode = ""
        for arguments in self.kept:
            self._real.append(*arguments)

    def append(self, channel: bytes, value: bytes, token: object) -> None:
        if self.mode == "full":
            raise LogFull
        if self.mode == "silent":
            self.kept.append((channel, value, token))
            return
        if self.mode in ("failing", "uncertain"):
            code, uncertain = ErrorCode.ERROR_LOG_UNAVAILABLE, self.mode == "uncertain"
            outcome = Outcome(token, -1, 0, 0, code, uncertain)
            asyncio.get_running_loop().call_soon(self._on_outcomes, [outcome])
            return
        self._real.append(channel, value, token)


async def ready(server: LocalServer) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.server.http_port}/readyz") as response,
    ):
        return response.status


RETRY, UNCERTAIN = ErrorFlag.ERROR_FLAG_RETRY, ErrorFlag.ERROR_FLAG_UNCERTAIN


async def in_room_with_a_log_to_break(server: LocalServer) -> tuple[RawClient, list[int], BrokenLog]:
    """A player in a room, the room's number, head and hash, and the server's log."""
    raw = await RawClient.open(server.port)
    welcome = await raw.login(token=server.token("ann"), channels={"room:x": 0})
    store: Any = server.server.store
    log = store.log = server.do(lambda worker: BrokenLog(store.log, worker.on_outcomes))
    return raw, welcome["channels"]["room:x"], log


async def test_a_log_that_takes_nothing(server: LocalServer) -> None:
    raw, (number, *_), log = await in_room_with_a_log_to_break(server)
    assert await ready(server) == 200
    log.mode = "full"
    raw.send(1, number, b"one")
    assert await raw.refusal() == (1, "overloaded", RETRY)
    assert await ready(server) == 200
    log.mode = "failing"
    raw.send(2, number, b"two")
    assert await raw.refusal() == (2, "log_unavailable", RETRY)
    assert await ready(server) == 503
    log.mode = "uncertain"
    raw.send(3, number, b"three")
    assert await raw.refusal() == (3, "log_unavailable", RETRY | UNCERTAIN)
    log.mode = ""
    raw.send(4, number, b"four")
    assert (await raw.ack())[0] == 4
    await raw.close()


async def test_a_log_that_is_silent(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatcore_server.sends._PATIENCE_S", 0.2)
    raw, (number, head, _), log = await in_room_with_a_log_to_break(server)
    log.mode = "silent"
    raw.send(1, number, b"one")
    raw.send(2, number, b"two")
    assert await raw.refusal() == (1, "log_unavailable", RETRY | UNCERTAIN)  # it may still get there
    assert await raw.refusal() == (2, "log_unavailable", RETRY | UNCERTAIN)
    raw.send(3, number, b"three")
    assert await raw.refusal() == (3, "log_unavailable", RETRY)  # this one was not handed over any more
    assert await ready(server) == 503
    server.do(lambda worker: log.release())
    assert [(await raw.delivery())[7] for _ in range(2)] == [b"one", b"two"]
    raw.send(1, number, b"one", SendFlag.SEND_RESEND)
    seq, first, _ = await raw.ack()
    assert (seq, first) == (1, head + 1)
    raw.send(4, number, b"four")
    assert (await raw.ack())[0] == 4
    assert not raw.taken(FrameType.FRAME_ACK)  # the late outcomes of what was refused answer nothing
    await raw.close()


async def test_a_change_that_was_not_told_is_told_when_it_is_asked_again(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.create_group(GUILD)
    await ann.client.add_member(GUILD, "bob")
    await bob.client.join(GUILD)
    store: Any = server.server.store

    def break_log(worker: Any) -> BrokenLog:
        broken = BrokenLog(store.log, worker.on_outcomes)
        worker._groups._controls._log = broken  # where the records of changes go
        return broken

    log = server.do(break_log)
    log.mode = "failing"
    with pytest.raises(ChatError, match="log_unavailable"):
        await ann.client.remove_member(GUILD, "bob")
    log.mode = ""
    with pytest.raises(ChatError, match="no_such_member"):  # it is gone already ...
        await ann.client.remove_member(GUILD, "bob")
    await until(lambda: not server.do(lambda worker: worker.hub.players_in(GUILD.encode(), 9)))  # ... and now told
    assert (await ann.is_told(Connected)).player == "ann"
