"""Fixtures of server processes: a conftest.py that needs them imports them."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio

from support.servers import ServerProcess

MakeServer = Callable[..., ServerProcess]


@pytest_asyncio.fixture
async def make_server(tmp_path: Path) -> AsyncIterator[MakeServer]:
    """Makes servers that are not started yet; all that run are killed by their process id at the end."""
    servers: list[ServerProcess] = []

    def make(folder: str = "data", config: str = "", n_descriptors: int = 0) -> ServerProcess:
        servers.append(ServerProcess(tmp_path / folder, config, n_descriptors))
        return servers[-1]

    yield make
    for server in servers:
        await server.stop()
