"""`chatcore serve`: opens everything in its order, says when it is ready, and stops in the opposite order.

Standard output gets the ready line and nothing else. Decides nothing about chat.
"""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import msgspec
import uvloop

from chatcore_ext.constants import DEFAULT_MAX_CONNECTIONS
from chatcore_server.admin import Admin
from chatcore_server.authentication import admin_token, data_secret, make_authenticator, read_admin_token, ticket_key
from chatcore_server.backends import BackendUnavailable
from chatcore_server.doors import DoorError, Doors
from chatcore_server.embedded import EmbeddedStore, EmbeddedStoreError
from chatcore_server.http import HttpServer, health_routes, metrics_routes
from chatcore_server.logging import configure_logging, get_logger
from chatcore_server.login import chatcore_version
from chatcore_server.metrics import Exposition
from chatcore_server.reloading import Reloader
from chatcore_server.settings import AdminSettings, ServerSettings, naming
from chatcore_server.tickets import TicketSigner
from chatcore_server.worker import Worker

# Of the process itself: the store's files, listeners, HTTP; and 64 connections that come in one turn, before those
# whose place they take are gone.
_OWN_DESCRIPTORS = 128
_CLOSING_SHARE = 16  # one connection in so many may be ending, where there are not descriptors enough for all settings
_DRAIN_SHARE = 0.8  # of the deadline: the rest is for writing the log out
_TERMINAL_LOOK_S = 1.0  # how often it is looked whether the terminal that gets the log is still there
_log = get_logger()


class ServeError(Exception):
    """The server cannot start. The text says what to do."""


class Server:
    """One worker on the embedded default. `start`, wait, `stop`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self.ports: dict[str, int] = {}  # by door: tcp, tls, websocket
        self.http_port = 0
        self.doors: Doors | None = None
        self.worker: Worker | None = None
        self.store: EmbeddedStore | None = None
        self._http = HttpServer()
        self._is_stopping = False

    async def start(self) -> None:
        """Accepts connections when it returns. Raises ServeError, SettingsError; then `stop` still has to be called."""
        folder = Path(self.settings.data)
        secret = cache(partial(data_secret, folder))  # made after all else is read: a wrong key leaves no folder
        try:
            self.doors = Doors(self.settings)
            self.doors.bind()
            token = _read_admin_token(self.settings.admin)
            authenticator = make_authenticator(self.settings, secret)
            signer = TicketSigner(ticket_key(secret()), self.settings.ticket_lifetime_ms)
            store = EmbeddedStore(folder, self.settings.embedded)
            await store.open()
            self.store = store
            self.worker = Worker(self.settings, store, authenticator, signer)
            await self.worker.start()
            self.http_port = await self._start_http(self.worker, store, token or admin_token(secret()))
            self.doors.open(self.worker.hub, self.worker.wake)
        except (EmbeddedStoreError, DoorError) as error:
            raise ServeError(str(error)) from None
        except BackendUnavailable as error:
            raise ServeError(f"the message log cannot be read: {error}") from None
        except OSError as error:
            raise ServeError(f"the server cannot start: {error.strerror or error}") from None
        self.ports = self.doors.ports

    @property
    def port(self) -> int:
        """Of the TCP door."""
        return self.ports["tcp"]

    async def _start_http(self, worker: Worker, store: EmbeddedStore, token: str) -> int:
        exposition = Exposition(
            self.counters, lambda: worker.histograms() | store.histograms(), version=chatcore_version()
        )
        for routes in (
            health_routes(self._why_not_ready),
            metrics_routes(exposition),
            Admin(worker.context, token).routes(),
        ):
            self._http.add(routes)
        host, port = self.settings.http_host, self.settings.http_port
        try:
            return await self._http.start(host, port)
        except OSError as error:
            raise ServeError(
                f"cannot serve HTTP on {host}:{port}: {error.strerror}. Choose others with http_host and --http-port"
            ) from None

    def _stop_listening(self) -> None:
        if self.worker is not None:
            self.worker.hub.stop_accepting()
        if self.doors is not None:
            self.doors.stop_listening()

    def _why_not_ready(self) -> str:
        if self._is_stopping:
            return "draining"
        if self.worker is None or not self.worker.is_accepting:
            return "starting"
        return "" if self.worker.is_log_answering else "the message log does not answer"

    def counters(self) -> dict[str, int]:
        """Everything that is counted, by name: connections that never came to the worker, the worker's, and the
        store's. Costs the same however many connections there are."""
        counted = {"ready": int(not self._why_not_ready())}
        for part in (self.doors, self.worker, self.store):
            if part is not None:
                counted |= part.counters()
        return counted

    def take_settings(self, settings: ServerSettings) -> None:
        """Runs on these from now on; they differ only in what may change. Raises SettingsError, and then nothing has
        changed.
        """
        assert self.worker is not None and self.doors is not None, "started"
        self.worker.take_settings(settings)
        self.doors.take_settings(settings)
        if settings.logging != self.settings.logging:
            configure_logging(settings.logging.level, settings.logging.format)
        self.settings = settings

    async def stop(self) -> bool:
        """Drains and closes, within the deadline. True if nothing was left undone. Harmless after a failed `start`."""
        self._is_stopping = True
        deadline_s = self.settings.drain.deadline_ms / 1000
        is_clean = True
        self._stop_listening()
        if self.worker is not None:
            is_clean = await self.worker.drain(deadline_s * _DRAIN_SHARE)
        if self.doors is not None:
            await self.doors.close()
        if self.worker is not None:
            await self.worker.close()
        if self.store is not None:
            await self.store.close()
        await self._http.stop()
        return is_clean


def serve(settings: ServerSettings, resolve: Callable[[], ServerSettings], on_ready: Callable[[Server], None]) -> int:
    """Until SIGTERM or SIGINT; the process's exit code. A second one ends the process at once. Raises ServeError
    and SettingsError.

    On SIGHUP `resolve` reads the settings anew, and what can change does.
    """
    n_descriptors = _raise_descriptor_limit()
    if n_descriptors <= _OWN_DESCRIPTORS:
        raise ServeError(
            f"this process may open {n_descriptors} files, and needs more than {_OWN_DESCRIPTORS}: raise ulimit -n"
        )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        server = runner.run(_make_server(_fitting_descriptors(settings, n_descriptors)))
        reloader = Reloader(
            settings, resolve, lambda wanted: server.take_settings(_fitting_descriptors(wanted, n_descriptors))
        )
        return runner.run(_serve(server, reloader, on_ready))


def _read_admin_token(settings: AdminSettings) -> str:
    """ "": none is configured. Raises SettingsError."""
    if not settings.token_file:
        return ""
    with naming("admin.token_file"):
        return read_admin_token(Path(settings.token_file))


async def _make_server(settings: ServerSettings) -> Server:
    return Server(settings)


async def _serve(server: Server, reloader: Reloader, on_ready: Callable[[Server], None]) -> int:
    loop = asyncio.get_running_loop()
    asked_to_stop, asked_to_reload = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, loop, number, asked_to_stop)
    loop.add_signal_handler(signal.SIGHUP, _on_hangup, sys.stderr.isatty(), asked_to_reload)
    try:
        await server.start()
        # What is there now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        on_ready(server)
    except BaseException:
        with contextlib.suppress(Exception):
            await server.stop()
        raise
    settings = server.settings
    _log.info("ready", host=settings.host, **server.ports, http=server.http_port, data=settings.data)
    reloading = asyncio.create_task(_reload_when_asked(reloader, asked_to_reload))
    watching = asyncio.create_task(_watch_terminal(sys.stderr.isatty()))
    await asked_to_stop.wait()
    reloading.cancel()
    watching.cancel()
    _log.info("draining")
    stopping = asyncio.create_task(server.stop())
    done, _ = await asyncio.wait([stopping], timeout=server.settings.drain.deadline_ms / 1000)
    if not done:
        _log.error("stopped", reason="the deadline is over and something is still under way")
        os._exit(1)  # a thread that waits for a hung disk would keep the interpreter from ending
    _log.info("stopped", clean=stopping.result())
    return 0


async def _reload_when_asked(reloader: Reloader, asked: asyncio.Event) -> None:
    """Not before the server is ready; several requests at once are one."""
    while await asked.wait():
        asked.clear()
        try:
            reloader.reload()
        except Exception as error:  # a mistake of ours: it must not be the last reload
            _log.error("reload_failed", exc_info=error)


def _on_hangup(had_terminal: bool, asked_to_reload: asyncio.Event) -> None:
    """Read the configuration; but where there was a terminal and is none any more, the signal means that and ends the
    process at once: whatever is logged would fail."""
    _end_without_terminal(had_terminal)
    asked_to_reload.set()


async def _watch_terminal(had_terminal: bool) -> None:
    """The kernel sends the signal to the first process of the terminal's session alone: `make` keeps it to itself."""
    while had_terminal:
        await asyncio.sleep(_TERMINAL_LOOK_S)
        _end_without_terminal(had_terminal)


def _end_without_terminal(had_terminal: bool) -> None:
    if had_terminal and not sys.stderr.isatty():
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGHUP)


def _on_signal(loop: asyncio.AbstractEventLoop, number: signal.Signals, asked_to_stop: asyncio.Event) -> None:
    asked_to_stop.set()
    for other in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(other)
        signal.signal(other, signal.SIG_DFL)  # the next one means it


def _fitting_descriptors(settings: ServerSettings, n_descriptors: int) -> ServerSettings:
    """With no more connections than there can be: one too many then hears so, and the log keeps its files."""
    wanted = settings.limits
    possible = max(n_descriptors - _OWN_DESCRIPTORS, 2)
    if wanted.connections + wanted.closing <= possible:
        return settings
    closing = min(wanted.closing, max(possible // _CLOSING_SHARE, possible - wanted.connections, 1))
    connections = min(wanted.connections, possible - closing)
    if connections < wanted.connections != DEFAULT_MAX_CONNECTIONS:  # somebody counts on it
        _log.warning("connections_limited", connections=connections, reason=f"ulimit -n is {n_descriptors}")
    limits = msgspec.structs.replace(wanted, connections=connections, closing=closing)
    return msgspec.structs.replace(settings, limits=limits)


def _raise_descriptor_limit() -> int:
    """Every connection is a descriptor; the usual soft limit is 1,024. Returns what it is now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
