"""Server processes for the fault tests, and the doors that hostile clients come in by."""

import pytest

from support.server_fixtures import make_server

__all__ = ["door", "make_server"]


@pytest.fixture(params=["tcp", "tls", "websocket"])
def door(request: pytest.FixtureRequest) -> str:
    return str(request.param)
