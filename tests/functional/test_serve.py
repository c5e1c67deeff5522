"""`chatcore serve` and `chatcore token` as processes: the ready line, health, errors that say what to do, the drain."""

import asyncio
import json
import os
import pty
import signal
import socket
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from chatcore_server.setting import Count
from chatcore_server.settings_layers import all_settings, load_settings
from support.players import player, until
from support.servers import ServerProcess

pytestmark = pytest.mark.asyncio

MakeServer = Callable[..., ServerProcess]


async def run(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore_server.cli", *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    async with asyncio.timeout(20):
        out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


async def run_shell(line: str) -> tuple[int, str, str]:
    """The same of a line for the shell."""
    process = await asyncio.create_subprocess_shell(
        line, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(20):
        out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


async def health(server: ServerProcess, path: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{server.http_port}/{path}") as response,
    ):
        return response.status, await response.text()


async def test_ready_healthy_and_gone(make_server: MakeServer) -> None:
    server = make_server(config="[drain]\ngoaway = '1s'\n")
    await server.start()
    assert await health(server, "healthz") == (200, "ok\n")
    assert await health(server, "readyz") == (200, "ready\n")
    ann = await player(server.port, server.token("ann")).start()
    server.send_signal(signal.SIGTERM)
    await until(lambda: b"draining" in server.log.read_bytes())
    assert await health(server, "readyz") == (503, "draining\n")
    assert await health(server, "healthz") == (200, "ok\n")
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)
    assert await server.ended() == (0, b"")  # one line in all on standard output
    await ann.close()
    log = server.log.read_text()
    assert '"event":"ready"' in log
    assert '"clean":true' in log


async def test_a_token_opens_the_door(make_server: MakeServer) -> None:
    server = make_server()
    code, token, error = await run("token", "ann", "--data", server.folder, "--channel", "room:x")
    assert code == 0
    assert error.startswith(f"chatcore: no server has used {server.folder} so far")
    await server.start()
    assert (await run("token", "ann", "--data", server.folder))[2] == ""
    ann = await player(server.port, token.strip()).start()
    assert ann.name == "ann"
    await ann.client.join("room:x")
    await ann.close()


async def test_a_real_secret(make_server: MakeServer, tmp_path: Path) -> None:
    secret = tmp_path / "hs256"
    secret.write_bytes(os.urandom(48).hex().encode() + b"\n")
    server = make_server(config=f'[authentication]\nsecret_file = "{secret}"\n')
    await server.start()
    _, token, _ = await run("token", "ann", "--secret-file", secret, "--expires", "90s")
    ann = await player(server.port, token.strip()).start()
    await ann.close()
    with pytest.raises(Exception, match="bad_token"):  # the development secret opens nothing now
        await player(server.port, server.token("ann")).start()


@pytest.mark.parametrize("arguments", [["a b"], ["ann", "--expires", "soon"], ["ann", "--channel", "lobby"]])
async def test_tokens_that_cannot_be(arguments: list[str], tmp_path: Path) -> None:
    code, out, error = await run("token", *arguments, "--data", tmp_path)
    assert code != 0
    assert out == ""
    assert error


async def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, error = await run("serve", "--port", port, "--http-port", 0, "--data", tmp_path / "data")
        assert (code, out) == (1, "")
        assert f"cannot listen on 127.0.0.1:{port}" in error
        assert "--port" in error
        code, out, error = await run("serve", "--port", 0, "--http-port", port, "--data", tmp_path / "data")
        assert (code, out) == (1, "")
        assert "--http-port" in error


async def test_two_doors_on_one_address_that_has_two_names(tmp_path: Path) -> None:
    """Where their texts are equal, test_settings_check.py has it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code, out, error = await run(
        "serve", "--port", port, "--http-port", port, "--set", "http_host=localhost", "--data", tmp_path / "data"
    )
    assert (code, out) == (1, "")
    assert (
        error == f"chatcore: cannot listen on 127.0.0.1:{port}: Address already in use."
        " Choose another with --host and --port\n"
    )


async def test_an_address_that_is_none(tmp_path: Path) -> None:
    code, out, error = await run("serve", "--port", 0, "--set", "http_host=nohost.invalid", "--data", tmp_path / "data")
    assert (code, out) == (1, "")
    assert "http_host" in error


async def test_a_data_folder_in_use(make_server: MakeServer) -> None:
    server = make_server()
    await server.start()
    code, out, error = await run("serve", "--port", 0, "--http-port", 0, "--data", server.folder)
    assert (code, out) == (1, "")
    assert "in use by another server" in error
    assert str(server.pid) in error


async def test_a_data_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, error = await run("serve", "--port", 0, "--http-port", 0, "--data", tmp_path / "file")
    assert (code, out) == (1, "")
    assert f"the data folder {tmp_path / 'file'} is no folder" in error
    assert error.endswith("(--data)\n")


async def test_not_beyond_loopback_without_a_key(tmp_path: Path) -> None:
    code, out, error = await run("serve", "--host", "0.0.0.0", "--port", 0, "--http-port", 0, "--data", tmp_path / "d")
    assert (code, out) == (1, "")
    assert "refusing to listen on 0.0.0.0" in error
    assert (await run("config", "--set", "host=0.0.0.0"))[::2] == (code, error.replace("--host", "--set"))


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("authentication.secret_file", "an HS256 secret has at least 32"),
        ("authentication.jwks_file", "not a JSON Web Key Set"),
        ("admin.token_file", "a token of the administration has at least 32"),
    ],
)
async def test_a_broken_key_leaves_no_folder_behind(key: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("x\n")
    ports = ("--port", 0, "--http-port", 0, "--data", tmp_path / "data")
    for _ in range(2):
        code, out, error = await run("serve", *ports, "--set", f"{key}={file}")
        assert (code, out) == (1, "")
        assert error.startswith(f"chatcore: {key}: ")
        assert error.endswith(" (--set)\n")
        assert words in error
        assert not (tmp_path / "data").exists()
        file.unlink(missing_ok=True)
        words = f"cannot read the key {file}"


async def test_a_machine_that_lets_it_open_too_few_files(tmp_path: Path) -> None:
    serve = f"{sys.executable} -m chatcore_server.cli serve --port 0 --http-port 0 --data {tmp_path / 'data'}"
    code, _, error = await run_shell(f"ulimit -n 12; exec {serve}")
    assert code == 1
    assert error == "chatcore: this process may open 12 files, and needs more than 128: raise ulimit -n\n"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["config", "config --json", "config --example", "serve"])
async def test_a_full_disk_behind_standard_output(command: str, tmp_path: Path) -> None:
    options = f"--port 0 --http-port 0 --data {tmp_path / 'data'}" if command == "serve" else ""
    code, _, error = await run_shell(f"exec {sys.executable} -m chatcore_server.cli {command} {options} > /dev/full")
    assert code == 1
    assert error.endswith("chatcore: cannot write to standard output: No space left on device\n")
    assert "Traceback" not in error


@pytest.mark.parametrize("which", ["lowest", "highest"])
async def test_it_serves_with_every_number_at_its_bound(which: str, make_server: MakeServer) -> None:
    """But for the ports, and for times in which nothing can be done at all."""
    left_out = {"lowest": ("embedded.lookup_timeout", "embedded.write_timeout", "drain.deadline")}.get(which, ())
    lines = [
        f"{key} = {each.kind.show(getattr(each.kind, which))}"
        for key, each in all_settings().items()
        if isinstance(each.kind, Count) and not key.endswith("port") and key not in left_out
    ]
    config = "\n".join(lines)
    server = make_server(config=config)
    await server.start()
    if which == "highest":
        ann = await player(server.port, server.token("ann")).start()
        await ann.client.join("room:lobby")
        await ann.client.send("room:lobby", "x" * load_settings(tomllib.loads(config)).limits.body_bytes)
        await ann.close()
    server.send_signal(signal.SIGHUP)
    await until(lambda: b"configuration_reloaded" in server.log.read_bytes())
    server.send_signal(signal.SIGTERM)
    assert await server.ended() == (0, b"")
    assert b"Traceback" not in server.log.read_bytes()
    assert b'"level":"error"' not in server.log.read_bytes()


async def test_settings_that_do_not_exist(tmp_path: Path) -> None:
    config = tmp_path / "chatcore.toml"
    config.write_text('[limits]\nframe_byts = "4KiB"\n')
    code, out, error = await run("serve", "--config", config, "--data", tmp_path / "data")
    assert (code, out) == (1, "")
    assert "unknown setting limits.frame_byts; did you mean limits.frame_size?" in error


async def test_on_a_terminal_it_says_what_to_type_next(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore_server.cli", "serve", "--port", "0", "--http-port", "0", "--data", folder,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=slave,
    )  # fmt: skip
    os.close(slave)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        line = (await process.stdout.readline()).decode()
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    shown = os.read(master, 65536).decode()
    os.close(master)
    address = line.split("tcp=")[1].split()[0]
    assert " chat --as " in shown
    assert f"--data {folder} {address}" in " ".join(shown.split())
    assert "ready" in shown  # the log is readable, not JSON
    assert '{"' not in shown


async def test_config_shows_what_serve_would_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "chatcore.toml"
    file.write_text('[limits]\nheartbeat = "7s"\n')
    monkeypatch.setenv("CHATCORE_LIMITS_CHANNELS", "9")
    code, out, error = await run("config", "--config", file, "--set", "limits.members=5", "--json")
    assert (code, error) == (0, "")
    settings = json.loads(out)
    assert settings["limits.heartbeat"] == {"value": "7s", "origin": str(file)}
    assert settings["limits.channels"] == {"value": 9, "origin": "CHATCORE_LIMITS_CHANNELS"}
    assert settings["limits.members"] == {"value": 5, "origin": "--set"}
    assert not (tmp_path / "data").exists()


async def test_config_is_a_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATCORE_LIMITS_CHANELS", "9")
    code, out, error = await run("config")
    assert (code, out) == (1, "")
    assert error == "chatcore: unknown variable CHATCORE_LIMITS_CHANELS; did you mean CHATCORE_LIMITS_CHANNELS?\n"


async def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    code, out, _ = await run("config", "--example")
    assert code == 0
    file = tmp_path / "chatcore.toml"
    file.write_text(out)
    assert (await run("config", "--config", file))[0] == 0
