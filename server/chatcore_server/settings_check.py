"""What concerns more than one setting: which of them do not go together. Never opens what they name."""

import ipaddress
from collections.abc import Callable, Iterator
from itertools import combinations
from typing import NamedTuple

from chatcore_ext.constants import SEND_PREFIX_SIZE
from chatcore_server.settings import ServerSettings, SettingsError
from chatcore_server.units import format_size

_EVERYWHERE = {"0.0.0.0", "::", ""}  # addresses that stand for all of the machine
_Called = Callable[[str], str]


def check(settings: ServerSettings, called: _Called = str) -> None:
    """Raises SettingsError. `called`: what its text calls a key, as with its value and who set it."""
    for each in (_check_sizes, _check_encryption, _check_doors, _check_development_secret):
        each(settings, called)


def _check_sizes(settings: ServerSettings, called: _Called) -> None:
    limits = settings.limits
    most = limits.frame_bytes - SEND_PREFIX_SIZE
    if limits.body_bytes > most:
        raise SettingsError(
            f"{called('limits.body_size')} must be at most {format_size(most)}: {called('limits.frame_size')} holds no"
            " more"
        )
    for key, size in (("limits.frame_size", limits.frame_bytes), ("limits.sync_size", limits.sync_bytes)):
        if limits.pause_bytes < size:
            raise SettingsError(f"{called('limits.pause_size')} must be at least {called(key)}")
    if limits.pending_bytes < 2 * limits.pause_bytes:
        raise SettingsError(f"{called('limits.pending_size')} must be at least twice {called('limits.pause_size')}")
    if limits.total_pending_bytes < limits.pending_bytes:
        raise SettingsError(f"{called('limits.total_pending_size')} must be at least {called('limits.pending_size')}")


def _check_encryption(settings: ServerSettings, called: _Called) -> None:
    tls, websocket = settings.tls, settings.websocket
    for key, is_encrypted in (("tls.enabled", tls.enabled), ("websocket.tls", websocket.enabled and websocket.tls)):
        if is_encrypted and not tls.certificate_file:
            raise SettingsError(f"tls.certificate_file must name the server's certificate: {called(key)}")
    if tls.client_certificates != "none" and not tls.client_ca_file:
        raise SettingsError(
            f"tls.client_ca_file must name who signs the clients' certificates: {called('tls.client_certificates')}"
        )


class _Place(NamedTuple):
    """Where something listens."""

    key: str
    host: str
    port: int

    def is_shared_with(self, other: "_Place") -> bool:
        """As far as the text tells; the system knows other names of one address."""
        hosts = {self.host.strip("[]"), other.host.strip("[]")}
        return self.port == other.port != 0 and (len(hosts) == 1 or bool(hosts & _EVERYWHERE))


def _places(settings: ServerSettings) -> Iterator[_Place]:
    yield _Place("port", settings.host, settings.port)
    if settings.tls.enabled:
        yield _Place("tls.port", settings.host, settings.tls.port)
    if settings.websocket.enabled:
        yield _Place("websocket.port", settings.host, settings.websocket.port)
    yield _Place("http_port", settings.http_host, settings.http_port)


def _check_doors(settings: ServerSettings, called: _Called) -> None:
    for one, other in combinations(_places(settings), 2):
        if one.is_shared_with(other):
            raise SettingsError(f"{called(one.key)} and {called(other.key)} must differ, or be 0 for any free one")
    path = settings.websocket.path
    if not path.startswith("/") or "?" in path:
        raise SettingsError(f"{called('websocket.path')} must begin with a slash and have no '?'")


def _check_development_secret(settings: ServerSettings, called: _Called) -> None:
    if not settings.authentication.is_configured and not is_loopback(settings.host):
        raise SettingsError(
            f"refusing to listen on {settings.host} with the development secret: who reads the data folder could be"
            " any player. Set authentication.secret_file (HS256), public_key_file or jwks_file (RS256, ES256, EdDSA),"
            f" or listen on 127.0.0.1. It is {called('host')}"
        )


def is_loopback(host: str) -> bool:
    """Of names only "localhost" counts: any other may resolve to something else tomorrow."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
