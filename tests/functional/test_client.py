"""The asyncio client against a model server on loopback, on plain asyncio and on uvloop."""

import asyncio
import contextlib
import io
import re
import socket
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop

import chatcore.client
from chatcore import Client, ConnectionLost, Message, Reconnect
from chatcore.errors import BadToken, BodyTooLarge, ChatError, NotAllowed, NotJoined, OutcomeUnknown, RateLimited
from chatcore.events import Connected, ConnectionClosed, Signal
from chatcore_ext.error_codes import ErrorCode
from support.model_door import ModelDoor
from support.players import until

ROOM = "room:lobby"
PROMPT = Reconnect(first_ms=5, limit_ms=50)
Test = Callable[[ModelDoor], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a coroutine function with a door, on each kind of loop; an error that nobody saw fails the test."""

    def run_test(test: Test) -> None:
        unseen: list[dict[str, object]] = []

        async def inside() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
            async with asyncio.timeout(10), ModelDoor() as door:
                await test(door)

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(inside())
        assert not unseen

    return run_test


def client_of(door: ModelDoor, player: str = "me", *, reconnect: Reconnect = PROMPT) -> Client:
    return Client("127.0.0.1", door.port, token=f"token:{player}", reconnect=reconnect)


async def take(client: Client, n: int) -> list[Message]:
    """The next n messages."""
    taken: list[Message] = []
    async for message in client:
        taken.append(message)
        if len(taken) == n:
            break
    return taken


def test_the_example_in_the_docstring(run: Callable[[Test], None]) -> None:
    example = textwrap.dedent(re.search(r"\n\n(    async with .*\n(?:     .*\n)+)", chatcore.client.__doc__ or "")[1])  # type: ignore[index]
    assert len(example.splitlines()) == 5

    async def test(door: ModelDoor) -> None:
        source = "async def example(Client, token):\n" + textwrap.indent(example, "    ")
        names: dict[str, Callable[..., Awaitable[None]]] = {}
        exec(source, {}, names)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown):
            running = asyncio.ensure_future(
                names["example"](lambda token: Client("127.0.0.1", door.port, token=token), "token:me")
            )
            await until(lambda: "me: hello\n" in shown.getvalue())
            running.cancel()
            await asyncio.wait([running])

    run(test)


def test_send_returns_when_durable(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client:
            await client.join(ROOM)
            door.holding = True
            sending = asyncio.create_task(client.send(ROOM, "hello"))
            await until(lambda: door.server.in_flight)
            assert not sending.done()
            door.release()
            receipt = await sending
            stored = door.server.channels[ROOM][0]
            assert (receipt.id, receipt.time) == (stored.id, stored.time)
            (message,) = await take(client, 1)
            assert (message.text, message.own, message.id) == ("hello", True, receipt.id)

    run(test)


def test_a_send_survives_cut_connections(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client:
            await client.join(ROOM)
            door.holding = True
            sends = [asyncio.create_task(client.send(ROOM, f"{n}")) for n in range(200)]
            for logins in range(2, 5):
                await until(lambda: door.server.in_flight)
                door.cut()
                await until(lambda logins=logins: door.logins >= logins and client.connected)  # type: ignore[misc]
            door.release()
            receipts = await asyncio.gather(*sends)
            assert len({receipt.id for receipt in receipts}) == 200
            assert [message.text for message in await take(client, 200)] == [f"{n}" for n in range(200)]
        assert len(door.server.channels[ROOM]) == 200

    run(test)


def test_what_was_said_while_away_shows(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client:
            await client.join(ROOM)
            await door.shut()
            for n in range(1200):  # more than a page of sync
                door.server.say(ROOM, "you", b"%d" % n)
            door.server.say("dm:me:you", "you", b"psst")
            await door.open()
            shown = await take(client, 1201)
            assert [message.text for message in shown if message.channel == ROOM] == [f"{n}" for n in range(1200)]
            assert [message.text for message in shown if message.channel != ROOM] == ["psst"]

    run(test)


def test_a_new_session_joins_again_and_tells_of_unknown_sends(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client:
            await client.join(ROOM)
            door.holding = True
            sending = asyncio.create_task(client.send(ROOM, "perhaps"))
            await until(lambda: door.server.in_flight)
            door.server.void_tickets()
            door.cut()
            with pytest.raises(OutcomeUnknown):
                await sending
            assert client.channels == [ROOM]
            door.release()
            await client.send(ROOM, "for sure")
            assert [message.text for message in await take(client, 2)] == ["perhaps", "for sure"]

    run(test)


def test_requests_outlive_a_connection(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client:
            door.server.deferring = True
            joining = asyncio.create_task(client.join(ROOM))
            await until(lambda: door.server.connections[0].requests)
            door.server.deferring = False
            door.cut()
            assert (await joining).channel == ROOM
            assert [member.player for member in await client.members(ROOM)] == ["me"]

    run(test)


def test_refusals_are_typed(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        door.server.banned.add(("me", "room:closed"))
        async with client_of(door) as client:
            with pytest.raises(NotAllowed):
                await client.join("room:closed")
            with pytest.raises(NotJoined):
                await client.send(ROOM, "too early")
            await client.join(ROOM)
            door.server.faults.sends_refused = 1
            with pytest.raises(RateLimited) as caught:
                await client.send(ROOM, "too much")
            assert caught.value.retry
            with pytest.raises(BodyTooLarge):
                await client.send(ROOM, "x" * 1001)
            assert (await client.send(ROOM, "fine")).id

    run(test)


def test_an_uncertain_refusal_is_asked_again(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client:
            await client.join(ROOM)
            door.server.faults.sends_uncertain = 2
            assert (await client.send(ROOM, "once")).id == door.server.channels[ROOM][0].id
        assert len(door.server.channels[ROOM]) == 1

    run(test)


def test_signals_and_history(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client, client_of(door, "you") as other:
            await client.join(ROOM)
            await other.join(ROOM)
            for n in range(5):
                await other.send(ROOM, f"{n}")
            other.typing(ROOM)
            signals = [event async for event in _until_signal(client)]
            assert (signals[-1].channel, signals[-1].sender, signals[-1].kind) == (ROOM, "you", 1)
            page = await client.history(ROOM, limit=2)
            assert [message.text for message in page] == ["3", "4"]
            assert [message.text for message in await client.history(ROOM, before=page[0].id)] == ["0", "1", "2"]

    async def _until_signal(client: Client) -> AsyncIterator[Signal]:
        async for event in client.events():
            if isinstance(event, Signal):
                yield event
                return

    run(test)


def test_a_slow_consumer_stops_the_reading_and_loses_nothing(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatcore.client.MAX_QUEUED_EVENTS", 100)

    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client:
            await client.join(ROOM)
            (writer,) = door._writers.values()
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for n in range(4000):
                door.server.say(ROOM, "you", b"%d" % n + b"x" * 300)
                if n % 100 == 0:
                    await asyncio.sleep(0)
            await until(lambda: client._connection and client._connection._is_paused)
            held_back = writer.transport.get_write_buffer_size()
            assert held_back > 100_000
            assert len(client._queue) < 3000
            await client.send(ROOM, "a call gets its answer all the same")
            assert writer.transport.get_write_buffer_size() == 0
            assert [message.id for message in await take(client, 4001)] == [
                stored.id for stored in door.server.channels[ROOM]
            ]

    run(test)


def test_a_bad_token_ends_it(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        with pytest.raises(BadToken):
            async with Client("127.0.0.1", door.port, token="wrong", reconnect=PROMPT):
                pass
        assert door.logins == 1

    run(test)


def test_a_token_source_is_asked_once_more(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        tokens = ["old", "token:me", "old", "old", "never"]

        async def renew() -> str:
            return tokens.pop(0)

        client = Client("127.0.0.1", door.port, token=renew, reconnect=PROMPT)
        await client.connect()
        assert (client.player, door.logins) == ("me", 2)
        door.server.void_tickets()
        door.cut()
        with pytest.raises(BadToken):
            async for _ in client.events():
                pass
        assert tokens == ["never"]
        await client.close()

    run(test)


def test_it_leaves_a_server_that_drains(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client, client_of(door, "other"):
            await client.join(ROOM)
            door.holding = True
            sending = asyncio.create_task(client.send(ROOM, "under way"))
            await until(lambda: door.server.in_flight)
            its, others = door.server.connections
            its.goaway(60_000, 20)
            others.goaway(100, 60_000)  # it leaves at the deadline: five times the window of the one under way
            await until(lambda: others not in door.server.connections)
            assert its in door.server.connections
            door.release()
            await sending
            await until(lambda: its not in door.server.connections and client.connected)
            assert (await client.send(ROOM, "over there")).id

    run(test)


def test_what_a_draining_server_refuses_is_done_by_the_next(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        async with client_of(door) as client:
            await client.join(ROOM)
            door.server.connections[0].goaway(60_000, 20, draining=True)
            _, _, receipt = await asyncio.gather(
                client.join("room:other"), client.members(ROOM), client.send(ROOM, "over there")
            )
            assert door.logins == 2
            assert receipt.id == door.server.channels[ROOM][0].id

    run(test)


def test_it_waits_as_long_as_the_server_asks(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        loop = asyncio.get_running_loop()
        async with client_of(door) as client:
            door.server.connections[0].close(ErrorCode.ERROR_OVERLOADED, retry_after_ms=300)
            closed_at = loop.time()
            await until(lambda: not client.connected)
            await until(lambda: client.connected)
            assert loop.time() - closed_at > 0.295  # uvloop's clock stands still for ms

    run(test)


def test_a_silent_server_is_left(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        door.server.heartbeat_ms = 30
        async with client_of(door) as client:
            await client.join(ROOM)
            await until(lambda: door.server.n_pings >= 5)  # it stays where it is answered
            assert door.logins == 1
            door.deafen()
            sending = asyncio.create_task(client.send(ROOM, "into the void"))
            await until(lambda: door.logins == 2)
            assert (await sending).id
            closed = [event async for event in _until_closed(client)][-1]
            assert closed.error
            assert closed.error.name == "server_silent"

    async def _until_closed(client: Client) -> AsyncIterator[ConnectionClosed]:
        async for event in client.events():
            if isinstance(event, ConnectionClosed):
                yield event
                return

    run(test)


def test_nobody_listens(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        client = client_of(door, reconnect=Reconnect(first_ms=1, limit_ms=5, attempts=3))
        await door.shut()
        with pytest.raises(ConnectionLost):
            await client.connect()
        await door.open()
        await client.connect()
        await client.join(ROOM)
        await door.shut()
        with pytest.raises(ConnectionLost):
            await client.send(ROOM, "to nobody")
        assert [type(event) for event in [event async for event in client.events()]] == [Connected, ConnectionClosed]
        await client.close()
        await door.open()

    run(test)


def test_closing_ends_everything_that_waits(run: Callable[[Test], None]) -> None:
    async def test(door: ModelDoor) -> None:
        client = client_of(door)
        await client.connect()
        await client.join(ROOM)
        door.holding = True
        door.server.deferring = True
        waiting = [
            asyncio.ensure_future(client.send(ROOM, "never")),
            asyncio.ensure_future(client.members(ROOM)),
            asyncio.ensure_future(take(client, 1)),
        ]
        await until(lambda: door.server.in_flight and door.server.connections[0].requests)
        await client.close()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLost, ConnectionLost, list]
        with pytest.raises(ChatError):
            await client.conversations()
        await until(lambda: door.n_connections == 0)

    run(test)
