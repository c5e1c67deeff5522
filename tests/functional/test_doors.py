"""Several doors at once: the ready line, messages from one to another, who cannot open, and no descriptors left."""

import asyncio
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatcore import Client
from chatcore_ext.constants import FrameType
from support.certificates import client_context, write_authority, write_server_certificate
from support.players import player, until
from support.raw import RawClient
from support.servers import LocalServer, ServerProcess
from support.streams import open_stream

pytestmark = pytest.mark.asyncio

MakeServer = Callable[..., ServerProcess]
StartServer = Callable[..., LocalServer]


def all_doors(folder: Path) -> str:
    file = write_server_certificate(folder)
    return (
        f'[tls]\nenabled = true\nport = 0\ncertificate_file = "{file}"\n'
        "[websocket]\nenabled = true\nport = 0\ntls = true\n"
    )


async def run(*arguments: object, lines: str = "") -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore_server.cli", *map(str, arguments),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(20):
        out, error = await process.communicate(lines.encode())
    return process.returncode or 0, out.decode(), error.decode()


async def test_the_ready_line_and_the_chat_command_on_every_door(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(config=all_doors(tmp_path))
    await server.start()
    assert list(server.ports) == ["tcp", "http", "tls", "websocket"]
    authorities = write_authority(tmp_path)
    tls, websocket = server.ports["tls"], server.ports["websocket"]
    for address in [f"127.0.0.1:{server.port}", f"tls://127.0.0.1:{tls}", f"wss://127.0.0.1:{websocket}/"]:
        code, out, error = await run(
            "chat", address, "--as", "ann", "--data", server.folder, "--ca", authorities,
            lines="/join lobby\nhello\n",
        )  # fmt: skip
        assert (code, error) == (0, ""), error
        assert "hello" in out
    code, _, error = await run("chat", f"tls://127.0.0.1:{tls}", "--as", "ann", "--data", server.folder)
    assert code == 1
    assert "certificate verify failed" in error
    for address in ["http://127.0.0.1:1", "tls://127.0.0.1:port"]:
        assert (await run("chat", address, "--as", "ann", "--data", server.folder))[0] == 1


async def test_messages_go_from_door_to_door(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(config=all_doors(tmp_path))
    await server.start()
    addresses = {
        "ann": f"tcp://127.0.0.1:{server.port}",
        "bob": f"tls://127.0.0.1:{server.ports['tls']}",
        "cyd": f"wss://127.0.0.1:{server.ports['websocket']}",
    }
    players = [await player(address, server.token(name)).start() for name, address in addresses.items()]
    for each in players:
        await each.client.join("room:x")
    for each in players:
        await each.client.send("room:x", f"from {each.name}")
    for each in players:
        await until(lambda each=each: len(each.texts("room:x")) >= 3)  # type: ignore[misc]
        assert set(each.texts("room:x")) == {"from ann", "from bob", "from cyd"}
        each.check_order()
    await asyncio.gather(*(each.close() for each in players))


async def test_a_drain_reaches_all_doors(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(config=all_doors(tmp_path) + "[drain]\ngoaway = '100ms'\n")
    await server.start()
    uris = [f"tls://127.0.0.1:{server.ports['tls']}", f"wss://127.0.0.1:{server.ports['websocket']}"]
    clients = [RawClient(*await open_stream(uri)) for uri in uris]
    for number, client in enumerate(clients):
        await client.login(token=server.token(f"p{number}"))
    silent = [await asyncio.open_connection("127.0.0.1", server.ports[door]) for door in ("tls", "websocket")]
    server.send_signal(signal.SIGTERM)
    for client in clients:
        await client.next(FrameType.FRAME_GOAWAY)
        assert await client.closed_by() == "shutting_down"
    assert await server.ended() == (0, b"")
    assert '"clean":true' in server.log.read_text()
    for client in clients:
        await client.close()
    for _, writer in silent:
        writer.close()


@pytest.mark.parametrize(("table", "name"), [("tls", "tls.port"), ("websocket", "websocket.port")])
async def test_a_port_in_use(table: str, name: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = tmp_path / "chatcore.toml"
        before, after = (f"[{table}]\nenabled = true\nport = {port}" for port in (0, taken.getsockname()[1]))
        config.write_text(all_doors(tmp_path).replace(before, after))
        code, out, error = await run(
            "serve", "--config", config, "--port", 0, "--http-port", 0, "--data", tmp_path / "data"
        )
    assert (code, out) == (1, "")
    assert name in error


async def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    config = tmp_path / "chatcore.toml"
    config.write_text(all_doors(tmp_path))
    (tmp_path / "server.pem").write_text("nothing")
    code, out, error = await run(
        "serve", "--config", config, "--port", 0, "--http-port", 0, "--data", tmp_path / "data"
    )
    assert (code, out) == (1, "")
    assert str(tmp_path / "server.pem") in error


@pytest.mark.parametrize("door", ["transport", "tls", "websocket"])
async def test_accepting_goes_on_when_there_are_descriptors_again(server: LocalServer) -> None:
    client = Client(server.uri, token=server.token("ann"), ssl=client_context())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    address = ("127.0.0.1", int(server.uri.rpartition(":")[2]))
    with socket.socket() as knocking:
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))  # for this process, the server's too
        try:
            knocking.connect(address)
            await until(lambda: n_pauses(server) > 0)
            assert n_pauses(server) < 100, "it does not spin"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await client.connect()
        assert client.player == "ann"
        await client.close()


def n_pauses(server: LocalServer) -> int:
    assert server.server.doors is not None
    return server.server.doors.counters()["door_accept_pauses"]
