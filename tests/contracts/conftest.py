"""The backends under contract: each suite runs once for every implementation in support.backends.DEPLOYMENTS."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from support.backends import DEPLOYMENTS, Backends, Deployment


@pytest.fixture(params=sorted(DEPLOYMENTS))
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Deployment:
    return DEPLOYMENTS[request.param](tmp_path)


@pytest_asyncio.fixture
async def backends(deployment: Deployment) -> AsyncIterator[Backends]:
    connected = deployment.connect()
    await connected.open()
    yield connected
    await connected.close()
