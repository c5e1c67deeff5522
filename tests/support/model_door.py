"""A model server behind a loopback socket, for tests of the asyncio client."""

import asyncio
from typing import Self

from support.oracles.model_server import ModelConnection, ModelServer


class ModelDoor:
    """Listens on a free port while entered. Commits what it is sent at once, unless `holding`."""

    def __init__(self, server: ModelServer | None = None) -> None:
        self.server = server or ModelServer()
        self.port = 0
        self.holding = False
        self.logins = 0
        self._listener: asyncio.Server | None = None
        self._writers: dict[ModelConnection, asyncio.StreamWriter] = {}
        self._deaf: set[ModelConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.shut()

    async def open(self) -> None:
        """Listen: on the same port as before, if it was open before."""
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        """Stop listening and break all connections, as a crash does."""
        assert self._listener is not None
        self._listener.close()
        self.cut()
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers.values():
            writer.transport.abort()

    def deafen(self) -> None:
        """From now on the connections that are open read, and do nothing about it."""
        self._deaf.update(self._writers)

    def release(self) -> None:
        self.holding = False
        while self.server.in_flight:
            self.server.commit()

    @property
    def n_connections(self) -> int:
        return len(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        connection = self.server.connect()
        self._writers[connection] = writer
        self.logins += 1
        connection.on_output = lambda: writer.write(connection.take_output())
        try:
            while data := await reader.read(65536):
                if connection in self._deaf:
                    continue
                connection.receive(data)
                if not self.holding:
                    self.release()
                if connection.closed:
                    break
        except OSError:
            pass
        finally:
            connection.lost()
            del self._writers[connection]
            self._deaf.discard(connection)
            writer.close()
            self._tasks.discard(task)
