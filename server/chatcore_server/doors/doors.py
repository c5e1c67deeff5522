"""All doors of one worker: which are open, and what a connection has to pass before the hub has it.

In this order: the load balancer's header, TLS, the WebSocket handshake. Reads nothing of the chat protocol.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Protocol, cast

from chatcore_ext.hub import Hub
from chatcore_ext.transport_link import TransportLink
from chatcore_server.accepting import AcceptWatch
from chatcore_server.doors.certificates import CertificateError, CertificateKeeper
from chatcore_server.doors.listening import Acceptor, DoorError, bind, listen
from chatcore_server.doors.proxy_protocol import ProxyHeaderError, TrustedProxies, read_header
from chatcore_server.doors.websocket import WebSocketDoor
from chatcore_server.logging import get_logger
from chatcore_server.settings import ServerSettings

_TEND_S = 1.0  # how often a change of the certificate's files is looked for, and whether accepting has paused
_TLS_HANDSHAKE_S = 3600.0  # the hub's time for HELLO ends those that take too long
_CHOSEN_BY = {"tcp": "--host and --port", "tls": "tls.port", "websocket": "websocket.port"}
_log = get_logger()
_Take = Callable[[socket.socket, str], Awaitable[None]]


class _Link(Protocol):
    """TransportLink or WebSocketLink."""

    def open(self, _give_up: Callable[[], object] | None = None, /) -> bool: ...
    def connection_lost(self, _error: Exception | None, /) -> None: ...


@dataclass
class DoorCounters:
    """What the hub cannot count, since it does not have the connection yet."""

    proxy_headers_refused: int = 0  # no header of a load balancer, or none that is trusted
    tls_handshakes_failed: int = 0


class Doors:
    """`bind`, `open`, `stop_listening`, `close`. Loop thread only."""

    def __init__(self, settings: ServerSettings) -> None:
        """Raises DoorError if there is no certificate that can be used."""
        self._settings = settings
        self._sockets: dict[str, socket.socket] = {}
        self._acceptors: list[Acceptor] = []
        self._proxies = TrustedProxies(settings.proxy_protocol.trusted) if settings.proxy_protocol.trusted else None
        self._counters = DoorCounters()
        self._certificates: CertificateKeeper | None = None
        self._websocket: WebSocketDoor | None = None
        self._accepting = AcceptWatch()
        self._tending: asyncio.TimerHandle | None = None
        if settings.tls.enabled or (settings.websocket.enabled and settings.websocket.tls):
            try:
                self._certificates = CertificateKeeper(settings.tls)
            except CertificateError as error:
                raise DoorError(str(error)) from None

    @property
    def ports(self) -> dict[str, int]:
        """Of the open doors, by name: tcp, tls, websocket."""
        return {name: bound.getsockname()[1] for name, bound in self._sockets.items()}

    def counters(self) -> dict[str, int]:
        return asdict(self._counters) | {"door_accept_pauses": self._n_accept_pauses}

    # ---- Opening and closing -----------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Takes the addresses; nobody can connect yet. Raises DoorError."""
        settings = self._settings
        self._sockets["tcp"] = bind(settings.host, settings.port, _CHOSEN_BY["tcp"])
        if settings.tls.enabled:
            self._sockets["tls"] = bind(settings.host, settings.tls.port, _CHOSEN_BY["tls"])
        if settings.websocket.enabled:
            self._sockets["websocket"] = bind(settings.host, settings.websocket.port, _CHOSEN_BY["websocket"])

    def open(self, hub: Hub, wake: Callable[[], None]) -> None:
        """Connections come in from here on. `wake()` has the hub flushed at the end of the turn. Raises DoorError."""
        for name, bound in self._sockets.items():
            listen(bound, _CHOSEN_BY[name])
        self._open_tcp(hub, wake)
        if "tls" in self._sockets:
            self._accept("tls", partial(self._connect, partial(TransportLink, hub, wake), True))
        if "websocket" in self._sockets:
            settings = self._settings
            self._websocket = WebSocketDoor(hub, wake, settings.websocket, settings.limits)
            self._accept("websocket", partial(self._connect, self._websocket.new_link, settings.websocket.tls))
        self._tend()

    def take_settings(self, settings: ServerSettings) -> None:
        """For those who come in from now on: load balancers, origins and limits may differ."""
        self._settings = settings
        if self._proxies is not None:
            self._proxies = TrustedProxies(settings.proxy_protocol.trusted)
        if self._websocket is not None:
            self._websocket.take_settings(settings.websocket, settings.limits)

    def _open_tcp(self, hub: Hub, wake: Callable[[], None]) -> None:
        if self._settings.engine == "transport":
            self._accept("tcp", partial(self._connect, partial(TransportLink, hub, wake), False))
        elif self._proxies is None:
            hub.listen(self._sockets["tcp"].fileno())
        else:
            self._accept("tcp", partial(self._adopt, hub, wake))

    def _accept(self, name: str, take: _Take) -> None:
        acceptor = Acceptor(self._sockets[name], partial(self._welcome, take))
        self._acceptors.append(acceptor)
        acceptor.start()

    def _tend(self) -> None:
        loop = asyncio.get_running_loop()
        if self._certificates is not None:
            self._certificates.refresh()
        self._accepting.look(self._n_accept_pauses, loop.time())
        self._tending = loop.call_later(_TEND_S, self._tend)

    @property
    def _n_accept_pauses(self) -> int:
        return sum(acceptor.n_pauses for acceptor in self._acceptors)

    def stop_listening(self) -> None:
        """Who connects now is refused, and does not wait in a backlog that nobody looks at. The hub must have stopped
        accepting."""
        for acceptor in self._acceptors:
            acceptor.stop()
        for bound in self._sockets.values():
            bound.close()
        if self._tending is not None:
            self._tending.cancel()

    async def close(self) -> None:
        """Drops those that are still shaking hands."""
        for acceptor in self._acceptors:
            await acceptor.close()

    # ---- Coming in ---------------------------------------------------------------------------------------------------

    async def _welcome(self, take: _Take, accepted: socket.socket, address: str) -> None:
        try:
            if self._proxies is not None:
                address = await self._announced(accepted, address)
            await take(accepted, address)
        except (ProxyHeaderError, EOFError, TimeoutError) as error:
            self._counters.proxy_headers_refused += 1
            _log.debug("proxy_header_refused", address=address, reason=str(error))
            accepted.close()
        except OSError:  # the peer is gone
            accepted.close()
        except BaseException:
            accepted.close()
            raise

    async def _announced(self, accepted: socket.socket, address: str) -> str:
        """The address that the load balancer says; its own, if it speaks for itself. Raises ProxyHeaderError."""
        assert self._proxies is not None
        if address not in self._proxies:
            raise ProxyHeaderError("not from a trusted address")
        async with asyncio.timeout(self._settings.limits.hello_timeout_ms / 1000):
            return await read_header(accepted) or address

    async def _adopt(self, hub: Hub, wake: Callable[[], None], accepted: socket.socket, address: str) -> None:
        hub.adopt(accepted.fileno(), address)
        accepted.detach()
        wake()

    async def _connect(
        self, new_link: Callable[[str], _Link], is_encrypted: bool, accepted: socket.socket, address: str
    ) -> None:
        link = new_link(address)
        context = self._certificates.context if is_encrypted and self._certificates is not None else None
        task = asyncio.current_task()
        assert task is not None
        # A connection that will be shaking hands counts already, and its time for HELLO runs.
        if context is not None and not link.open(task.cancel):
            link.connection_lost(None)
            accepted.close()
            return
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: cast(asyncio.BaseProtocol, link),  # by shape
                accepted,
                ssl=context,
                ssl_handshake_timeout=None if context is None else _TLS_HANDSHAKE_S,
            )
        except BaseException as error:
            link.connection_lost(None)
            accepted.close()
            if not isinstance(error, OSError):
                raise
            if is_encrypted:
                self._counters.tls_handshakes_failed += 1
