"""The TLS door: versions, certificates of both sides, a certificate that changes, and those who never finish."""

import asyncio
import contextlib
import gc
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from chatcore import Client, ConnectionLost
from chatcore_ext.constants import FrameType
from chatcore_ext.frame import encode_frame
from chatcore_ext.transport_link import TransportLink
from support.certificates import HOST, authority, client_context, write_authority, write_server_certificate
from support.players import until
from support.raw import RawClient
from support.servers import LocalServer
from support.streams import Streams, aborted_at_the_end

pytestmark = pytest.mark.asyncio

StartServer = Callable[..., LocalServer]
OpenRaw = Callable[[LocalServer], Awaitable[RawClient]]

DEADLINE_S = 10.0


@pytest.fixture
def door() -> str:
    return "tls"


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Callable[[LocalServer, ssl.SSLContext | None], Awaitable[Streams]]]:
    async with aborted_at_the_end() as open_port:
        yield lambda server, context: open_port(server.server.ports["tls"], context)


def serial(writer: asyncio.StreamWriter) -> Any:
    return writer.get_extra_info("ssl_object").getpeercert()["serialNumber"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions(version: ssl.TLSVersion, server: LocalServer, connect: Any) -> None:
    context = ssl.create_default_context()
    authority().configure_trust(context)
    context.minimum_version = context.maximum_version = version
    reader, writer = await connect(server, context)
    ann = RawClient(reader, writer)
    assert (await ann.login(token=server.token("ann")))["player"] == "ann"
    assert writer.get_extra_info("ssl_object").version() == {771: "TLSv1.2", 772: "TLSv1.3"}[version]


async def test_a_certificate_of_somebody_else_is_noticed(server: LocalServer) -> None:
    with pytest.raises(ConnectionLost, match="certificate verify failed"):
        await Client(server.uri, token=server.token("ann"), ssl=ssl.create_default_context()).connect()
    await until(lambda: server.counted("tls_handshakes_failed") == 1)


async def test_what_speaks_no_tls_is_dropped(server: LocalServer, connect: Any) -> None:
    reader, writer = await connect(server, None)
    writer.write(b"\0\0\x1c\x01chat" + bytes(24))
    with contextlib.suppress(ConnectionError):
        while await reader.read(100):  # an alert, perhaps
            pass
    await until(lambda: server.counted("connections") == 0)
    assert server.counted("tls_handshakes_failed") == 1


async def test_who_never_shakes_hands_runs_into_the_time_for_hello(start_server: StartServer, connect: Any) -> None:
    server = start_server(limits={"hello_timeout": "200ms"})
    reader, _ = await connect(server, None)
    await until(lambda: server.counted("connections") == 1)
    async with asyncio.timeout(DEADLINE_S):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    assert server.counted("closed_hello_timeout") == 1
    assert server.counted("connections") == 0


async def test_those_who_shake_hands_count_as_connections(start_server: StartServer, connect: Any) -> None:
    server = start_server(limits={"connections": 2})
    for _ in range(2):
        await connect(server, None)
    await until(lambda: server.counted("connections") == 2)
    assert server.counted("connections_half_open") == 2
    await connect(server, client_context())  # a player in the making, for whom the oldest gives way
    assert server.counted("half_open_gave_way") == 1


async def test_a_new_certificate_without_a_restart(server: LocalServer, connect: Any, tmp_path: Path) -> None:
    _, before = await connect(server, client_context())
    file = server.folder.parent / "server.pem"
    old = file.read_bytes()
    file.write_text("junk")
    _, still = await connect(server, client_context())
    assert serial(still) == serial(before)
    new = authority().issue_cert(HOST)
    replacement = tmp_path / "new.pem"
    replacement.write_bytes(new.private_key_and_cert_chain_pem.bytes())
    assert replacement.read_bytes() != old
    os.replace(replacement, file)
    for _ in range(1000):
        _, after = await connect(server, client_context())
        if serial(after) != serial(before):
            break
        await asyncio.sleep(0.01)
    assert serial(after) != serial(before)
    before.write(b"")  # the old connection lives
    assert not before.is_closing()


@pytest.mark.parametrize("asked", ["none", "optional", "required"])
async def test_certificates_of_clients(asked: str, start_server: StartServer, tmp_path: Path) -> None:
    door = {"enabled": True, "port": 0, "certificate_file": str(write_server_certificate(tmp_path))}
    door |= {"client_ca_file": str(write_authority(tmp_path)), "client_certificates": asked}
    server = start_server(tls=door)
    known, unknown, none = (ssl.create_default_context() for _ in range(3))
    for context in (known, unknown, none):
        authority().configure_trust(context)
    authority().issue_cert("gateway.example").configure_cert(known)
    type(authority())().issue_cert("gateway.example").configure_cert(unknown)
    allowed = {"none": [known, unknown, none], "optional": [known, none], "required": [known]}[asked]
    for context in (known, unknown, none):
        client = Client(server.uri, token=server.token("ann"), ssl=context)
        if context in allowed:
            await client.connect()
            assert client.player == "ann"
        else:
            with pytest.raises(ConnectionLost):
                await client.connect()
        await client.close()


def n_links() -> int:
    """In this process, which is the server's too."""
    gc.collect()
    return sum(isinstance(each, TransportLink) for each in gc.get_objects())


async def test_a_client_that_takes_nothing_is_let_go(start_server: StartServer, connect: Any) -> None:
    """Otherwise its CLOSE and what was before it would lie in the server's transport for ever."""
    server = start_server(
        limits={
            "pending_size": "16KiB",
            "pause_size": "4KiB",
            "sync_size": "4KiB",
            "frames_per_second": 100_000,
            "frame_burst": 100_000,
        }
    )
    bob = await server.login("bob")
    await bob.client.join("room:x")
    before = n_links()
    reader, writer = await connect(server, client_context())
    await RawClient(reader, writer).login(token=server.token("ann"), channels={"room:x": 0})
    assert n_links() == before + 1
    writer.transport.pause_reading()
    while server.counted("closed_slow_receiver") == 0:  # messages would be left out; answers cannot be
        writer.write(b"".join(encode_frame(FrameType.FRAME_PING, bytes(8)) for _ in range(1000)))
        await asyncio.gather(*(bob.client.send("room:x", bytes(3000)) for _ in range(10)))
    await until(lambda: n_links() == before)
