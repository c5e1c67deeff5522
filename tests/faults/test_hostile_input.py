"""Bytes, tokens and requests of clients that mean no good: each ends with its named code and is counted, and players
who chat on the same server all the while notice nothing.

One server for a whole table, and a table for every door. What else a hostile client can do is in
test_hostile_crowds.py, what can befall the machine in test_hostile_machine.py.
"""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
import pytest_asyncio

from chatcore.operations import Operation
from chatcore_ext.constants import FrameType
from chatcore_ext.frame import encode_frame, encode_hello, encode_request
from chatcore_server.authentication import data_secret, development_token_key
from support.neighbours import ROOM, Neighbours
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

LIMITS = {"hello_timeout": "400ms", "heartbeat": "500ms", "heartbeat_grace": "300ms"}
Attack = Callable[["Attacker"], Awaitable[None]]
# What is done, and the counter that tells of it.
Row = tuple[Attack, str]


class Attacker:
    """Opens connections to the server, all of which are closed at the end."""

    def __init__(self, server: LocalServer) -> None:
        self.server = server
        self._clients: list[RawClient] = []

    async def connect(self) -> RawClient:
        self._clients.append(await RawClient.open(self.server.uri))
        return self._clients[-1]

    async def log_in(self, *channels: str) -> tuple[RawClient, dict[str, Any]]:
        client = await self.connect()
        return client, await client.login(token=self.server.token("mallory"), channels=dict.fromkeys(channels, 0))

    async def in_room(self) -> tuple[RawClient, int]:
        """In the neighbours' room, and the room's number."""
        client, welcome = await self.log_in(ROOM)
        return client, welcome["channels"][ROOM][0]

    @property
    def key(self) -> bytes:
        return development_token_key(data_secret(self.server.folder))

    def signed(self, algorithm: str = "HS256", key: bytes | None = None, **claims: Any) -> str:
        now = int(time.time())
        return jwt.encode(
            {"sub": "mallory", "exp": now + 600, **claims}, self.key if key is None else key, algorithm=algorithm
        )

    async def close(self) -> None:
        for client in self._clients:
            await client.close()


@pytest_asyncio.fixture
async def server(door: str, tmp_path: Path) -> AsyncIterator[LocalServer]:
    server = LocalServer(tmp_path / "data", {"limits": LIMITS}, door).start()
    yield server
    await server.stop()


async def run_table(server: LocalServer, table: list[Row]) -> None:
    neighbours = await Neighbours(server).start()
    for attack, counter in table:
        before = server.counted(counter)
        attacker = Attacker(server)
        try:
            await attack(attacker)
            await until(
                lambda counter=counter, before=before: (  # type: ignore[misc]
                    server.counted(counter) > before
                ),
                f"{counter} counts {attack.__name__}",
            )
        except Exception as error:
            raise AssertionError(attack.__name__) from error
        finally:
            await attacker.close()
        await neighbours.unharmed()
    await neighbours.stop()


# ---- Bytes -----------------------------------------------------------------------------------------------------------


def closed_by(name: str, data: bytes, *, after_welcome: bool) -> Attack:
    async def attack(attacker: Attacker) -> None:
        client = (await attacker.log_in())[0] if after_welcome else await attacker.connect()
        client.writer.write(data)
        assert await client.closed_by() == name

    attack.__name__ = f"{data[:16]!r}, {'after' if after_welcome else 'before'} WELCOME"
    return attack


PING = encode_frame(FrameType.FRAME_PING, bytes(8))
CLOSING: list[tuple[str, bytes, bool]] = [
    ("frame_too_large", b"GET / HTTP/1.1\r\nHost: chat.example\r\n\r\n", False),  # garbage
    ("frame_too_large", bytes(range(255, 0, -1)) * 20, False),
    ("unexpected_frame", bytes(4096), False),
    ("frame_too_large", b"\xff\xff\xff\x01", False),  # oversized length
    ("frame_too_large", b"\0\x10\x01\x10", True),
    ("unexpected_frame", b"\0\0\0\xee", False),  # unknown opcode
    ("unknown_frame", b"\0\0\0\xee", True),
    ("unexpected_frame", PING, False),  # a valid frame before HELLO
    ("unexpected_frame", encode_request(1, Operation.JOIN, b"\x80"), False),
    ("unexpected_frame", encode_hello(1, b"\x80") + PING, False),
    ("unexpected_frame", encode_hello(1, b"\x80"), True),  # a second HELLO
    ("malformed_frame", encode_frame(FrameType.FRAME_HELLO, b"tahc\x01\0\0\0\x80"), False),
    ("unsupported_version", encode_hello(2, b"\x80"), False),
    ("malformed_frame", encode_frame(FrameType.FRAME_PING, bytes(7)), True),
    ("malformed_frame", encode_frame(FrameType.FRAME_SEND, bytes(12)), True),
    ("unexpected_frame", encode_frame(FrameType.FRAME_DELIVER, bytes(38)), True),
]


async def truncated_hello_and_silence(attacker: Attacker) -> None:
    client = await attacker.connect()
    client.writer.write(encode_hello(1, bytes(100))[:50])
    assert await client.closed_by() == "hello_timeout"


async def truncated_frame_and_silence(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    client.writer.write(PING[:-1])
    assert await client.closed_by() == "heartbeat_timeout"


async def trickle(client: RawClient, data: bytes) -> str:
    """Byte by byte until the server has had enough."""
    ending = asyncio.create_task(client.closed_by())
    for byte in data:
        if ending.done():
            break
        client.writer.write(bytes([byte]))
        await asyncio.sleep(0.02)  # the pace of the attack
    return await ending


async def hello_byte_by_byte(attacker: Attacker) -> None:
    assert await trickle(await attacker.connect(), encode_hello(1, bytes(500))) == "hello_timeout"


async def frame_byte_by_byte(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    assert await trickle(client, encode_request(1, Operation.JOIN, bytes(2000))) == "heartbeat_timeout"


async def test_hostile_bytes(server: LocalServer) -> None:
    table: list[Row] = [(closed_by(name, data, after_welcome=after), f"closed_{name}") for name, data, after in CLOSING]
    table += [
        (truncated_hello_and_silence, "closed_hello_timeout"),
        (truncated_frame_and_silence, "closed_heartbeat_timeout"),
        (hello_byte_by_byte, "closed_hello_timeout"),
        (frame_byte_by_byte, "closed_heartbeat_timeout"),
    ]
    await run_table(server, table)


# ---- Tokens and tickets ----------------------------------------------------------------------------------------------


def refused_login(label: str, name: str, make: Callable[[Attacker], dict[str, Any]]) -> Row:
    async def attack(attacker: Attacker) -> None:
        client = await attacker.connect()
        client.hello(**make(attacker))
        assert await client.closed_by() == name

    attack.__name__ = label
    return attack, f"logins_failed_{name}"


def unsigned_token(attacker: Attacker) -> str:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'sub': 'mallory', 'exp': 2**31})}."


async def hello_that_is_no_map(attacker: Attacker) -> None:
    client = await attacker.connect()
    client.writer.write(encode_hello(1, b"\x93\x01\x02\x03"))
    assert await client.closed_by() == "bad_request"


async def forged_ticket(attacker: Attacker) -> None:
    client, welcome = await attacker.log_in()
    ticket = bytearray(welcome["ticket"])
    for i in (0, 40, len(ticket) - 1):
        ticket[i] ^= 1
        forger = await attacker.connect()
        forger.hello(ticket=bytes(ticket))
        assert await forger.closed_by() == "bad_ticket"
        ticket[i] ^= 1
    assert (await client.request(Operation.BLOCKS)) == {"players": []}, "its owner noticed nothing"


async def ticket_after_logout(attacker: Attacker) -> None:
    client, welcome = await attacker.log_in()
    client.ask(Operation.LOGOUT)
    assert await client.closed_by() == "logged_out"
    replay = await attacker.connect()
    replay.hello(ticket=welcome["ticket"])
    assert await replay.closed_by() == "bad_ticket"


async def ticket_while_it_is_in_use(attacker: Attacker) -> None:
    """Whoever has the ticket is the session. It has one connection at a time, and the older one is told."""
    client, welcome = await attacker.log_in()
    replay = await attacker.connect()
    assert (await replay.login(ticket=welcome["ticket"]))["session"] == welcome["session"]
    assert await client.closed_by() == "session_replaced"


async def test_hostile_logins(server: LocalServer) -> None:
    await run_table(
        server,
        [
            refused_login("nothing", "bad_token", lambda attacker: {}),
            refused_login("no token at all", "bad_token", lambda attacker: {"token": "a.b.c"}),
            refused_login("another key", "bad_token", lambda attacker: {"token": attacker.signed(key=bytes(32))}),
            refused_login(
                "another algorithm", "bad_token", lambda attacker: {"token": attacker.signed("HS512", 2 * attacker.key)}
            ),
            refused_login("alg none", "bad_token", lambda attacker: {"token": unsigned_token(attacker)}),
            refused_login("expired", "token_expired", lambda attacker: {"token": attacker.signed(exp=1_700_000_000)}),
            refused_login("not yet valid", "bad_token", lambda attacker: {"token": attacker.signed(nbf=2**33)}),
            refused_login("another audience", "bad_token", lambda attacker: {"token": attacker.signed(aud="shop")}),
            refused_login("NUL in the name", "bad_token", lambda attacker: {"token": attacker.signed(sub="ann\0")}),
            refused_login("look-alike name", "bad_token", lambda attacker: {"token": attacker.signed(sub="\u0430nn")}),
            refused_login("a ticket of nobody", "bad_ticket", lambda attacker: {"ticket": bytes(200)}),
            (hello_that_is_no_map, "logins_failed_bad_request"),
            (forged_ticket, "logins_failed_bad_ticket"),
            (ticket_after_logout, "logins_failed_bad_ticket"),
            (ticket_while_it_is_in_use, "closed_session_replaced"),
        ],
    )


# ---- Requests, sends, names ------------------------------------------------------------------------------------------


def refused_join(label: str, name: str, channel: bytes) -> Row:
    """`channel`: MessagePack's str, whatever it holds."""

    async def attack(attacker: Attacker) -> None:
        client, _ = await attacker.log_in()
        size = len(channel)
        text = bytes([0xA0 | size]) if size < 32 else b"\xda" + size.to_bytes(2, "big")
        client.writer.write(encode_request(7, Operation.JOIN, b"\x81\xa7channel" + text + channel))
        assert await client.answer() == (7, name)
        assert await client.request(Operation.BLOCKS) == {"players": []}, "it may go on"

    attack.__name__ = label
    return attack, f"refused_{name}"


async def name_of_10_kb(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    client.ask(Operation.JOIN, channel="room:" + "x" * 10_000)
    assert await client.closed_by() == "frame_too_large"


async def send_to_a_channel_not_joined(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    for number in (0, 1, 2**32 - 1):
        client.send(1, number, b"hello")
        assert (await client.refusal())[:2] == (1, "not_joined")


async def seq_that_goes_backwards(attacker: Attacker) -> None:
    client, number = await attacker.in_room()
    client.send(1000, number, b"neighbour-of-mallory 1")
    await client.ack()
    client.send(800, number, b"neighbour-of-mallory 2")
    assert (await client.refusal())[:2] == (800, "bad_seq")


async def seq_that_leaps(attacker: Attacker) -> None:
    """It may; what lies below is spent, which harms nobody else."""
    client, number = await attacker.in_room()
    client.send(2**64 - 1, number, b"leaping-mallory 1")
    assert (await client.ack())[0] == 2**64 - 1
    client.send(1, number, b"leaping-mallory 2")
    assert (await client.refusal())[:2] == (1, "bad_seq")


async def sync_from_the_future(attacker: Attacker) -> None:
    client, _ = await attacker.in_room()
    answer = await client.request(Operation.SYNC, channel=ROOM, after=2**62)
    assert (answer["entries"], answer["more"]) == ([], False)
    assert 0 < answer["head"] < 2**62
    assert await client.request(Operation.SYNC, channel=ROOM, after=2**64 - 1) == "bad_request"


async def join_of_more_channels_than_allowed(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    answers = [await client.request(Operation.JOIN, channel=f"room:many{i}") for i in range(260)]
    assert [answer for answer in answers if isinstance(answer, str)] == ["too_many_channels"] * 4


async def joins_of_10_000_channels(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    body = msgspec.msgpack.encode
    client.writer.write(
        b"".join(encode_request(i, Operation.JOIN, body({"channel": f"room:{i}"})) for i in range(10_000))
    )
    assert await client.closed_by() == "rate_limited"


async def flood_of_pings(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    client.writer.write(PING * 10_000)
    assert await client.closed_by() == "rate_limited"


async def flood_of_sends_to_nowhere(attacker: Attacker) -> None:
    client, _ = await attacker.log_in()
    for seq in range(1, 5000):
        client.send(seq, 77, b"")
    assert await client.closed_by() == "rate_limited"


async def receiver_that_never_reads(attacker: Attacker) -> None:
    """And asks for ever more. What the kernel does not take waits, up to a bound."""
    client, welcome = await attacker.log_in("room:long")
    for seq in range(1, 21):
        client.send(seq, welcome["channels"]["room:long"][0], bytes(3900))
        await client.ack()
    deaf = await attacker.connect()
    deaf.hello(token=attacker.server.token("deaf"))
    await until(lambda: attacker.server.do(lambda worker: worker.hub.is_online(b"deaf")))
    for _ in range(350):
        deaf.ask(Operation.SYNC, channel="room:long", limit=500)
    await until(lambda: attacker.server.counted("closed_slow_receiver") > 0, deadline_s=20)


async def test_hostile_requests(server: LocalServer) -> None:
    await run_table(
        server,
        [
            refused_join("no UTF-8", "bad_request", b"room:\xff\xfe"),
            refused_join("NUL", "bad_name", b"room:a\0b"),
            refused_join("look-alike letters", "bad_name", "room:\u0440\u0430ypal".encode()),
            refused_join("invisible letters", "bad_name", "room:a\u200bb".encode()),
            refused_join("other direction", "bad_name", "room:\u202egnp".encode()),
            refused_join("a name of 65 letters", "bad_name", b"room:" + b"x" * 65),
            refused_join("a name of 3 kB", "bad_name", b"room:" + b"x" * 3000),
            (name_of_10_kb, "closed_frame_too_large"),
            (send_to_a_channel_not_joined, "refused_not_joined"),
            (seq_that_goes_backwards, "refused_bad_seq"),
            (seq_that_leaps, "refused_bad_seq"),
            (sync_from_the_future, "refused_bad_request"),
            (join_of_more_channels_than_allowed, "refused_too_many_channels"),
        ],
    )


FLOODS: list[Row] = [
    (joins_of_10_000_channels, "closed_rate_limited"),
    (flood_of_pings, "closed_rate_limited"),
    (flood_of_sends_to_nowhere, "closed_rate_limited"),
    (receiver_that_never_reads, "closed_slow_receiver"),
]


async def test_hostile_floods(door: str, tmp_path: Path) -> None:
    # Each by the same player, whose limits must not be used up by the flood before.
    plenty = {"player_frames_per_second": 100_000, "player_frame_burst": 100_000, "heartbeat": "30s"}
    server = LocalServer(tmp_path / "data", {"limits": {**LIMITS, **plenty}}, door).start()
    try:
        await run_table(server, FLOODS)
    finally:
        await server.stop()
