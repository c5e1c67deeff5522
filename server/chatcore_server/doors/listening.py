"""Listening sockets, and the acceptor of those that the hub does not accept on by itself. Reads and writes nothing."""

import asyncio
import errno
import socket
from collections.abc import Callable, Coroutine

from chatcore_server.logging import get_logger
from chatcore_server.tasks import Tasks

BACKLOG = 4096  # connections that wait to be accepted: a wave of reconnecting clients
_ACCEPTS_PER_TURN = 64  # a storm of new connections must not hold up those that are here
_PAUSE_S = 0.1  # until there may be descriptors again
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_log = get_logger()

Welcome = Callable[[socket.socket, str], Coroutine[object, object, None]]


class DoorError(Exception):
    """A door cannot be opened. The text says what to do."""


def bind(host: str, port: int, settings: str) -> socket.socket:
    """A socket that holds the address and does not listen yet: who connects too early is refused and comes again.

    `settings`: what chooses another address, for the error's text. Raises DoorError.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise DoorError(f"{host} is no address of this machine: {error.strerror}") from None
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setblocking(False)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _cannot_listen(host, port, error, settings) from None
    return bound


def listen(bound: socket.socket, settings: str) -> None:
    """Raises DoorError if another one listens on its address since it was bound: two may bind the same."""
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        host, port = bound.getsockname()[:2]
        raise _cannot_listen(host, port, error, settings) from None


def _cannot_listen(host: str, port: int, error: OSError, settings: str) -> DoorError:
    return DoorError(f"cannot listen on {host}:{port}: {error.strerror}. Choose another with {settings}")


class Acceptor:
    """Hands each connection of a listening socket to a coroutine that owns it, with the peer's address."""

    def __init__(self, listening: socket.socket, welcome: Welcome) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = listening
        self._welcome = welcome
        self._tasks = Tasks()
        self._resuming: asyncio.TimerHandle | None = None
        self.n_pauses = 0  # out of descriptors or memory

    def start(self) -> None:
        self._resuming = None
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def stop(self) -> None:
        """Before the socket is closed. Those that are being welcomed go on."""
        if self._resuming is not None:
            self._resuming.cancel()
        self._loop.remove_reader(self._listening.fileno())

    async def close(self) -> None:
        await self._tasks.cancel()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                self._pause(error)
                return
            accepted.setblocking(False)
            self._tasks.spawn(self._welcome(accepted, str(address[0])))

    def _pause(self, error: OSError) -> None:
        """The connection stays in the queue and the listener readable: without a pause we would spin on it."""
        if error.errno not in _OUT_OF_RESOURCES:
            _log.error("accept_failed", reason=str(error))
        self.n_pauses += 1
        self._loop.remove_reader(self._listening.fileno())
        self._resuming = self._loop.call_later(_PAUSE_S, self.start)
