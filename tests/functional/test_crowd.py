"""Two hundred clients: everybody hears every message exactly once, in order, with the right hashes."""

import asyncio
import os

import pytest

from support.players import until
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

N_CLIENTS = 200
N_MESSAGES = 5
ROOMS = ["room:world", "room:zone-0", "room:zone-1", "room:zone-2", "room:zone-3"]


async def test_two_hundred_clients(server: LocalServer) -> None:
    players = await asyncio.gather(*(server.login(f"player{i}") for i in range(N_CLIENTS)))
    homes = {player.name: ROOMS[1 + i % 4] for i, player in enumerate(players)}
    await asyncio.gather(
        *(player.client.join(room) for player in players for room in ("room:world", homes[player.name]))
    )

    async def talk(i: int) -> None:
        player = players[i]
        for number in range(N_MESSAGES):
            await player.client.send(homes[player.name], f"{player.name} {number}")
        if i % 20 == 0:
            await player.client.send("room:world", f"{player.name} to all")

    await asyncio.gather(*(talk(i) for i in range(N_CLIENTS)))
    expected = {
        room: {f"{name} {number}" for name, home in homes.items() if home == room for number in range(N_MESSAGES)}
        for room in ROOMS[1:]
    }
    everywhere = {f"player{i} to all" for i in range(0, N_CLIENTS, 20)}
    for player in players:
        room = homes[player.name]
        await until(lambda p=player, r=room: len(p.texts(r)) >= len(expected[r]))  # type: ignore[misc]
        await until(lambda p=player: len(p.texts("room:world")) >= len(everywhere))  # type: ignore[misc]
        assert sorted(player.texts(room)) == sorted(expected[room])
        assert sorted(player.texts("room:world")) == sorted(everywhere)
        own = [text for text in player.texts(room) if text.startswith(player.name + " ")]
        assert own == [f"{player.name} {number}" for number in range(N_MESSAGES)]
    # All who are in a room have seen the same order; `check_order` at the end looks at ids and hashes.
    for room in ROOMS[1:]:
        orders = {tuple(player.texts(room)) for player in players if homes[player.name] == room}
        assert len(orders) == 1
    assert len(os.listdir("/proc/self/fd")) > N_CLIENTS  # they were real connections
