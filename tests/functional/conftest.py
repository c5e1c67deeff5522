"""Servers on loopback for the functional tests, on both engines."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from support.servers import LocalServer

StartServer = Callable[..., LocalServer]


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
