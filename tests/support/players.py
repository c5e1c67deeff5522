"""Players for tests: real clients whose events are collected, and waits with a deadline instead of sleeps."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from chatcore import Client, Message, Reconnect
from chatcore.events import ConnectionClosed, HashMismatch, HistoryTruncated, SessionEvent
from support.certificates import client_context

DEADLINE_S = 10.0
PROMPT = Reconnect(first_ms=20, limit_ms=200)  # tests wait for reconnects

_Event = TypeVar("_Event")


async def until(is_so: Callable[[], object], what: str = "", deadline_s: float = DEADLINE_S) -> None:
    """Wait for a condition. Raises AssertionError after the deadline."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while not is_so():
        if loop.time() > end:
            raise AssertionError(f"not within {deadline_s} s: {what or is_so}")
        await asyncio.sleep(0.005)


class Player:
    """A connected client, and all that it was told."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.events: list[SessionEvent] = []
        self.error: BaseException | None = None
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> "Player":
        await self.client.connect()
        self._reading = asyncio.create_task(self._read())
        return self

    async def _read(self) -> None:
        try:
            async for event in self.client.events():
                self.events.append(event)
        except Exception as error:
            self.error = error

    async def close(self) -> None:
        await self.client.close()
        if self._reading is not None:
            await self._reading

    @property
    def name(self) -> str:
        return self.client.player

    def messages(self, channel: str) -> list[Message]:
        return [event for event in self.events if isinstance(event, Message) and event.channel == channel]

    def texts(self, channel: str) -> list[str]:
        return [message.text for message in self.messages(channel)]

    def told(self, kind: type[_Event], /, **fields: Any) -> list[_Event]:
        """The events of a kind whose fields are these."""
        return [
            event
            for event in self.events
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        ]

    async def hears(self, channel: str, *texts: str) -> None:
        """Wait until these texts are the last ones shown in the channel."""
        what = f"{self.name} hears {texts} in {channel}"
        await until(lambda: self.texts(channel)[-len(texts) :] == list(texts), what)

    async def is_told(self, kind: type[_Event], /, times: int = 1, **fields: Any) -> _Event:
        """Wait until there are `times` such events; the last of them."""
        await until(lambda: len(self.told(kind, **fields)) >= times, f"{self.name} is told {kind.__name__} {fields}")
        return self.told(kind, **fields)[-1]

    async def is_closed(self, name: str) -> None:
        """Wait until the connection ended with this error."""
        await until(
            lambda: any(closed.error and closed.error.name == name for closed in self.told(ConnectionClosed)),
            f"{self.name} is closed by {name}",
        )

    def check_order(self) -> None:
        """Nothing doubled, nothing out of order, nothing lost as far as the hashes tell."""
        assert not self.told(HashMismatch)
        assert not self.told(HistoryTruncated)
        for channel in {event.channel for event in self.events if isinstance(event, Message)}:
            ids = [message.id for message in self.messages(channel)]
            assert ids == sorted(set(ids)), f"{self.name}: {channel}"


def player(address: int | str, token: str, reconnect: Reconnect = PROMPT) -> Player:
    """At the door of this address, or at the TCP door of this port."""
    uri = f"tcp://127.0.0.1:{address}" if isinstance(address, int) else address
    return Player(Client(uri, token=token, reconnect=reconnect, ssl=client_context()))
