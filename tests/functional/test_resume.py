"""HELLO, tickets and resumes, frame by frame."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from chatcore.operations import Operation
from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]
GUILD = "group:guild"
CHAT = "dm:ann:bob"


def n_connections(server: LocalServer) -> int:
    return server.do(lambda worker: worker.hub.counters()["connections"])


async def dropped(server: LocalServer, client: RawClient) -> None:
    """The connection is gone and the server knows."""
    before = n_connections(server)
    await client.close()
    await until(lambda: n_connections(server) < before)


async def test_welcome_says_what_a_client_needs(server: LocalServer, open_raw: OpenRaw) -> None:
    ann = await open_raw(server)
    welcome = await ann.login(token=server.token("ann"), client="test 1")
    assert (welcome["player"], welcome["resumed"], welcome["channels"], welcome["lost"]) == ("ann", False, {}, {})
    assert welcome["session"] > 0
    assert 0 < len(welcome["ticket"]) <= 1024
    assert welcome["ticket_ms"] == 240_000  # four fifths of the replay window
    assert welcome["epoch"]
    assert welcome["limits"] == {
        "frame_bytes": 4096,
        "body_bytes": 4000,
        "unacked_sends": 128,
        "channels": 256,
        "frames_per_second": 100,
        "frame_burst": 400,
    }
    assert (welcome["heartbeat_ms"], welcome["heartbeat_grace_ms"]) == (30_000, 45_000)
    assert welcome["server"].startswith("chatcore ")


async def test_who_is_not_let_in(server: LocalServer, open_raw: OpenRaw) -> None:
    hellos: list[tuple[dict[str, Any], str]] = [
        ({}, "bad_token"),
        ({"token": "x.y.z"}, "bad_token"),
        ({"token": server.token("ann", lifetime_s=-5)}, "token_expired"),
        ({"ticket": b"forged"}, "bad_ticket"),
        ({"token": 7}, "bad_request"),
        ({"channels": {"room:x": -1}, "token": 5}, "bad_request"),
    ]
    for hello, name in hellos:
        client = await open_raw(server)
        client.hello(**hello)
        assert await client.closed_by() == name
    assert n_connections(server) == 0


async def test_a_ticket_resumes_the_session_with_its_channels(server: LocalServer, open_raw: OpenRaw) -> None:
    ann = await open_raw(server)
    first = await ann.login(token=server.token("ann"))
    joined = await ann.request(Operation.JOIN, channel="room:x")
    ann.send(1, joined["number"], b"hello")
    _, id, _ = await ann.ack()
    await dropped(server, ann)
    again = await open_raw(server)
    held = {"room:x": id, "room:y": 0, "lobby": 0, "dm:bob:cid": 0, GUILD: 0}
    second = await again.login(ticket=first["ticket"], channels=held)
    assert (second["session"], second["resumed"]) == (first["session"], True)
    assert {name: state[1] for name, state in second["channels"].items()} == {"room:x": id, "room:y": 0}
    assert second["channels"]["room:x"][2] != 0
    assert second["lost"] == {
        "lobby": ErrorCode.ERROR_BAD_NAME,
        "dm:bob:cid": ErrorCode.ERROR_NOT_ALLOWED,
        GUILD: ErrorCode.ERROR_NO_SUCH_CHANNEL,
    }
    again.send(2, second["channels"]["room:x"][0], b"on it goes")
    assert (await again.delivery())[7] == b"on it goes"


async def test_a_forged_or_old_ticket_falls_back_to_the_token(server: LocalServer, open_raw: OpenRaw) -> None:
    ann = await open_raw(server)
    first = await ann.login(token=server.token("ann"))
    forged = bytearray(first["ticket"])
    forged[-1] ^= 1
    other = await open_raw(server)
    welcome = await other.login(ticket=bytes(forged), token=server.token("ann"), channels={"room:x": 5})
    assert not welcome["resumed"]
    assert welcome["session"] != first["session"]
    assert list(welcome["channels"]) == ["room:x"]


async def test_a_ticket_ends_with_its_token(start_server: Any, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(authentication={"leeway": 0})
    ann = await open_raw(server)
    welcome = await ann.login(token=server.token("ann", lifetime_s=2))
    assert 0 < welcome["ticket_ms"] <= 2000


async def test_a_resume_takes_the_connection_over(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, bob = await open_raw(server), await open_raw(server)
    await bob.login(token=server.token("bob"))
    await bob.request(Operation.JOIN, channel="room:x")
    first = await ann.login(token=server.token("ann"), channels={"room:x": 0})
    await bob.event("joined")
    again = await open_raw(server)
    assert (await again.login(ticket=first["ticket"], channels={"room:x": 0}))["resumed"]
    assert await ann.closed_by() == "session_replaced"  # two clients with one ticket do not go on for ever
    await bob.request(Operation.BLOCKS)
    assert not bob.taken(FrameType.FRAME_EVENT)  # nobody came and nobody went


async def test_what_is_not_rejoined_is_left(server: LocalServer, open_raw: OpenRaw) -> None:
    ann, bob = await open_raw(server), await open_raw(server)
    await bob.login(token=server.token("bob"), channels={"room:x": 0})
    first = await ann.login(token=server.token("ann"), channels={"room:x": 0})
    await bob.event("joined")
    await dropped(server, ann)
    again = await open_raw(server)
    await again.login(ticket=first["ticket"])
    assert (await bob.event("left"))["player"] == "ann"


async def test_logout_voids_the_ticket(server: LocalServer, open_raw: OpenRaw) -> None:
    ann = await open_raw(server)
    first = await ann.login(token=server.token("ann"))
    assert await ann.request(Operation.LOGOUT) == {}
    assert await ann.closed_by() == "logged_out"
    again = await open_raw(server)
    again.hello(ticket=first["ticket"])
    assert await again.closed_by() == "bad_ticket"


async def test_a_new_ticket_follows_the_joins_that_it_vouches_for(server: LocalServer, open_raw: OpenRaw) -> None:
    ann = await open_raw(server)
    await ann.login(token=server.token("ann"))
    await ann.request(Operation.CREATE_GROUP, channel=GUILD)
    await ann.request(Operation.JOIN, channel=GUILD)
    await ann.request(Operation.JOIN, channel=CHAT)
    ticket = (await ann.event("ticket"))["ticket"]
    await dropped(server, ann)
    again = await open_raw(server)
    welcome = await again.login(ticket=ticket, channels={GUILD: 0, CHAT: 0})
    assert set(welcome["channels"]) == {GUILD, CHAT}


async def test_a_ticket_does_not_vouch_for_what_changed_since(server: LocalServer, open_raw: OpenRaw) -> None:
    owner = await server.login("owner")
    bob = await server.login("bob")
    await owner.client.create_group(GUILD)
    await owner.client.add_member(GUILD, "ann")
    ann = await open_raw(server)
    await ann.login(token=server.token("ann"))
    await ann.request(Operation.JOIN, channel=GUILD)
    await ann.request(Operation.JOIN, channel=CHAT)
    ticket = (await ann.event("ticket"))["ticket"]
    await dropped(server, ann)
    await owner.client.remove_member(GUILD, "ann")
    await bob.client.block("ann")
    again = await open_raw(server)
    welcome = await again.login(ticket=ticket, channels={GUILD: 0, CHAT: 0})
    assert welcome["resumed"]
    assert welcome["lost"] == {GUILD: ErrorCode.ERROR_NOT_ALLOWED, CHAT: ErrorCode.ERROR_BLOCKED}


async def test_a_ticket_is_renewed_before_it_is_old(start_server: Any, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(log={"replay_window": "1500ms"})
    ann = await open_raw(server)
    first = await ann.login(token=server.token("ann"))
    assert first["ticket_ms"] == 1200
    ticket = b""
    for _ in range(4):
        event = await ann.event("ticket")
        assert event["ticket_ms"] == 1200
        ticket = event["ticket"]
    await dropped(server, ann)
    old = await open_raw(server)
    old.hello(ticket=first["ticket"])
    assert await old.closed_by() == "bad_ticket"
    again = await open_raw(server)
    assert (await again.login(ticket=ticket))["session"] == first["session"]


async def test_grants_survive_the_resume(server: LocalServer, open_raw: OpenRaw) -> None:
    ann = await open_raw(server)
    first = await ann.login(token=server.token("ann", channels=["room:x"]), channels={"room:x": 0, "room:y": 0})
    assert (list(first["channels"]), list(first["lost"])) == (["room:x"], ["room:y"])
    await dropped(server, ann)
    again = await open_raw(server)
    await again.login(ticket=first["ticket"])
    assert await again.request(Operation.JOIN, channel="room:y") == "not_allowed"
    assert (await again.request(Operation.JOIN, channel="room:x"))["head"] == 0


async def test_hundred_logins_of_one_player_at_once(start_server: Any, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(sessions={"sessions_per_player": 5})
    clients = [await open_raw(server) for _ in range(100)]
    token = server.token("ann")
    for client in clients:
        client.hello(token=token)
    kinds = [(await client.next(FrameType.FRAME_WELCOME, FrameType.FRAME_CLOSE))[0] for client in clients]
    assert kinds.count(FrameType.FRAME_WELCOME) == 5
    await asyncio.gather(*(client.close() for client in clients))
