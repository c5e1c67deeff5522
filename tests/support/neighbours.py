"""Well-behaved players who chat while somebody else does not: what happens to the others must not happen to them."""

import asyncio

from chatcore.errors import ChatError
from chatcore.events import ConnectionClosed
from support.players import Player, until
from support.servers import LocalServer

ROOM = "room:neighbours"
_PAUSE_S = 0.02  # between two messages of a player: half of what a connection may send


class Neighbours:
    """`start` them, do something bad, and see that they are `unharmed`."""

    def __init__(self, server: LocalServer, n_players: int = 5) -> None:
        self._server = server
        self._n_players = n_players
        self._players: list[Player] = []
        self._acknowledged: list[str] = []
        self._failed: list[ChatError] = []
        self._is_over = False
        self._talking: list[asyncio.Task[None]] = []

    async def start(self) -> "Neighbours":
        self._players = [await self._server.login(f"neighbour{i}") for i in range(self._n_players)]
        for each in self._players:
            await each.client.join(ROOM)
        self._talking = [asyncio.create_task(self._talk(each)) for each in self._players]
        return self

    async def _talk(self, speaker: Player) -> None:
        number = 0
        while not self._is_over:
            number += 1
            text = f"{speaker.name} {number}"
            try:
                await speaker.client.send(ROOM, text)
                self._acknowledged.append(text)
            except ChatError as error:
                self._failed.append(error)
            await asyncio.sleep(_PAUSE_S)

    async def unharmed(self) -> None:
        """They go on talking, nobody lost the connection or was refused anything, and all that was acknowledged so far
        came to each of them once and in order."""
        goal = len(self._acknowledged) + 2 * self._n_players
        await until(lambda: len(self._acknowledged) >= goal, "the neighbours go on talking")
        acknowledged = set(self._acknowledged)
        for each in self._players:
            await until(lambda each=each: acknowledged <= set(each.texts(ROOM)), f"{each.name} hears all")  # type: ignore[misc]
            assert each.told(ConnectionClosed) == []
            each.check_order()
            _check_lanes(each.texts(ROOM))
        assert self._failed == []

    async def stop(self) -> None:
        self._is_over = True
        await asyncio.gather(*self._talking)


def _check_lanes(texts: list[str]) -> None:
    """Each speaker's own messages once and in order."""
    last: dict[str, int] = {}
    for text in texts:
        speaker, _, number = text.partition(" ")
        assert int(number) > last.get(speaker, 0), f"{text} twice or too late"
        last[speaker] = int(number)
