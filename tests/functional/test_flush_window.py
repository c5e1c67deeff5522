"""The flush window in a whole server, where its own timer ends it."""

import asyncio
from collections.abc import Callable

import pytest

from support.players import until
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

ROOM = "room:hot"


async def test_a_busy_room_hears_everything_in_order_and_soon(start_server: Callable[..., LocalServer]) -> None:
    server = start_server(limits={"flush_window": "20ms", "flush_window_rate": 50})
    talkers = [await server.login(name) for name in ("ann", "bob", "cid")]
    listener = await server.login("dan")
    for player in (*talkers, listener):
        await player.client.join(ROOM)
    for i in range(100):
        await asyncio.gather(*(player.client.send(ROOM, f"{player.name} {i}") for player in talkers))
    await until(lambda: len(listener.messages(ROOM)) == 300)
    for player in talkers:
        said = [text for text in listener.texts(ROOM) if text.startswith(player.name)]
        assert said == [f"{player.name} {i}" for i in range(100)]
    assert server.counted("flushes_held") > 0
