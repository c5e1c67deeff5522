"""Servers on loopback for the functional tests, on both engines."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from support.raw import RawClient
from support.server_fixtures import make_server
from support.servers import LocalServer

__all__ = ["engine", "make_server", "open_raw", "server", "start_server"]

StartServer = Callable[..., LocalServer]
OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]


@pytest.fixture(params=["epoll", "transport"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest_asyncio.fixture
async def start_server(engine: str, tmp_path: Path) -> AsyncIterator[StartServer]:
    """Starts servers with settings of the test's choice; all are checked and stopped at its end."""
    servers: list[LocalServer] = []

    def start(folder: str = "data", **layer: Any) -> LocalServer:
        servers.append(LocalServer(tmp_path / folder, {"engine": engine, **layer}))
        return servers[-1].start()

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
def server(start_server: StartServer) -> LocalServer:
    return start_server()


@pytest_asyncio.fixture
async def open_raw() -> AsyncIterator[OpenRaw]:
    """Opens connections of single frames to a server; all are closed at the test's end."""
    clients: list[RawClient] = []

    async def open_one(server: LocalServer) -> RawClient:
        clients.append(await RawClient.open(server.port))
        return clients[-1]

    yield open_one
    for client in clients:
        await client.close()
