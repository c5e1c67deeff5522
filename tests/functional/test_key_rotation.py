"""Keys that change under a running `chatcore serve`: who is logged in notices nothing."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from chatcore import Client
from chatcore.errors import BadToken
from chatcore.events import Connected, ConnectionClosed
from chatcore_server.authentication import make_token
from chatcore_server.keys import Key
from support.keys import ALGORITHMS, jwk, private_key, write_jwks
from support.players import Player, player, until
from support.servers import ServerProcess

pytestmark = pytest.mark.asyncio

ROOM = "room:lobby"


def token(name: str, kid: str, kind: str, number: int = 0) -> str:
    return make_token(Key(ALGORITHMS[kind], private_key(kind, number), kid), name, 60, audience="chat")


@pytest_asyncio.fixture
async def rotating(tmp_path: Path) -> AsyncIterator[tuple[ServerProcess, Path]]:
    path = write_jwks(tmp_path / "jwks.json", jwk("p256", 0, kid="old"))
    config = f'[authentication]\njwks_file = "{path}"\naudience = "chat"\n'
    server = ServerProcess(tmp_path / "data", config)
    await server.start()
    yield server, path
    await server.stop()


async def is_let_in(server: ServerProcess, token: str) -> bool:
    client = Client(port=server.port, token=token)
    try:
        await client.connect()
    except BadToken:
        return False
    await client.close()
    return True


async def log_says(server: ServerProcess, event: str, times: int) -> None:
    await until(lambda: server.log.read_text().count(event) >= times, f"the log says {event} {times} times")


async def cut(someone: Player) -> None:
    """The connection breaks, and the client resumes."""
    connection = someone.client._connection
    assert connection is not None
    connection.abort()
    await someone.is_told(Connected, resumed=True)


async def test_a_rotation_drops_nobody(rotating: tuple[ServerProcess, Path]) -> None:
    server, path = rotating
    old, new = jwk("p256", 0, kid="old"), jwk("ed25519", 0, kid="new")
    ann = await player(server.port, token("ann", "old", "p256")).start()
    await ann.client.join(ROOM)
    assert not await is_let_in(server, token("bob", "new", "ed25519"))

    write_jwks(path, old, new)
    await log_says(server, "keys_read", 1)
    bob = await player(server.port, token("bob", "new", "ed25519")).start()
    await bob.client.join(ROOM)
    assert await is_let_in(server, token("cid", "old", "p256"))

    path.write_text('{"keys": [')  # somebody edits it in place
    await log_says(server, "keys_rejected", 1)
    assert await is_let_in(server, token("cid", "old", "p256"))

    write_jwks(path, new)
    await log_says(server, "keys_read", 2)
    assert not await is_let_in(server, token("cid", "old", "p256"))
    assert await is_let_in(server, token("cid", "new", "ed25519"))

    await ann.client.send(ROOM, "still here")
    await bob.hears(ROOM, "still here")
    assert not ann.told(ConnectionClosed)
    assert not bob.told(ConnectionClosed)

    await cut(ann)
    await ann.client.send(ROOM, "and back by ticket")
    await bob.hears(ROOM, "still here", "and back by ticket")
    await ann.close()
    await bob.close()


async def test_the_reason_is_in_the_log(rotating: tuple[ServerProcess, Path]) -> None:
    server, path = rotating
    write_jwks(path, {"kty": "oct", "k": "c2VjcmV0", "kid": "mine"})
    await log_says(server, "keys_rejected", 1)
    text = server.log.read_text()
    assert "is a secret: take it out" in text
    assert "c2VjcmV0" not in text
