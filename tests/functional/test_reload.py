"""SIGHUP on a `chatcore serve`: what changes under connected clients, what cannot, and a wrong file harms nobody."""

import asyncio
import json
import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatcore.errors import AuthenticationError, BodyTooLarge, TooManyChannels
from chatcore.events import ConnectionClosed
from chatcore_server.authentication import make_token
from support.players import player, until
from support.servers import ServerProcess

pytestmark = pytest.mark.asyncio

MakeServer = Callable[..., ServerProcess]
ROOM = "room:lobby"


def logged(server: ServerProcess, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


async def reload(server: ServerProcess, config: str, outcome: str = "configuration_reloaded") -> dict[str, Any]:
    """The line of the log that says what has become of it."""
    n_before = len(logged(server, outcome))
    server.config.write_text(config)
    server.send_signal(signal.SIGHUP)
    await until(lambda: len(logged(server, outcome)) > n_before)
    return logged(server, outcome)[-1]


async def test_a_limit_that_is_changed_is_felt_by_who_is_connected(make_server: MakeServer) -> None:
    server = make_server()
    await server.start()
    ann = await player(server.port, server.token("ann")).start()
    await ann.client.join(ROOM)
    await ann.client.send(ROOM, "x" * 100)
    line = await reload(server, '[limits]\nbody_size = "50B"\nchannels = 1\n')
    assert line["changed"] == ['limits.body_size: "4000B" -> "50B"', "limits.channels: 256 -> 1"]
    with pytest.raises(BodyTooLarge):
        await ann.client.send(ROOM, "x" * 100)
    with pytest.raises(TooManyChannels):
        await ann.client.join("room:other")
    await ann.client.send(ROOM, "still here, and in the room")
    line = await reload(server, "")
    assert line["changed"] == ['limits.body_size: "50B" -> "4000B"', "limits.channels: 1 -> 256"]
    await ann.client.join("room:other")
    await ann.client.send(ROOM, "x" * 100)
    assert not ann.told(ConnectionClosed)
    await ann.close()


async def test_a_wrong_file_harms_nobody(make_server: MakeServer) -> None:
    server = make_server(config="[limits]\nchannels = 2\n")
    await server.start()
    ann = await player(server.port, server.token("ann")).start()
    for wrong in (
        "[limits]\nchannels = 1\nmembers = 0\n",
        "[limits]\nchannels = 1\nmember = 1\n",
        "[limits]\nchannels = \n",
        "[limits]\nchannels = 1\nhello_timeout = '30d'\n",
        "[limits]\nchannels = 1\nbody_size = '4KiB'\n",
        f'[limits]\nchannels = 1\n[authentication]\nsecret_file = "{server.folder}/none"\n',
    ):
        line = await reload(server, wrong, "configuration_rejected")
        assert line["level"] == "error"
        assert any(
            word in line["reason"] for word in ("limits.members", "limits.member;", "TOML", "7d", "4083B", "none")
        )
    server.config.unlink()
    server.send_signal(signal.SIGHUP)
    await until(lambda: "cannot read" in logged(server, "configuration_rejected")[-1]["reason"])
    for room in ("room:a", "room:b"):
        await ann.client.join(room)
    with pytest.raises(TooManyChannels):
        await ann.client.join("room:c")
    assert not ann.told(ConnectionClosed)
    assert not logged(server, "configuration_reloaded")
    assert not logged(server, "reload_failed")
    await ann.close()


async def test_what_cannot_change_is_named(make_server: MakeServer) -> None:
    server = make_server()
    await server.start()
    line = await reload(server, '[limits]\nheartbeat = "7s"\nmembers = 7\n[embedded]\npartitions = 9\n')
    assert line["changed"] == ["limits.members: 1000 -> 7"]
    await until(lambda: bool(logged(server, "restart_to_apply")))
    warning = logged(server, "restart_to_apply")[-1]
    assert warning["level"] == "warning"
    assert warning["settings"] == ['limits.heartbeat: "30s" -> "7s"', "embedded.partitions: 4 -> 9"]
    ann = await player(server.port, server.token("ann")).start()  # and it serves as before
    await ann.close()


async def test_new_keys_for_who_logs_in_and_none_for_who_is_there(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server()
    await server.start()
    ann = await player(server.port, server.token("ann")).start()
    secret = tmp_path / "secret"
    secret.write_bytes(b"k" * 32)
    await reload(server, f'[authentication]\nsecret_file = "{secret}"\n')
    with pytest.raises(AuthenticationError):
        await player(server.port, server.token("bob")).start()
    bob = await player(server.port, make_token(b"k" * 32, "bob", 60)).start()
    await ann.client.join(ROOM)
    for each in (ann, bob):
        await each.close()


async def test_the_level_of_the_log(make_server: MakeServer) -> None:
    server = make_server(config='[logging]\nlevel = "error"\n')
    await server.start()
    assert server.log.read_text() == ""
    line = await reload(server, "")
    assert line["changed"] == ['logging.level: "error" -> "info"']
    for level, before in (("warning", "info"), ("error", "warning")):  # whoever asks is answered
        line = await reload(server, f'[logging]\nlevel = "{level}"\n')
        assert (line["level"], line["changed"]) == ("info", [f'logging.level: "{before}" -> "{level}"'])
    await reload(server, '[logging]\nlevel = "error"\n[limits]\nheartbeat = "7s"\n', "restart_to_apply")


async def test_many_at_once(make_server: MakeServer) -> None:
    server = make_server()
    await server.start()
    for _ in range(200):
        server.send_signal(signal.SIGHUP)
    await until(lambda: bool(logged(server, "configuration_reloaded")))
    ann = await player(server.port, server.token("ann")).start()
    await ann.close()
    server.send_signal(signal.SIGHUP)
    server.send_signal(signal.SIGTERM)
    assert await server.ended() == (0, b"")


@pytest.mark.parametrize("is_told", [True, False], ids=["by SIGHUP", "not told"])
async def test_the_end_of_its_terminal_ends_it(is_told: bool, tmp_path: Path) -> None:
    """Not told: where the session's first process is another, such as `make`, which keeps the signal to itself."""
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore_server.cli", "serve", "--port", "0", "--http-port", "0",
        "--data", tmp_path / "data", "--set", "drain.goaway=0",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        assert (await process.stdout.readline()).startswith(b"chatcore ready")
        shown = b""
        while b"http" not in shown:  # in the log's line, after which it writes no more by itself
            shown += await asyncio.to_thread(os.read, master, 65536)
        os.close(master)
        if is_told:
            process.send_signal(signal.SIGHUP)
        assert await process.wait() == -signal.SIGHUP
