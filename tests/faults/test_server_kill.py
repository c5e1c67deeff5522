"""A server that is killed under load and started again on the same folder; a server that is asked to stop under load.

Clients carry on by themselves: nothing acknowledged is lost, nothing is shown twice, the order holds.
"""

import asyncio
import signal
import sqlite3
from collections.abc import Callable

import pytest

from chatcore.errors import ChatError
from chatcore.events import Connected
from chatcore.operations import Operation
from chatcore_ext.constants import MAX_UNACKED_SENDS
from chatcore_server.embedded.database import FILE_NAME
from support.players import Player, player, until
from support.raw import RawClient
from support.servers import ServerProcess

pytestmark = pytest.mark.asyncio

MakeServer = Callable[..., ServerProcess]
ROOM, GROUP, CHAT = "room:arena", "group:guild", "dm:player0:player1"
CHANNELS = [ROOM, GROUP, CHAT]
# What a busy tester sends in a few seconds is over the rate limit of a person.
CONFIG = "[limits]\nframes_per_second = 10000\nframe_burst = 10000\n"


class Talk:
    """Players who talk in a room, a group and a private chat until told to stop."""

    def __init__(self, server: ServerProcess, n_players: int) -> None:
        self.players = [player(server.port, server.token(f"player{i}")) for i in range(n_players)]
        self.acknowledged: dict[str, dict[str, int]] = {channel: {} for channel in CHANNELS}
        self.failed: list[ChatError] = []
        self._stop = False
        self._talking: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        for each in self.players:
            await each.start()
        first = self.players[0].client
        await first.create_group(GROUP)
        for each in self.players[1:]:
            await first.add_member(GROUP, each.name)
        places = [(each, channel) for channel in CHANNELS for each in self.players[: 2 if channel == CHAT else None]]
        for each, channel in places:
            await each.client.join(channel)
        for each, channel in places:
            self._talking += [asyncio.create_task(self._talk(each, channel, lane)) for lane in range(2)]

    async def _talk(self, speaker: Player, channel: str, lane: int) -> None:
        number = 0
        while not self._stop:
            number += 1
            text = f"{speaker.name} {lane} {number}"
            try:
                receipt = await speaker.client.send(channel, text)
                self.acknowledged[channel][text] = receipt.id
            except ChatError as error:
                self.failed.append(error)
                await asyncio.sleep(0.02)

    @property
    def n_acknowledged(self) -> int:
        return sum(len(found) for found in self.acknowledged.values())

    async def goes_on(self, n_messages: int) -> None:
        """Wait until so many more are acknowledged."""
        goal = self.n_acknowledged + n_messages
        await until(lambda: self.n_acknowledged >= goal, "the talk goes on", 20)

    async def stop(self) -> None:
        self._stop = True
        async with asyncio.timeout(20):
            await asyncio.gather(*self._talking)

    async def check(self) -> None:
        """Everybody saw all that was acknowledged, once, in one order, and history has it, too."""
        for channel in CHANNELS:
            acknowledged = self.acknowledged[channel]
            listeners = self.players[: 2 if channel == CHAT else None]
            for each in listeners:
                await self._has_seen(each, channel)
            last = max(each.messages(channel)[-1].id for each in listeners)
            for each in listeners:
                await self._has_come_to(each, channel, last)
            seen = [(message.id, message.text) for message in listeners[0].messages(channel)]
            texts = [text for _, text in seen]
            assert len(texts) == len(set(texts)), "shown twice"
            for text, id in acknowledged.items():
                assert id in (0, {t: i for i, t in seen}[text])
            for each in listeners[1:]:
                theirs = [(message.id, message.text) for message in each.messages(channel)]
                assert theirs == seen[-len(theirs) :]
            self._check_order_of_lanes(texts)
            history = await listeners[0].client.history(channel, limit=500)
            assert [(message.id, message.text) for message in history] == seen[-500:]
        for each in self.players:
            each.check_order()

    async def _has_seen(self, listener: Player, channel: str) -> None:
        try:
            await until(lambda: self.acknowledged[channel].keys() <= set(listener.texts(channel)))
        except AssertionError:
            missing = {t: i for t, i in self.acknowledged[channel].items() if t not in listener.texts(channel)}
            raise AssertionError(f"{listener.name} never saw {missing} in {channel}") from None

    async def _has_come_to(self, listener: Player, channel: str, last: int) -> None:
        await until(lambda: listener.messages(channel)[-1].id >= last)

    def _check_order_of_lanes(self, texts: list[str]) -> None:
        last: dict[str, int] = {}
        for text in texts:
            lane, _, number = text.rpartition(" ")
            assert int(number) > last.get(lane, 0)
            last[lane] = int(number)

    async def close(self) -> None:
        await asyncio.gather(*(each.close() for each in self.players))


async def test_killed_under_load(make_server: MakeServer) -> None:
    server = make_server(config=CONFIG)
    await server.start()
    talk = Talk(server, 4)
    await talk.start()
    sessions = [each.client.session_id for each in talk.players]
    for _ in range(3):
        await talk.goes_on(200)
        await server.kill()
        await server.start()
    await talk.goes_on(200)
    await talk.stop()
    await talk.check()
    assert not talk.failed
    assert [each.client.session_id for each in talk.players] == sessions
    for each in talk.players:
        assert each.told(Connected, resumed=True)
        assert len(each.told(Connected, resumed=False)) <= 1  # the first, if the test was listening already
    await talk.close()


async def test_drained_under_load(make_server: MakeServer) -> None:
    server = make_server(config=CONFIG)
    await server.start()
    talk = Talk(server, 4)
    await talk.start()
    await talk.goes_on(200)
    server.send_signal(signal.SIGTERM)
    assert await server.ended() == (0, b"")
    await server.start()
    await talk.goes_on(200)
    await talk.stop()
    await talk.check()
    assert {error.name for error in talk.failed} <= {"shutting_down"}
    assert all(error.retry for error in talk.failed)
    await talk.close()


async def test_a_second_signal_ends_it_at_once(make_server: MakeServer) -> None:
    server = make_server(config="[drain]\ngoaway = '20s'\ndeadline = '1m'\n")
    await server.start()
    someone = player(server.port, server.token("ann"))
    await someone.start()
    server.send_signal(signal.SIGINT)
    await until(lambda: b"draining" in server.log.read_bytes())
    server.send_signal(signal.SIGTERM)
    assert await server.ended(5) == (-signal.SIGTERM, b"")
    await someone.close()


async def test_the_deadline_holds_even_if_the_disk_does_not_answer(make_server: MakeServer) -> None:
    """Another process holds the database's write lock, so that the writer's thread waits in the middle of a commit."""
    server = make_server(config=CONFIG + "[drain]\ndeadline = '700ms'\ngoaway = '100ms'\n")
    await server.start()
    ann = await player(server.port, server.token("ann")).start()
    await ann.client.join(ROOM)
    holder = sqlite3.connect(server.folder / FILE_NAME, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    sending = asyncio.create_task(ann.client.send(ROOM, "into the void"))
    server.send_signal(signal.SIGTERM)
    code, _ = await server.ended(deadline_s=3.0)  # the writer would wait for five seconds
    assert code == 1
    holder.close()
    await server.start()
    assert (await sending).id  # and the client carries on
    await ann.close()


async def test_a_seq_that_goes_backwards_after_a_restart_is_refused(make_server: MakeServer) -> None:
    """Every reader of the log passes over what is far below a session's highest seq, so no ACK may tell of it."""
    server = make_server()
    await server.start()
    raw = await RawClient.open(f"tcp://127.0.0.1:{server.port}")
    welcome = await raw.login(token=server.token("ann"), channels={"room:x": 0})
    raw.send(2000, welcome["channels"]["room:x"][0], b"last")
    _, last, _ = await raw.ack()
    await server.kill()
    await raw.close()
    await server.start()
    raw = await RawClient.open(f"tcp://127.0.0.1:{server.port}")
    welcome = await raw.login(ticket=welcome["ticket"], channels={"room:x": last})
    assert welcome["resumed"]
    number = welcome["channels"]["room:x"][0]
    for seq in (5, 2000 - MAX_UNACKED_SENDS):
        raw.send(seq, number, b"far below")
        assert (await raw.refusal())[:2] == (seq, "bad_seq")
    raw.send(2000, number, b"sent again, without saying so")
    assert (await raw.ack())[:2] == (2000, last)
    raw.send(2001, number, b"next")
    _, after, _ = await raw.ack()
    history = await raw.request(Operation.SYNC, channel="room:x", after=0)
    assert [entry[0] for entry in history["entries"]] == [last, after]
    await raw.close()
