"""Servers for tests: in the test's own loop, and as a child process that can be killed."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from chatcore_server.authentication import data_secret, development_token_key, make_token
from chatcore_server.serve import Server
from chatcore_server.settings import ServerSettings
from chatcore_server.settings_layers import load_settings
from chatcore_server.worker import Worker
from support.certificates import write_server_certificate
from support.players import Player, player

START_DEADLINE_S = 20.0
EVERY_DOOR = ["tcp", "transport", "tls", "websocket"]
_Result = TypeVar("_Result")


def token_for(folder: Path, name: str, lifetime_s: int = 3600, channels: list[str] | None = None) -> str:
    return make_token(development_token_key(data_secret(folder)), name, lifetime_s, channels)


def door_settings(door: str, folder: Path) -> dict[str, Any]:
    """What opens a door on a free port."""
    match door:
        case "transport":
            return {"engine": "transport"}
        case "tls":
            file = str(write_server_certificate(folder))
            return {"tls": {"enabled": True, "port": 0, "certificate_file": file}}
        case "websocket":
            return {"websocket": {"enabled": True, "port": 0}}
    return {}


class LocalServer:
    """A server on uvloop in a thread of its own, on free ports, with players that are closed at its end.

    Its clients come in by one door: "tcp", "transport" (TCP on uvloop's own sockets), "tls" or "websocket"."""

    def __init__(self, folder: Path, layer: dict[str, Any], door: str = "tcp") -> None:
        self.door = door
        ports = {"port": 0, "http_port": 0, "data": str(folder), "drain": {"goaway": 0, "deadline": "2s"}}
        self.folder = folder
        self.players: list[Player] = []
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._thread.start()
        self.server = self._run(_make_server(load_settings(ports, door_settings(door, folder.parent), layer)))

    def _run(self, coroutine: Coroutine[None, None, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(START_DEADLINE_S)

    def do(self, action: Callable[[Worker], _Result]) -> _Result:
        """Have something done on the server's thread."""

        async def run() -> _Result:
            assert self.server.worker is not None
            return action(self.server.worker)

        return self._run(run())

    def counted(self, name: str) -> int:
        return self.do(lambda worker: self.server.counters()).get(name, 0)

    def start(self) -> "LocalServer":
        self._run(self.server.start())
        return self

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def uri(self) -> str:
        scheme, name = {"tls": ("tls", "tls"), "websocket": ("ws", "websocket")}.get(self.door, ("tcp", "tcp"))
        return f"{scheme}://127.0.0.1:{self.server.ports[name]}"

    def token(self, name: str, lifetime_s: int = 3600, channels: list[str] | None = None) -> str:
        return token_for(self.folder, name, lifetime_s, channels)

    async def login(self, name: str, **options: Any) -> Player:
        self.players.append(player(self.uri, self.token(name, **options)))
        return await self.players[-1].start()

    async def stop(self) -> None:
        try:
            await asyncio.gather(*(each.close() for each in self.players))
            self.do(lambda worker: worker.hub.check_invariants())
            for each in self.players:
                each.check_order()
        finally:
            self._run(self.server.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _make_server(settings: ServerSettings) -> Server:
    return Server(settings)


class ServerProcess:
    """`chatcore serve` as a child process. After `kill` or `terminate`, `start` continues on the same folder and
    port."""

    def __init__(self, folder: Path, config: str = "", n_descriptors: int = 0) -> None:
        """`n_descriptors`: what `ulimit -n` is for it; 0: as for the test."""
        self.folder = folder
        self._prefix = ["prlimit", f"--nofile={n_descriptors}:{n_descriptors}"] if n_descriptors else []
        self.port = 0
        self.http_port = 0
        self.ports: dict[str, int] = {}  # as the ready line names them
        self.config = folder.parent / f"{folder.name}.toml"
        self.config.write_text(config)
        self._process: asyncio.subprocess.Process | None = None
        self.log = folder.parent / f"{folder.name}.log"

    async def start(self) -> None:
        """Returns when it has printed its ready line. Raises AssertionError if it does not."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._prefix,
                sys.executable,
                "-m",
                "chatcore_server.cli",
                "serve",
                "--config",
                self.config,
                "--data",
                self.folder,
                "--port",
                str(self.port),
                "--http-port",
                "0",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_DEADLINE_S):
            line = (await self._process.stdout.readline()).decode()
        assert line.startswith("chatcore ready tcp=127.0.0.1:"), f"{line!r}, {self.log.read_text()[-2000:]}"
        fields = dict(field.split("=") for field in line.split()[2:])
        self.ports = {name: int(address.rpartition(":")[2]) for name, address in fields.items()}
        self.port, self.http_port = self.ports["tcp"], self.ports["http"]

    def token(self, name: str) -> str:
        return token_for(self.folder, name)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def ended(self, deadline_s: float = 15.0) -> tuple[int, bytes]:
        """Its exit code, and what else it printed on standard output."""
        assert self._process is not None
        async with asyncio.timeout(deadline_s):
            rest, _ = await self._process.communicate()
            return await self._process.wait(), rest

    async def kill(self) -> None:
        self.send_signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()
