"""Large answers are looked up one at a time, when their receiver has room for them; and requests have an end."""

import asyncio
import socket
from typing import Any

import pytest

from chatcore.operations import Operation
from chatcore_server.backends import HistoryPage
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer
from support.slow_answers import slow_down

pytestmark = pytest.mark.asyncio

Start = Any  # the fixture start_server
OpenRaw = Any  # the fixture open_raw
N_ROOMS, N_MESSAGES, BODY = 100, 16, bytes(3_900)  # 6 MB: a kernel takes less for one connection that is not read
FAST = {
    "channels": N_ROOMS,
    "frames_per_second": 10_000,
    "frame_burst": 10_000,
    "player_frames_per_second": 10_000,
    "player_frame_burst": 10_000,
    "player_bytes_per_second": "100MiB",
    "player_byte_burst": "2MiB",
}


class WatchedHistory:
    """In front of the history: counts its pages, and keeps them back while it `is_held`. Server's thread."""

    def __init__(self, server: LocalServer) -> None:
        store: Any = server.server.store
        self._real: Any = store.history
        self.is_held = False
        self.asked: list[bytes] = []
        self._hub = server.server.worker.hub  # type: ignore[union-attr]
        self._sent_before = server.counted("bytes_sent")
        self.n_bytes = 0
        self.most_kept = 0  # bytes that were looked up and not sent
        server.do(lambda worker: setattr(store, "history", self))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def after(self, channel: bytes, after: int, limit: int, size: int) -> HistoryPage:
        self.asked.append(channel)
        while self.is_held:  # noqa: ASYNC110  # set on the thread of the test
            await asyncio.sleep(0.005)
        page: HistoryPage = await self._real.after(channel, after, limit, size)
        self.n_bytes += sum(len(entry.body) for entry in page.entries)
        self.most_kept = max(self.most_kept, self.n_bytes - (self._hub.counters()["bytes_sent"] - self._sent_before))
        return page


async def fill_rooms(server: LocalServer, filler: RawClient) -> None:
    welcome = await filler.login(token=server.token("filler"), channels={f"room:{i}": 0 for i in range(N_ROOMS)})
    seq = 0
    for number, *_ in welcome["channels"].values():
        for _ in range(N_MESSAGES):
            seq += 1
            filler.send(seq, number, BODY)
        for _ in range(N_MESSAGES):
            await filler.ack()
    await filler.close()


async def open_deaf(server: LocalServer) -> RawClient:
    """A kernel that takes little for it, as it does where the network is slow."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", server.port))
    return RawClient(*await asyncio.open_connection(sock=sock))


@pytest.mark.parametrize("door", ["tcp"])
async def test_who_does_not_read_is_looked_up_nothing(start_server: Start, open_raw: OpenRaw) -> None:
    """And has it all when it reads."""
    server: LocalServer = start_server(limits=FAST)
    await fill_rooms(server, await open_raw(server))
    history = WatchedHistory(server)
    deaf = await open_deaf(server)
    await deaf.login(token=server.token("deaf"))
    for i in range(N_ROOMS):
        deaf.ask(Operation.SYNC, channel=f"room:{i}")
    limits = server.server.settings.limits
    await until(lambda: server.do(lambda worker: worker.hub.pending_output) > limits.pause_bytes - limits.sync_bytes)
    answers = dict([await deaf.answer() for _ in range(N_ROOMS)])
    assert {len(answer["entries"]) for answer in answers.values() if isinstance(answer, dict)} == {N_MESSAGES}
    assert sorted(answers) == list(range(1, N_ROOMS + 1))
    assert len(history.asked) == N_ROOMS
    assert history.most_kept <= limits.pause_bytes
    await deaf.close()


@pytest.mark.parametrize("door", ["tcp"])
async def test_who_never_reads_is_closed(
    start_server: Start, open_raw: OpenRaw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatcore_server.outbox._UNREAD_S", 0.1)
    server: LocalServer = start_server(limits=FAST)
    await fill_rooms(server, await open_raw(server))
    deaf = await open_deaf(server)
    await deaf.login(token=server.token("deaf"))
    for i in range(N_ROOMS):
        deaf.ask(Operation.SYNC, channel=f"room:{i}")
    await until(lambda: server.counted("closed_slow_receiver") == 1)
    await until(lambda: server.do(lambda worker: worker._requests.n_under_way) == 0)
    await deaf.close()


async def test_a_player_has_one_look_up_at_a_time(server: LocalServer, open_raw: OpenRaw) -> None:
    history = WatchedHistory(server)
    history.is_held = True
    devices = [await open_raw(server) for _ in range(3)]
    for device, name in zip(devices, ("ann", "ann", "bob"), strict=True):
        await device.login(token=server.token(name))
        for i in range(5):
            device.ask(Operation.SYNC, channel=f"room:{name}{i}")
    await until(lambda: len(history.asked) == 2)
    for device in devices:  # what is not large does not wait, nor for the sync of another channel
        device.ask(Operation.JOIN, channel="room:lobby")
        assert (await device.answer())[0] == 6
    assert sorted(history.asked) == [b"room:ann0", b"room:bob0"]
    history.is_held = False
    for device in devices:
        assert [(await device.answer())[0] for _ in range(5)] == [1, 2, 3, 4, 5]


async def test_requests_about_a_channel_keep_their_order(server: LocalServer, open_raw: OpenRaw) -> None:
    """Also behind a large answer that waits for that of another channel."""
    history = WatchedHistory(server)
    history.is_held = True
    ann: RawClient = await open_raw(server)
    await ann.login(token=server.token("ann"), channels={"room:b": 0})
    ann.ask(Operation.SYNC, channel="room:a")
    for operation in (Operation.SYNC, Operation.LEAVE, Operation.SYNC, Operation.JOIN):
        ann.ask(operation, channel="room:b")
    ann.ask(Operation.SET_PRESENCE, presence="away")
    assert await ann.answer() == (6, {})
    ann.ask(Operation.BLOCKS)
    await until(lambda: history.asked)
    assert history.asked == [b"room:a"]
    history.is_held = False
    answered = [(await ann.answer())[0] for _ in range(6)]
    assert [id for id in answered if id in (2, 3, 4, 5)] == [2, 3, 4, 5]
    assert set(answered) == {1, 2, 3, 4, 5, 7}
    assert server.do(lambda worker: worker._requests._next_large) == {}


async def test_unanswered_requests_have_an_end(start_server: Start, open_raw: OpenRaw) -> None:
    server: LocalServer = start_server(limits={"requests_under_way": 4})
    slow = slow_down(server, "role")
    ann, bob = await open_raw(server), await open_raw(server)
    for client, name in ((ann, "ann"), (bob, "bob")):
        await client.login(token=server.token(name))
    ids = [ann.ask(Operation.JOIN, channel="group:x") for _ in range(7)]
    assert [await ann.answer() for _ in ids[4:]] == [(id, "overloaded") for id in ids[4:]]
    assert isinstance(await bob.request(Operation.JOIN, channel="room:y"), dict), "a limit of one connection"
    slow.may_answer = True
    assert [await ann.answer() for _ in ids[:4]] == [(id, "no_such_channel") for id in ids[:4]]
    assert isinstance(await ann.request(Operation.JOIN, channel="room:y"), dict)
