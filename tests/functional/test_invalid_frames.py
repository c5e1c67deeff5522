"""Every invalid frame of the test vectors, sent to a server: it closes, and says why."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.raw import RawClient
from support.servers import EVERY_DOOR, LocalServer

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "frames.json").read_text(encoding="ascii"))
OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]


@pytest.mark.asyncio
@pytest.mark.parametrize("door", EVERY_DOOR)
async def test_invalid_frames_close_the_connection(server: LocalServer, open_raw: OpenRaw) -> None:
    for vector in VECTORS["invalid_from_client"]:
        client = await open_raw(server)
        if vector["after"] == "ready":
            await client.login(token=server.token("ann"))
        client.writer.write(bytes.fromhex(vector["hex"]))
        assert (vector["name"], await client.closed_by()) == (vector["name"], vector["error"])
    # The server is none the worse for it.
    assert (await (await open_raw(server)).login(token=server.token("bob")))["player"] == "bob"
