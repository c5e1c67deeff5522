"""Many connections that mean no good: half-open ones, too many of one address, guesses without end, full rooms.

Players beside them chat on, and new players get in.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chatcore.errors import ChannelFull, RateLimited
from chatcore.operations import Operation, PresenceEvent
from chatcore_ext.constants import FrameType
from chatcore_ext.frame import decode_error
from support.eventually import eventually_answers
from support.half_open import half_open_connections
from support.neighbours import Neighbours
from support.players import until
from support.raw import RawClient
from support.scrapes import scrape
from support.servers import LocalServer, ServerProcess

pytestmark = pytest.mark.asyncio

Start = Callable[..., LocalServer]
MakeServer = Callable[..., ServerProcess]
N_HALF_OPEN = 2_000  # ten thousand have a test of their own: test_hostile_beside_a_thousand.py


@pytest_asyncio.fixture
async def start_server(tmp_path: Path) -> AsyncIterator[Start]:
    servers: list[LocalServer] = []

    def start(**limits: Any) -> LocalServer:
        servers.append(LocalServer(tmp_path / "data", {"limits": limits}))
        return servers[-1].start()

    yield start
    for server in servers:
        await server.stop()


async def closed_with(client: RawClient) -> tuple[str, int]:
    """Name and retry-after of CLOSE."""
    _, body = await client.next(FrameType.FRAME_CLOSE)
    _, _, retry_after_ms, name, _ = decode_error(body)
    return name, retry_after_ms


async def is_welcome(server: LocalServer, name: str) -> bool:
    client = await RawClient.open(server.uri)
    client.hello(token=server.token(name))
    kind, _ = await client.next(FrameType.FRAME_WELCOME, FrameType.FRAME_CLOSE)
    await client.close()
    return kind == FrameType.FRAME_WELCOME


async def open_half(server: LocalServer, n: int) -> list[asyncio.StreamWriter]:
    opened = []
    for _ in range(n):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        opened.append(writer)
    return opened


@pytest.mark.parametrize("limit", [{"half_open": 500}, {"connections": 600}])
async def test_half_open_connections_take_nobodys_place(start_server: Start, limit: dict[str, int]) -> None:
    server = start_server(hello_timeout="1m", **limit)
    neighbours = await Neighbours(server).start()
    silent = await open_half(server, N_HALF_OPEN)
    await until(lambda: server.counted("half_open_gave_way") >= N_HALF_OPEN - 600)
    assert server.counted("connections") <= 605
    newcomer = await server.login("newcomer")
    await newcomer.client.join("room:neighbours")
    await neighbours.unharmed()
    assert server.counted("connections_refused") == 0
    for writer in silent:
        writer.close()
    await neighbours.stop()


async def test_half_open_connections_where_descriptors_are_few(make_server: MakeServer) -> None:
    """Those who give way do not use up what those who come need: accepting never pauses."""
    server = make_server(n_descriptors=400)
    await server.start()
    ann = await RawClient.open(server.port)
    await ann.login(token=server.token("ann"))
    async with half_open_connections(server.port, N_HALF_OPEN):
        bob = await RawClient.open(server.port)
        await bob.login(token=server.token("bob"))
        scraped = await scrape(server.http_port)
    assert scraped.value("chatcore_accept_pauses_total", door="tcp") == 0
    assert scraped.value("chatcore_half_open_gave_way_total") > N_HALF_OPEN - 400
    assert scraped.value("chatcore_connections", state="ready") == 2
    for client in (ann, bob):
        await client.close()


async def test_an_address_that_guesses_is_refused_unseen(start_server: Start) -> None:
    server = start_server(unlimited_addresses=[], failed_login_burst=3)
    neighbours = await Neighbours(server).start()
    for _ in range(3):
        client = await RawClient.open(server.uri)
        client.hello(token="guess")
        assert (await closed_with(client))[0] == "bad_token"
        await client.close()
    client = await RawClient.open(server.uri)
    client.hello(token=server.token("ann"))  # as good as it is: the address has to wait
    name, retry_after_ms = await closed_with(client)
    assert name == "rate_limited"
    assert 0 < retry_after_ms <= 1000
    await client.close()
    assert server.counted("logins_failed_bad_token") == 3
    assert server.counted("logins_failed_rate_limited") == 1
    await neighbours.unharmed()
    await eventually_answers(lambda: is_welcome(server, "ann"), bool)  # after the wait
    await neighbours.stop()


async def test_how_soon_an_address_may_guess_again(start_server: Start) -> None:
    server = start_server(unlimited_addresses=[], failed_login_burst=1, failed_logins_per_second=2)
    first, second = await RawClient.open(server.uri), await RawClient.open(server.uri)
    first.hello(token="guess")
    assert (await closed_with(first))[0] == "bad_token"
    second.hello(token="guess")
    name, retry_after_ms = await closed_with(second)
    assert name == "rate_limited"
    assert 0 < retry_after_ms <= 500
    for client in (first, second):
        await client.close()


async def test_an_address_without_limits_may_fail_for_ever(start_server: Start) -> None:
    server = start_server(failed_login_burst=1)
    for _ in range(5):
        client = await RawClient.open(server.uri)
        client.hello(token="guess")
        assert (await closed_with(client))[0] == "bad_token"
        await client.close()


async def test_too_many_connections_of_an_address(start_server: Start) -> None:
    server = start_server(unlimited_addresses=["10.0.0.0/8"], connections_per_address=8)
    neighbours = await Neighbours(server, 5).start()
    more = [await RawClient.open(server.uri) for _ in range(3)]
    for client in more:
        await client.login(token=server.token("mallory"))
    refused = await RawClient.open(server.uri)
    assert await closed_with(refused) == ("too_many_connections", 1000)
    await neighbours.unharmed()
    for client in (refused, *more):
        await client.close()
    await until(lambda: server.counted("connections") == 5)
    assert server.counted("connections_refused_by_address") == 1
    await neighbours.stop()


async def test_an_address_that_connects_too_fast(start_server: Start) -> None:
    server = start_server(unlimited_addresses=[], accepts_per_second=1, accept_burst=8)
    neighbours = await Neighbours(server, 5).start()
    opened = [await RawClient.open(server.uri) for _ in range(3)]
    late = await RawClient.open(server.uri)
    name, retry_after_ms = await closed_with(late)
    assert name == "too_many_connections"
    assert 0 < retry_after_ms <= 1000
    await neighbours.unharmed()
    for client in (late, *opened):
        await client.close()
    await neighbours.stop()


async def test_a_room_that_is_full(start_server: Start) -> None:
    server = start_server(room_members=2)
    ann, bob, cid = [await server.login(name) for name in ("ann", "bob", "cid")]
    await ann.client.join("room:small")
    await bob.client.join("room:small")
    with pytest.raises(ChannelFull) as caught:
        await cid.client.join("room:small")
    assert caught.value.retry
    await ann.client.join("room:small")  # who is in stays in
    late = await RawClient.open(server.uri)
    welcome = await late.login(token=server.token("dan"), channels={"room:small": 0, "room:other": 0})
    assert (list(welcome["channels"]), welcome["lost"]) == (["room:other"], {"room:small": ChannelFull.code})
    await late.close()
    await bob.client.leave("room:small")
    await cid.client.join("room:small")
    assert server.counted("refused_channel_full") == 1


async def test_many_at_once_do_not_overfill_a_room(start_server: Start) -> None:
    server = start_server(room_members=3)
    players = [await server.login(f"player{i}") for i in range(8)]
    answers = await asyncio.gather(*(each.client.join("room:small") for each in players), return_exceptions=True)
    assert sum(isinstance(answer, ChannelFull) for answer in answers) == 5


async def test_a_player_who_joins_and_leaves_without_end(start_server: Start) -> None:
    server = start_server(joins_per_second=10, join_burst=20)
    neighbours = await Neighbours(server).start()
    phone, desk = await RawClient.open(server.uri), await RawClient.open(server.uri)
    answers = []
    for client in (phone, desk):
        await client.login(token=server.token("mallory"))
        for _ in range(15):
            answers.append(await client.request(Operation.JOIN, channel="room:door"))
            await client.request(Operation.LEAVE, channel="room:door")
        await client.close()
    assert 5 <= answers.count("rate_limited") <= 10, "20 at once for both together"
    mallory = await server.login("mallory")
    with pytest.raises(RateLimited) as caught:
        for i in range(30):
            await mallory.client.join(f"room:door{i}")
    assert 0 < caught.value.retry_after_ms <= 100
    await neighbours.unharmed()
    await neighbours.stop()


async def test_a_player_who_goes_away_and_comes_back_without_end(start_server: Start) -> None:
    """Each change is told to everybody in the player's channels."""
    server = start_server(presences_per_second=1, presence_burst=6)
    neighbours = await Neighbours(server).start()
    ann = await server.login("ann")
    await ann.client.join("room:door")
    phone, desk = await RawClient.open(server.uri), await RawClient.open(server.uri)
    answers = []
    for client in (phone, desk):
        await client.login(token=server.token("mallory"), channels={"room:door": 0})
        for presence in ("away", "away", "online", "away", "online"):
            answers.append(await client.request(Operation.SET_PRESENCE, presence=presence))
    assert 2 <= answers.count("rate_limited") <= 4, "6 at once for both together"
    assert answers[:6].count("rate_limited") == 0
    await until(lambda: len(ann.told(PresenceEvent, player="mallory")) >= 4)
    told = [event.presence for event in ann.told(PresenceEvent, player="mallory")]
    assert told == ["away", "online"] * 2, "where nothing is new, nothing is told"
    mallory = await server.login("mallory")
    with pytest.raises(RateLimited) as caught:
        for _ in range(9):
            await mallory.client.set_presence("away")
    assert 0 < caught.value.retry_after_ms <= 1000
    for client in (phone, desk):
        await client.close()
    await neighbours.unharmed()
    await neighbours.stop()
