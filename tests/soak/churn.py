"""Players who come and go, well-behaved and not, at a bounded rate: what a soak runs against a server.

Scenarios are short and independent, drawn by a seed. Each knows what it must be answered; anything else is a failure.
Names come from pools, because a server rightly remembers names, in its file and for a while in memory: what is looked
for is what it keeps of connections.
"""

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from chatcore import Client
from chatcore.errors import ChatError
from chatcore.names import direct_channel
from chatcore.operations import Operation
from chatcore_ext.constants import FrameType
from chatcore_ext.frame import decode_error, encode_frame, encode_send
from support.raw import RawClient

PLAYERS = 200
ROOMS = 20
GROUPS = 10
MAX_UNDER_WAY = 200  # scenarios; a server that is slower than the rate is not flooded
SCENARIO_DEADLINE_S = 30.0
# What the limits say to a pool of players who come by chance: several at once may be the same one.
REFUSALS = {"rate_limited", "too_many_sessions", "overloaded"}

Scenario = Callable[["Churn"], Awaitable[None]]


class Churn:
    def __init__(self, port: int, token: Callable[[str], str], seed: int) -> None:
        self.counts: Counter[str] = Counter()  # scenarios that ended, and refusals
        self.failures: list[str] = []
        self.n_connections = 0
        self._port = port
        self._token = token
        self._random = random.Random(seed)
        self._under_way: set[asyncio.Task[None]] = set()
        self._groups = [asyncio.Lock() for _ in range(GROUPS)]
        self._founded: set[int] = set()

    async def run(self, seconds: float, rate: float) -> None:
        """Start `rate` scenarios a second, and return when all have ended."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        due = loop.time()
        while due < end:
            due += self._random.expovariate(rate)
            await asyncio.sleep(max(0.0, due - loop.time()))
            if len(self._under_way) >= MAX_UNDER_WAY:
                self.counts["skipped"] += 1
                continue
            scenario = self._random.choices(list(SCENARIOS), list(SCENARIOS.values()))[0]
            task = asyncio.create_task(self._play(scenario))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)
        await asyncio.gather(*self._under_way)

    async def _play(self, scenario: Scenario) -> None:
        name = getattr(scenario, "__name__", "")
        try:
            async with asyncio.timeout(SCENARIO_DEADLINE_S):
                await scenario(self)
        except ChatError as error:
            if error.name not in REFUSALS:
                self.failures.append(f"{name}: {error}")
            self.counts[f"refused {error.name}"] += 1
        except Exception as error:
            self.failures.append(f"{name}: {error!r}")
        self.counts[name] += 1

    # ---- Those who behave --------------------------------------------------------------------------------------------

    def _name(self) -> str:
        return f"soak-{self._random.randrange(PLAYERS)}"

    def _room(self) -> str:
        return f"room:soak-{self._random.randrange(ROOMS)}"

    def _client(self, name: str) -> Client:
        self.n_connections += 1
        return Client(port=self._port, token=self._token(name))

    async def visit(self) -> None:
        """Join, talk, read back, leave or not, log out or not."""
        async with self._client(self._name()) as client:
            room = self._room()
            await client.join(room)
            client.typing(room)
            receipts = [await client.send(room, f"hello {i}") for i in range(self._random.randrange(1, 4))]
            entries = await client.history(room, limit=20)
            if not {receipt.id for receipt in receipts} & {entry.id for entry in entries} and len(entries) < 20:
                self.failures.append(f"visit: {room} does not remember what was acknowledged")
            if self._random.random() < 0.5:
                await client.leave(room)
            if self._random.random() < 0.5:
                await client.logout()

    async def private(self) -> None:
        i = self._random.randrange(PLAYERS)
        first, second = f"soak-{i}", f"soak-{(i + 1) % PLAYERS}"  # as many chats as players, not as pairs of them
        async with self._client(first) as one, self._client(second) as other:
            await one.send_direct(second, "psst")
            receipt = await other.send_direct(first, "yes?")
            await one.mark_read(direct_channel(first, second), receipt.id)
            await other.conversations()
            await other.block(first)
            await other.unblock(first)

    async def group(self) -> None:
        i = self._random.randrange(GROUPS)
        owner, member, channel = f"owner-{i}", f"member-{i}", f"group:soak-{i}"
        async with self._groups[i], self._client(owner) as one, self._client(member) as other:
            if i not in self._founded:  # the name of a group that has ended is never given again
                await one.create_group(channel)
                self._founded.add(i)
            await one.join(channel)
            await one.add_member(channel, member)
            await other.join(channel)
            await one.send(channel, "welcome")
            await one.set_role(channel, member, "officer")
            await other.send(channel, "thanks")
            await (one.remove_member(channel, member) if self._random.random() < 0.5 else other.leave_group(channel))

    # ---- Those whose network does not --------------------------------------------------------------------------------

    async def _open(self) -> RawClient:
        self.n_connections += 1
        return await RawClient.open(self._port)

    async def resume(self) -> None:
        """Cut off in the middle, again and again, and back by the ticket."""
        client = await self._open()
        client.hello(token=self._token(self._name()))
        kind, body = await client.next(FrameType.FRAME_WELCOME, FrameType.FRAME_CLOSE)
        if kind == FrameType.FRAME_CLOSE:
            raise _refusal(body)
        ticket = msgspec.msgpack.decode(body)["ticket"]
        for _ in range(self._random.randrange(1, 4)):
            await client.request(Operation.JOIN, channel=self._room())
            client.writer.write(encode_send(1, 1, 0, b"x" * 100)[: self._random.randrange(1, 117)])
            _abort(client)
            client = await self._open()
            welcome = await client.login(ticket=ticket)
            if not welcome["resumed"]:
                self.failures.append("resume: a new session in place of the old one")
            ticket = welcome["ticket"]
        if self._random.random() < 0.5:
            await client.request(Operation.LOGOUT)
        await client.close()

    async def half_open(self) -> None:
        """Nothing, or a part of HELLO, and then gone or reset."""
        _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.n_connections += 1
        writer.write(encode_frame(FrameType.FRAME_HELLO, bytes(40))[: self._random.randrange(40)])
        await asyncio.sleep(self._random.random())
        if self._random.random() < 0.5:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    # ---- Those who mean no good --------------------------------------------------------------------------------------

    async def noise(self) -> None:
        client = await self._open()
        client.writer.write(self._random.randbytes(200))
        await _until_the_end(client)

    async def false_token(self) -> None:
        client = await self._open()
        client.hello(token=f"a.{self._random.randrange(10**6)}.b")
        assert await client.closed_by() == "bad_token"
        await client.close()

    async def flood(self) -> None:
        client = await self._open()
        client.hello(token=self._token(f"flood-{self._random.randrange(PLAYERS)}"))
        kind, _ = await client.next(FrameType.FRAME_WELCOME, FrameType.FRAME_CLOSE)
        if kind == FrameType.FRAME_WELCOME:
            client.writer.write(encode_send(1, 1, 0, b"x" * 100) * 3000)
        await _until_the_end(client)


def _abort(client: RawClient) -> None:
    assert isinstance(client.writer, asyncio.StreamWriter)
    client.writer.transport.abort()


async def _until_the_end(client: RawClient) -> None:
    try:
        assert await client.closed_by()
    except (EOFError, ConnectionError):  # its end came before we had read why
        pass
    await client.close()


def _refusal(body: bytes) -> ChatError:
    code, flags, retry_after_ms, name, message = decode_error(body)
    return ChatError(message, code=code, flags=flags, retry_after_ms=retry_after_ms, name=name)


SCENARIOS: dict[Scenario, int] = {
    Churn.visit: 30,
    Churn.private: 8,
    Churn.group: 4,
    Churn.resume: 15,
    Churn.half_open: 15,
    Churn.noise: 6,
    Churn.false_token: 6,
    Churn.flood: 2,
}
