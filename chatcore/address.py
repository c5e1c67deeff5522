"""Where a server is and through which door: `HOST:PORT`, tls://, ws:// or wss:// taken apart. Opens nothing."""

import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

DEFAULT_PORT = 7400
DEFAULT_TLS_PORT = 7443
# Those of ws:// and wss:// are the standard's, RFC 6455, section 3: a WebSocket usually lives behind a web server.
_FORMS = "it is HOST:PORT, or [IPV6]:PORT, with a port from 1 to 65535"
_DEFAULT_PORTS = {"tcp": DEFAULT_PORT, "tls": DEFAULT_TLS_PORT, "ws": 80, "wss": 443}


class ServerAddress(NamedTuple):
    """A door of a server."""

    host: str
    port: int
    scheme: str = "tcp"  # tcp, tls, ws or wss
    path: str = "/"  # of a WebSocket, with its query

    @property
    def is_encrypted(self) -> bool:
        return self.scheme in ("tls", "wss")

    @property
    def is_websocket(self) -> bool:
        return self.scheme in ("ws", "wss")

    @property
    def uri(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path if self.is_websocket else ''}"


def parse_address(text: str, port: int | None = None) -> ServerAddress:
    """`text` is a host, `HOST:PORT`, or a URL with one of the four schemes; `port` where it names none.

    Raises ValueError.
    """
    is_bare_ipv6 = "://" not in text and text.count(":") > 1 and not text.startswith("[")
    url = f"tcp://[{text}]" if is_bare_ipv6 else text if "://" in text else f"tcp://{text}"
    try:
        parts = urlsplit(url)
        named = parts.port
    except ValueError:  # urllib's texts name neither the address nor what would be one
        raise ValueError(f"{text} is no address of a server: {_FORMS}") from None
    if parts.scheme not in _DEFAULT_PORTS:
        raise ValueError(f"{text}: a server's address begins with tcp://, tls://, ws:// or wss://")
    if not parts.hostname or parts.username is not None or parts.fragment or named == 0:
        raise ValueError(f"{text} is no address of a server: {_FORMS}")
    if parts.scheme in ("tcp", "tls") and (parts.path.strip("/") or parts.query):
        raise ValueError(f"{text}: only a WebSocket's address has a path")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    chosen = named if named is not None else port
    return ServerAddress(parts.hostname, _DEFAULT_PORTS[parts.scheme] if chosen is None else chosen, parts.scheme, path)


def encryption(address: ServerAddress, context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    """What to connect with: the system's certificate authorities unless told otherwise; None for a door in clear."""
    if not address.is_encrypted:
        return None
    return context if context is not None else ssl.create_default_context()
