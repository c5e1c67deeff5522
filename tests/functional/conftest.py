"""Servers on loopback for the functional tests, which run over every door."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from support.raw import RawClient
from support.server_fixtures import make_server
from support.servers import LocalServer

__all__ = ["door", "make_server", "open_raw", "server", "start_server"]

StartServer = Callable[..., LocalServer]
OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]


@pytest.fixture(params=["tcp", "tls", "websocket"])
def door(request: pytest.FixtureRequest) -> str:
    """By which the test's clients come in. "transport", the TCP door on uvloop's own sockets, has its tests where the
    transport matters (`EVERY_DOOR`): the rest of it is what TLS uses."""
    return str(request.param)


@pytest_asyncio.fixture
async def start_server(door: str, tmp_path: Path) -> AsyncIterator[StartServer]:
    """Starts servers with settings of the test's choice; all are checked and stopped at its end."""
    servers: list[LocalServer] = []

    def start(folder: str = "data", **layer: Any) -> LocalServer:
        servers.append(LocalServer(tmp_path / folder, layer, door))
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
        clients.append(await RawClient.open(server.uri))
        return clients[-1]

    yield open_one
    for client in clients:
        await client.close()
