"""What a server knows again after a restart on the same data folder."""

from pathlib import Path

import pytest

from chatcore import Client
from chatcore.operations import Operation
from support.raw import RawClient
from support.servers import ServerProcess

ROOM = "room:lobby"


@pytest.mark.asyncio
async def test_the_chain_of_hashes_goes_on_over_a_kill(tmp_path: Path) -> None:
    """The tail's replay does not tell where an old chain stood: history completes it when somebody joins."""
    server = ServerProcess(tmp_path / "data")
    await server.start()
    try:
        async with Client(port=server.port, token=server.token("ann")) as ann:
            await ann.join(ROOM)
            for text in ("one", "two", "three"):
                last = await ann.send(ROOM, text)
        await server.kill()
        await server.start()
        async with Client(port=server.port, token=server.token("bob")) as bob:
            joined = await bob.join(ROOM)
            assert joined.head == last.id
            assert joined.hash != 0
            entries = await bob.history(ROOM)
            assert [message.text for message in entries] == ["one", "two", "three"]
    finally:
        await server.kill()


@pytest.mark.asyncio
async def test_a_logout_holds_over_a_kill(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    await server.start()
    try:
        tickets = {}
        for name in ("ann", "bob"):
            client = await RawClient.open(server.port)
            tickets[name] = (await client.login(token=server.token(name)))["ticket"]
            if name == "ann":
                assert await client.request(Operation.LOGOUT) == {}
                assert await client.closed_by() == "logged_out"
            await client.close()
        await server.kill()
        await server.start()
        ann, bob = await RawClient.open(server.port), await RawClient.open(server.port)
        ann.hello(ticket=tickets["ann"])
        assert await ann.closed_by() == "bad_ticket"
        assert (await bob.login(ticket=tickets["bob"]))["resumed"], "the ticket of one who has not logged out works"
        for client in (ann, bob):
            await client.close()
    finally:
        await server.kill()
