"""Sessions end with their tokens, after a warning, unless they get a new one in place."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import chatcore.client
from chatcore import Client
from chatcore.errors import BadToken, NotAllowed, TokenExpired
from chatcore.events import Connected, ConnectionClosed, TokenExpiring
from chatcore.operations import ClosedEvent, Operation
from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import decode_error, decode_reply
from chatcore_server import token_keeper
from support.certificates import client_context
from support.players import PROMPT, Player, until
from support.raw import RawClient
from support.servers import LocalServer
from support.shifted_clock import ShiftedClock
from support.slow_answers import slow_down

pytestmark = pytest.mark.asyncio

OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]
StartServer = Callable[..., LocalServer]
ROOM, OTHER, CHAT, GUILD = "room:lobby", "room:other", "dm:ann:bob", "group:guild"
EXACT = {"authentication": {"leeway": 0}}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ShiftedClock:
    return ShiftedClock(monkeypatch)


@pytest.fixture
def server(clock: ShiftedClock, start_server: StartServer) -> LocalServer:
    return start_server(**EXACT)


async def logged_in(server: LocalServer, open_raw: OpenRaw, lifetime_s: int, **hello: Any) -> tuple[RawClient, Any]:
    client = await open_raw(server)
    return client, await client.login(token=server.token("ann", lifetime_s), **hello)


async def warned(client: RawClient) -> int:
    """Of how many ms are left."""
    left: int = (await client.event("token_expiring"))["in_ms"]
    return left


async def is_alive(client: RawClient) -> None:
    assert await client.request(Operation.BLOCKS) == {"players": []}


# ---- Expiry ----------------------------------------------------------------------------------------------------------


async def test_a_warning_and_then_the_end(server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock) -> None:
    ann, welcome = await logged_in(server, open_raw, 100)
    await is_alive(ann)
    assert ann.taken(FrameType.FRAME_EVENT) == []
    clock.forward(45)
    assert 50_000 < await warned(ann) < 60_000
    clock.forward(50)
    await is_alive(ann)
    clock.forward(6)
    assert await ann.closed_by() == "token_expired"
    assert ann.taken(FrameType.FRAME_EVENT) == [], "it was warned once"
    assert not server.do(lambda worker: worker.hub.is_online(b"ann"))
    assert server.counted("closed_token_expired") == 1

    again = await open_raw(server)
    again.hello(ticket=welcome["ticket"])
    assert await again.closed_by() == "bad_ticket"
    again = await open_raw(server)
    second = await again.login(ticket=welcome["ticket"], token=server.token("ann", 1000))
    assert (second["resumed"], second["session"] == welcome["session"]) == (False, False)


async def test_a_long_life(server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock) -> None:
    """The warning lies beyond what is looked ahead at the login."""
    ann, _ = await logged_in(server, open_raw, 600)
    for _ in range(6):
        clock.forward(81)
        await ann.event("ticket")
    assert ann.taken(FrameType.FRAME_EVENT) == []
    clock.forward(60)
    assert 30_000 < await warned(ann) < 60_000
    clock.forward(60)
    assert await ann.closed_by() == "token_expired"


async def test_a_clock_that_leaps(server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock) -> None:
    ann, _ = await logged_in(server, open_raw, 600)
    clock.forward(560)
    assert 30_000 < await warned(ann) < 40_000
    clock.forward(1_000_000)
    assert await ann.closed_by() == "token_expired"
    assert ann.taken(FrameType.FRAME_EVENT) == [], "it was warned once"


async def test_a_token_that_has_not_long_to_live(server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock) -> None:
    ann, welcome = await logged_in(server, open_raw, 30)
    first = await warned(ann)
    assert 20_000 < first <= 30_000
    await ann.close()
    again = await open_raw(server)
    assert (await again.login(ticket=welcome["ticket"]))["resumed"]
    assert 0 < await warned(again) <= first, "a resume changes nothing about the token, and the client is told again"
    clock.forward(30)
    assert await again.closed_by() == "token_expired"


async def test_the_end_of_one_connection_is_not_that_of_the_next(
    server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock
) -> None:
    """The place of a connection in the tables is used again."""
    ann, _ = await logged_in(server, open_raw, 100)
    await ann.close()
    await until(lambda: server.counted("connections") == 0)
    bob = await open_raw(server)
    await bob.login(token=server.token("bob", 3600))
    clock.forward(101)
    await bob.event("ticket")
    await is_alive(bob)
    assert bob.taken(FrameType.FRAME_EVENT) == []


async def test_no_warnings_where_none_are_wanted(
    start_server: StartServer, open_raw: OpenRaw, clock: ShiftedClock
) -> None:
    server = start_server(sessions={"expiry_warning": 0}, **EXACT)
    ann, _ = await logged_in(server, open_raw, 100)
    clock.forward(101)
    assert await ann.closed_by() == "token_expired"
    assert ann.taken(FrameType.FRAME_EVENT) == []


async def test_a_wave_of_tokens_that_expire_together(
    server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_keeper, "_AT_ONCE", 3)
    token = server.token("ann", 100)
    everybody = [await open_raw(server) for _ in range(8)]
    for client in everybody:
        await client.login(token=token)
    clock.forward(45)
    for client in everybody:
        await warned(client)
    clock.forward(60)
    assert [await client.closed_by() for client in everybody] == ["token_expired"] * 8
    assert server.do(lambda worker: worker.hub.counters()["sessions"]) == 0


# ---- A new token in place --------------------------------------------------------------------------------------------


async def test_a_refresh_keeps_everything(server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock) -> None:
    ann, welcome = await logged_in(server, open_raw, 100, channels={ROOM: 0})
    number = welcome["channels"][ROOM][0]
    clock.forward(45)
    await warned(ann)
    reply = await ann.request(Operation.REFRESH, token=server.token("ann", 245))
    assert reply["ticket_ms"] <= reply["token_ms"]
    assert 199_000 < reply["token_ms"] <= 200_000
    clock.forward(60)  # the old one has expired
    ann.send(1, number, b"still here")
    await ann.ack()
    assert (await ann.delivery())[-1] == b"still here"
    clock.forward(85)
    assert 50_000 < await warned(ann) <= 60_000
    await ann.close()
    again = await open_raw(server)
    second = await again.login(ticket=reply["ticket"], channels={ROOM: 0})
    assert (second["resumed"], second["session"]) == (True, welcome["session"])
    assert 50_000 < await warned(again) <= 60_000, "the ticket knows the new token"
    clock.forward(60)
    assert await again.closed_by() == "token_expired"
    assert server.counted("token_refreshes") == 1


async def test_a_new_token_may_end_earlier(server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock) -> None:
    ann, _ = await logged_in(server, open_raw, 3600)
    reply = await ann.request(Operation.REFRESH, token=server.token("ann", 90))
    assert reply["ticket_ms"] <= 90_000
    clock.forward(40)
    await warned(ann)
    clock.forward(51)
    assert await ann.closed_by() == "token_expired"


async def test_the_same_token_again_warns_no_more(server: LocalServer, open_raw: OpenRaw) -> None:
    token = server.token("ann", 30)
    ann = await open_raw(server)
    await ann.login(token=token)
    await warned(ann)
    assert (await ann.request(Operation.REFRESH, token=token))["token_ms"] > 25_000
    await is_alive(ann)
    assert ann.taken(FrameType.FRAME_EVENT) == []


async def test_tokens_that_are_refused_leave_the_old_one(
    server: LocalServer, open_raw: OpenRaw, clock: ShiftedClock
) -> None:
    ann, _ = await logged_in(server, open_raw, 100)
    refused = [
        (server.token("bob", 1000), "not_allowed"),
        (server.token("Ann", 1000), "not_allowed"),
        (server.token("ann", -1), "token_expired"),
        (server.token("ann", 1000) + "x", "bad_token"),
        ("", "bad_token"),
    ]
    for token, name in refused:
        before = server.counted(f"token_refreshes_failed_{name}")
        assert await ann.request(Operation.REFRESH, token=token) == name
        assert server.counted(f"token_refreshes_failed_{name}") == before + 1
    assert await ann.request(Operation.REFRESH, token=5) == "bad_request"
    assert await ann.request(Operation.REFRESH) == "bad_request"
    await is_alive(ann)
    clock.forward(101)
    assert await ann.closed_by() == "token_expired"


async def test_new_tokens_are_limited(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, _ = await logged_in(server, open_raw, 100)
    token = server.token("ann", 1000)
    answers = [await ann.request(Operation.REFRESH, token=token) for _ in range(15)]
    assert "rate_limited" in answers
    await is_alive(ann)
    bob = await open_raw(server)
    await bob.login(token=server.token("bob"))
    assert isinstance(await bob.request(Operation.REFRESH, token=server.token("bob", 1000)), dict)


async def test_how_many_new_tokens_a_player_may_have(start_server: StartServer, open_raw: OpenRaw) -> None:
    server = start_server(limits={"refresh_burst": 2, "refreshes_per_second": 2})
    ann, _ = await logged_in(server, open_raw, 100)
    token = server.token("ann", 1000)
    assert [isinstance(await ann.request(Operation.REFRESH, token=token), dict) for _ in range(2)] == [True, True]
    ann.ask(Operation.REFRESH, token=token)
    _, body = await ann.next(FrameType.FRAME_FAILED)
    _, _, wait_ms, name, _ = decode_error(decode_reply(body)[1])
    assert name == "rate_limited"
    assert 0 < wait_ms <= 500


async def test_guesses_count_for_the_address(start_server: StartServer, open_raw: OpenRaw) -> None:
    server = start_server(limits={"unlimited_addresses": [], "failed_login_burst": 3})
    ann, _ = await logged_in(server, open_raw, 100)
    assert [await ann.request(Operation.REFRESH, token="guess") for _ in range(3)] == ["bad_token"] * 3
    assert await ann.request(Operation.REFRESH, token=server.token("ann", 1000)) == "rate_limited"
    other = await open_raw(server)
    other.hello(token=server.token("bob"))
    assert await other.closed_by() == "rate_limited", "logins of the address, too"
    await is_alive(ann)


# ---- What a new token lets a player do -------------------------------------------------------------------------------


async def test_a_narrower_token(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    for each in (ann, bob):
        for channel in (ROOM, OTHER, CHAT):
            await each.client.join(channel)
    await ann.client.refresh(server.token("ann", channels=[ROOM]))
    for channel in (OTHER, CHAT):
        await ann.is_told(ClosedEvent, channel=channel, code=ErrorCode.ERROR_NOT_ALLOWED)
        with pytest.raises(NotAllowed):
            await ann.client.join(channel)
    assert ann.client.channels == [ROOM]
    assert server.do(lambda worker: worker.hub.players_in(OTHER.encode(), 9)) == [b"bob"]
    await bob.client.send(CHAT, "do you hear me")
    await bob.client.send(OTHER, "and here")
    await ann.client.send(ROOM, "still in the lobby")
    await bob.hears(ROOM, "still in the lobby")
    assert ann.texts(CHAT) + ann.texts(OTHER) == []

    await ann.client.refresh(server.token("ann"))
    await ann.client.join(OTHER)
    await bob.client.send(CHAT, "and now?")
    await ann.hears(CHAT, "do you hear me", "and now?")


async def test_a_narrower_token_holds_over_a_resume(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, _ = await logged_in(server, open_raw, 1000, channels={ROOM: 0})
    narrow = server.token("ann", 1000, channels=[OTHER])
    reply = await ann.request(Operation.REFRESH, token=narrow)
    await ann.close()
    again = await open_raw(server)
    welcome = await again.login(ticket=reply["ticket"], channels={ROOM: 0, OTHER: 0})
    assert welcome["lost"] == {ROOM: ErrorCode.ERROR_NOT_ALLOWED}
    assert list(welcome["channels"]) == [OTHER]


async def test_a_narrower_token_while_joining(server: LocalServer) -> None:
    ann = await server.login("ann")
    await ann.client.create_group(GUILD)
    slow = slow_down(server, "role")
    joining = asyncio.create_task(ann.client.join(GUILD))
    await until(lambda: slow.is_asked)
    await ann.client.refresh(server.token("ann", channels=[ROOM]))
    slow.may_answer = True
    with pytest.raises(NotAllowed):
        await joining
    assert server.do(lambda worker: worker.hub.subscribers(GUILD.encode())) == 0


# ---- The client ------------------------------------------------------------------------------------------------------


class Source:
    """A token source: gives tokens of these lifetimes, the last one for ever."""

    def __init__(self, server: LocalServer, *lifetimes_s: int, name: str = "ann") -> None:
        self._server = server
        self._name = name
        self._lifetimes_s = list(lifetimes_s)
        self.n_asked = 0
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.n_asked += 1
        if self.error is not None and self.n_asked > 1:
            raise self.error
        lifetime_s = self._lifetimes_s.pop(0) if len(self._lifetimes_s) > 1 else self._lifetimes_s[0]
        return self._server.token(self._name, lifetime_s)


async def play(server: LocalServer, token: Any) -> Player:
    server.players.append(Player(Client(server.uri, token=token, reconnect=PROMPT, ssl=client_context())))
    return await server.players[-1].start()


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatcore.client, "REFRESH_AFTER", (0.001, 0.002))


@pytest.mark.usefixtures("_at_once")
async def test_a_client_refreshes_by_itself(server: LocalServer, clock: ShiftedClock) -> None:
    source = Source(server, 100, 200)
    ann = await play(server, source)
    session = ann.client.session_id
    await ann.client.join(ROOM)
    clock.forward(45)
    await until(lambda: server.counted("token_refreshes") == 1)
    clock.forward(60)
    await ann.client.send(ROOM, "still here")
    await ann.hears(ROOM, "still here")
    assert ann.client.session_id == session
    assert source.n_asked == 2
    assert ann.told(ConnectionClosed) == []


async def test_tokens_that_live_shorter_than_the_warning(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refresh is followed by the next warning: the client takes its time, and never stops."""
    monkeypatch.setattr(chatcore.client, "REFRESH_AFTER", (0.05, 0.1))
    ann = await play(server, Source(server, 6))
    await until(lambda: server.counted("token_refreshes") >= 4)
    assert ann.told(ConnectionClosed) == []
    assert server.counted("token_refreshes_failed_rate_limited") == 0


@pytest.mark.usefixtures("_at_once")
async def test_a_source_that_has_nothing_newer_is_asked_again(server: LocalServer, clock: ShiftedClock) -> None:
    old = server.token("ann", 100)
    tokens = [old, old, old, server.token("ann", 1000)]
    ann = await play(server, lambda: tokens.pop(0))
    clock.forward(45)
    await until(lambda: not tokens)
    clock.forward(60)
    await ann.client.blocks()
    assert ann.told(ConnectionClosed) == []


async def test_a_source_that_fails_until_it_is_too_late(server: LocalServer) -> None:
    """The server ends the session; the client logs in anew and is where it was."""
    source = Source(server, 2, 1000)
    source.error = OSError("the backend does not answer")
    ann = await play(server, source)
    await ann.client.join(ROOM)
    first = ann.client.session_id
    await until(lambda: source.n_asked > 1)
    source.error = None
    # What comes now may be in time or too late: both are right, and nobody is asked to do anything.
    await until(lambda: bool(ann.told(Connected)[1:]) or server.counted("token_refreshes") > 0)
    await ann.client.send(ROOM, "here")
    await ann.hears(ROOM, "here")
    assert (ann.client.session_id == first) == (ann.told(ConnectionClosed) == [])


async def test_after_the_end_a_source_gets_the_client_in_again(server: LocalServer, clock: ShiftedClock) -> None:
    ann = await play(server, Source(server, 100, 10_000))
    await ann.client.join(ROOM)
    first = ann.client.session_id
    clock.forward(101)  # with no time left for a refresh
    await ann.is_closed("token_expired")
    await ann.is_told(Connected, resumed=False, times=2)
    assert ann.client.session_id != first
    await ann.client.send(ROOM, "back")
    await ann.hears(ROOM, "back")


async def test_without_a_source_the_program_is_told(server: LocalServer, clock: ShiftedClock) -> None:
    ann = await play(server, server.token("ann", 100))
    clock.forward(45)
    assert 50_000 < (await ann.is_told(TokenExpiring)).in_ms < 60_000
    with pytest.raises(NotAllowed):
        await ann.client.refresh(server.token("bob"))
    with pytest.raises(BadToken):
        await ann.client.refresh("guess")
    assert 999_000 < await ann.client.refresh(server.token("ann", 1045)) <= 1_000_000
    clock.forward(60)
    await ann.client.blocks()
    assert ann.told(ConnectionClosed) == []


async def test_without_a_source_the_end_is_the_end(server: LocalServer, clock: ShiftedClock) -> None:
    ann = await play(server, server.token("ann", 100))
    clock.forward(101)
    await until(lambda: ann.error is not None)
    assert isinstance(ann.error, TokenExpired)
