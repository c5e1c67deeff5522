"""Many who say hello in the same turn, as after a lost network: looked up together, and each answered as if alone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatcore.operations import Operation
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.login import _BATCH, _LOGINS_AT_ONCE
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer
from support.slow_answers import slow_down

pytestmark = pytest.mark.asyncio

GUILD, ROOM = "group:guild", "room:lobby"


@asynccontextmanager
async def busy(server: LocalServer) -> AsyncIterator[None]:
    """While this is open the server does nothing, so all that is sent to it comes in one turn."""
    is_held, go_on = threading.Event(), threading.Event()

    def hold(worker: object) -> None:
        is_held.set()
        assert go_on.wait(20)

    holding = asyncio.create_task(asyncio.to_thread(server.do, hold))
    assert await asyncio.to_thread(is_held.wait, 10)
    try:
        yield
    finally:
        go_on.set()
        await holding


class Counted:
    """In front of a backend: for how many each call of one method asked, and how many were asked about at once."""

    def __init__(self, server: LocalServer, backend: str, method: str) -> None:
        store: Any = server.server.store
        self._real = getattr(store, backend)
        self._method = method
        self.sizes: list[int] = []
        self.most = self._n_asked = 0
        server.do(lambda worker: setattr(store, backend, self))

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        return self._counted(real) if name == self._method else real

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(asked: Any, *more: object) -> Any:
            self.sizes.append(len(asked))
            self._n_asked += len(asked)
            self.most = max(self.most, self._n_asked)
            try:
                return await real(asked, *more)
            finally:
                self._n_asked -= len(asked)

        return answer


async def wave(server: LocalServer, open_raw: Any, hellos: list[dict[str, Any]]) -> list[RawClient]:
    clients = [await open_raw(server) for _ in hellos]
    async with busy(server):
        for client, hello in zip(clients, hellos, strict=True):
            client.hello(**hello)
        await asyncio.sleep(0)
    return clients


async def test_each_gets_its_own_answer(server: LocalServer, open_raw: Any) -> None:
    before = [await open_raw(server) for _ in range(2)]
    kept = await before[0].login(token=server.token("eve"))
    gone = await before[1].login(token=server.token("fay"))
    before[1].ask(Operation.LOGOUT)
    assert await before[1].closed_by() == "logged_out"
    profiles = Counted(server, "relations", "profiles")
    hellos: list[dict[str, Any]] = [
        {"token": server.token("ann"), "channels": {ROOM: 0, GUILD: 0, "no name": 0}},
        {"token": "no.real.token"},
        {"token": server.token("cid"), "ticket": b"not one of ours"},
        {"ticket": b"not one of ours"},
        {"ticket": kept["ticket"], "channels": {ROOM: 0}},
        {"ticket": gone["ticket"]},
        {"ticket": gone["ticket"], "token": server.token("fay")},
        {},
        {"token": server.token("dan", lifetime_s=-60)},
    ]
    ann, bob, cid, stranger, eve, fay, new_fay, nobody, dan = await wave(server, open_raw, hellos)
    welcome = await ann.welcome()
    assert (welcome["player"], set(welcome["channels"])) == ("ann", {ROOM})
    assert welcome["lost"] == {GUILD: ErrorCode.ERROR_NO_SUCH_CHANNEL, "no name": ErrorCode.ERROR_BAD_NAME}
    assert await bob.closed_by() == "bad_token"
    welcome = await cid.welcome()
    assert (welcome["player"], welcome["resumed"]) == ("cid", False)
    assert await stranger.closed_by() == "bad_ticket"
    welcome = await eve.welcome()
    assert (welcome["session"], welcome["resumed"], set(welcome["channels"])) == (kept["session"], True, {ROOM})
    assert await fay.closed_by() == "bad_ticket"
    welcome = await new_fay.welcome()
    assert (welcome["player"], welcome["resumed"]) == ("fay", False)
    assert await nobody.closed_by() == "bad_token"
    assert await dan.closed_by() == "token_expired"
    assert profiles.sizes[0] == 3, "they were not looked up together"


@pytest.mark.parametrize(("policy", "n_welcome"), [("refuse", 2), ("newest_wins", 5)])
async def test_no_more_sessions_than_allowed(start_server: Any, open_raw: Any, policy: str, n_welcome: int) -> None:
    server = start_server(sessions={"sessions_per_player": 2, "on_excess": policy})
    clients = await wave(server, open_raw, [{"token": server.token("ann")}] * 5)
    answers = await asyncio.gather(*(client.welcome() for client in clients), return_exceptions=True)
    assert sum(isinstance(answer, dict) for answer in answers) == n_welcome
    assert server.do(lambda worker: len(worker.hub.sessions_of(b"ann"))) == 2


async def test_who_has_to_be_asked_about_keeps_nobody_waiting(server: LocalServer, open_raw: Any) -> None:
    owner = await server.login("owner")
    await owner.client.create_group(GUILD)
    slow = slow_down(server, "role")
    hellos = [{"token": server.token(name), "channels": {ROOM: 0}} for name in ("ann", "bob")]
    hellos[0]["channels"] = {GUILD: 0}
    ann, bob = await wave(server, open_raw, hellos)
    assert set((await bob.welcome())["channels"]) == {ROOM}
    assert slow.is_asked
    slow.may_answer = True
    assert (await ann.welcome())["lost"] == {GUILD: ErrorCode.ERROR_NOT_ALLOWED}


async def test_a_wave_comes_in_by_bounded_batches(server: LocalServer, open_raw: Any) -> None:
    n = 2 * _LOGINS_AT_ONCE + 7
    profiles = Counted(server, "relations", "profiles")
    hellos = [{"token": server.token(f"p{i}"), "channels": {ROOM: 0}} for i in range(n)]
    clients = await wave(server, open_raw, hellos)
    welcomes = [await client.welcome() for client in clients]
    assert [welcome["player"] for welcome in welcomes] == [f"p{i}" for i in range(n)]
    assert server.do(lambda worker: worker.hub.subscribers(ROOM.encode())) == n
    assert sum(profiles.sizes) == n
    assert max(profiles.sizes) == _BATCH
    assert profiles.most <= _LOGINS_AT_ONCE


async def test_who_has_given_up_is_not_looked_up(server: LocalServer, open_raw: Any, monkeypatch: Any) -> None:
    """While the backends hang, players who try again and again do not make a queue of tries."""
    monkeypatch.setattr("chatcore_server.login._LOGINS_AT_ONCE", 1)
    slow = slow_down(server, "profiles")
    first, patient = await open_raw(server), await open_raw(server)
    first.hello(token=server.token("ann"))
    await until(lambda: slow.is_asked)
    patient.hello(token=server.token("bob"))
    impatient = [await open_raw(server) for _ in range(20)]
    for client in impatient:
        client.hello(token=server.token("cid"))
    await until(lambda: server.do(lambda worker: len(worker._login._waiting)) == 21)
    for client in impatient:
        await client.close()
    await until(lambda: server.do(lambda worker: len(worker._login._waiting)) == 1)
    slow.may_answer = True
    assert [(await client.welcome())["player"] for client in (first, patient)] == ["ann", "bob"]
    assert server.counted("logins_new") == 2
