"""The server's settings: what may be chosen, the defaults, and how file and flags are laid over them.

Each Struct is a table of the configuration file. Durations are in ms and sizes in bytes, as the names say. Never opens
a socket or a key; the environment and live reload are layers that come later (`load_settings` takes any number of
them).
"""

import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

import msgspec

from chatcore_ext import constants
from chatcore_server.embedded.settings import EmbeddedSettings


class SettingsError(Exception):
    """A setting is unknown, of the wrong type or out of range. The text names the key and what it must be."""


class AuthenticationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who signs the players' tokens. Neither key: a development secret in the data folder, on loopback only."""

    secret_file: str = ""  # HS256: at least 32 bytes, as they are (a newline at the end is cut off)
    public_key_file: str = ""  # EdDSA: an Ed25519 public key in PEM

    @property
    def is_configured(self) -> bool:
        return bool(self.secret_file or self.public_key_file)


class SessionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A player's devices."""

    sessions_per_player: int = 8
    # "refuse": the new login fails; "newest_wins": the oldest session ends. A session without a connection gives way
    # first.
    on_excess: Literal["refuse", "newest_wins"] = "refuse"
    resume_grace_ms: int = constants.DEFAULT_RESUME_GRACE_MS


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may cost."""

    frame_bytes: int = constants.DEFAULT_MAX_FRAME_SIZE
    body_bytes: int = 4_000  # of a message: a little less than a frame holds, so that most that are over it are told so
    pending_bytes: int = constants.DEFAULT_MAX_PENDING_SIZE  # unsent to one client, then it is closed
    pause_bytes: int = constants.DEFAULT_MAX_PENDING_SIZE // 2  # unsent, then messages wait until all is out (GAP)
    connections: int = constants.DEFAULT_MAX_CONNECTIONS
    half_open: int = constants.DEFAULT_MAX_HALF_OPEN  # of these: before WELCOME
    connections_per_address: int = constants.DEFAULT_MAX_CONNECTIONS_PER_ADDRESS
    accepts_per_second: int = constants.DEFAULT_ACCEPTS_PER_SECOND  # of one address
    accept_burst: int = constants.DEFAULT_ACCEPT_BURST
    failed_logins_per_second: int = 1  # of one address: hopeless for guessing, and players' clients stop by themselves
    failed_login_burst: int = 100  # a carrier's address at the moment when a game's tokens expire
    # Networks for whose addresses the five limits above do not hold: load tests, load balancers without PROXY headers.
    unlimited_addresses: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    channels: int = constants.DEFAULT_MAX_CHANNELS_PER_CONNECTION
    room_members: int = 100_000  # connections in one room
    frames_per_second: int = constants.DEFAULT_FRAMES_PER_SECOND
    frame_burst: int = constants.DEFAULT_FRAME_BURST
    player_frames_per_second: int = 3 * constants.DEFAULT_FRAMES_PER_SECOND  # all devices of a player together
    player_frame_burst: int = 3 * constants.DEFAULT_FRAME_BURST
    player_bytes_per_second: int = 0  # 0: BYTES_PER_FRAME for each of these frames
    player_byte_burst: int = 0
    joins_per_second: int = 50  # of one player
    join_burst: int = 1_000  # a player with a few devices, all of which join what they can
    hello_timeout_ms: int = constants.DEFAULT_HELLO_TIMEOUT_MS
    heartbeat_ms: int = constants.DEFAULT_HEARTBEAT_MS
    heartbeat_grace_ms: int = constants.DEFAULT_HEARTBEAT_GRACE_MS
    sync_bytes: int = (
        65_536  # message bytes in one answer to `sync`: a quarter of pending_bytes, so that it always fits
    )
    requests_under_way: int = 512  # of one connection: a client that joins all its channels at once, and then some
    conversations: int = 256  # in WELCOME and in the answer to `conversations`
    members: int = 1_000  # in the answer to `members`
    blocks: int = 1_000  # that a player may have: they are looked up at each login
    friends: int = 1_000  # that a player may have: each is told of the player's comings and goings

    @property
    def largest_body(self) -> int:
        """Bytes: `body_bytes`, unless a frame holds less."""
        return min(self.body_bytes, self.frame_bytes - constants.SEND_PREFIX_SIZE)


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every reader of the message log must agree on."""

    replay_window_ms: int = constants.DEFAULT_REPLAY_WINDOW_MS
    chain_idle_ms: int = constants.DEFAULT_CHAIN_IDLE_MS
    heads: int = constants.DEFAULT_MAX_HEADS


class DrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the server stops when it is asked to."""

    deadline_ms: int = 10_000  # then the process ends, whatever is under way
    goaway_ms: int = 1_000  # how long clients may go on sending after GOAWAY
    reconnect_window_ms: int = 2_000  # clients spread their reconnecting over this


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The door for clients that encrypt (TLS 1.2 and 1.3), and the certificate of all doors that do."""

    enabled: bool = False
    port: int = 7443
    certificate_file: str = ""  # PEM: the certificate, then those between it and the root
    key_file: str = ""  # PEM, without a password; empty: it is in certificate_file
    # Who signs the clients' own certificates, PEM; and whether they must have one.
    client_ca_file: str = ""
    client_certificates: Literal["none", "optional", "required"] = "none"


class WebSocketSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The door for browsers (RFC 6455)."""

    enabled: bool = False
    port: int = 7444
    tls: bool = False  # with the certificate under [tls]
    path: str = "/"
    # Of the pages whose scripts may connect, as "https://game.example"; "*" = all. A client that is no browser names
    # none and is let in.
    origins: tuple[str, ...] = ()


class ProxyProtocolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Load balancers that say before each connection whose it is (PROXY protocol, version 2), on all doors."""

    trusted: tuple[str, ...] = ()  # networks of the balancers; if there are any, nobody else may connect


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything. The defaults are a complete chat server on this machine alone."""

    host: str = "127.0.0.1"
    port: int = 7400
    http_host: str = "127.0.0.1"
    http_port: int = 7480
    data: str = "data"
    # "epoll": the server's own sockets. "transport": uvloop's, as TLS and WebSocket need it; slower, otherwise the
    # same.
    engine: Literal["epoll", "transport"] = "epoll"
    authentication: AuthenticationSettings = AuthenticationSettings()
    sessions: SessionSettings = SessionSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    drain: DrainSettings = DrainSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    tls: TlsSettings = TlsSettings()
    websocket: WebSocketSettings = WebSocketSettings()
    proxy_protocol: ProxyProtocolSettings = ProxyProtocolSettings()

    @property
    def ticket_lifetime_ms(self) -> int:
        """A ticket lives four fifths of the time in which a resend is recognised. So a resumed client may always send
        again what was open, and what it sends at the last moment may be a while on its way.
        """
        return self.log.replay_window_ms * 4 // 5


_ZERO_ALLOWED = {
    "port",
    "http_port",
    "resume_grace_ms",
    "goaway_ms",
    "reconnect_window_ms",
    "player_bytes_per_second",
    "player_byte_burst",
}
_MAX_BURST = 2_147_483  # a token bucket counts thousandths in 32 bits
_HIGHEST = {"port": 65_535, "http_port": 65_535, "frame_bytes": constants.MAX_BODY_LENGTH}
_LOG_FIELDS = ("replay_window_ms", "chain_idle_ms")


def load_settings(*layers: Mapping[str, object]) -> ServerSettings:
    """The defaults with each layer laid over the one before, table by table. Raises SettingsError."""
    merged: dict[str, object] = {}
    for layer in layers:
        merged = _laid_over(merged, layer)
    embedded = merged.get("embedded")
    for name in _LOG_FIELDS:
        if isinstance(embedded, Mapping) and name in embedded:
            raise SettingsError(f"embedded.{name} is set once for all readers: as log.{name}")
    try:
        settings = msgspec.convert(merged, ServerSettings)
        agreed = {name: getattr(settings.log, name) for name in _LOG_FIELDS}
        settings = msgspec.structs.replace(settings, embedded=msgspec.structs.replace(settings.embedded, **agreed))
    except ValueError as error:  # msgspec.ValidationError is one
        raise SettingsError(_readable(str(error))) from None
    _check_ranges(settings, "")
    return settings


def read_config(path: Path) -> dict[str, object]:
    """The configuration file as a layer. Raises SettingsError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None


def _laid_over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _laid_over(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _readable(message: str) -> str:
    """msgspec's "... unknown field `x` - at `$.limits`" as "unknown setting limits.x"."""
    text, _, place = message.partition(" - at `$")
    table = place.rstrip("`").removeprefix(".")
    unknown = re.search(r"unknown field `(.+)`", text)
    if unknown:
        return f"unknown setting {table + '.' if table else ''}{unknown.group(1)}"
    return f"{table}: {text}" if table else text


def _check_ranges(table: msgspec.Struct, path: str) -> None:
    for name in table.__struct_fields__:
        value = getattr(table, name)
        if isinstance(value, msgspec.Struct):
            _check_ranges(value, f"{path}{name}.")
        elif type(value) is int and not path.startswith("embedded."):  # that table checks itself
            lowest = 0 if name in _ZERO_ALLOWED else 1
            highest = _HIGHEST.get(name) or _highest_of(name)
            if not lowest <= value <= highest:
                raise SettingsError(f"{path}{name} must be {lowest} to {highest}, not {value}")
    if isinstance(table, ServerSettings):
        _check_doors(table)
    if isinstance(table, LimitSettings):
        if table.frame_bytes < 256:
            raise SettingsError("limits.frame_bytes must be at least 256: a HELLO with a token has to fit")
        if table.pause_bytes < max(table.frame_bytes, table.sync_bytes):
            raise SettingsError("limits.pause_bytes must be at least limits.frame_bytes and limits.sync_bytes")
        if table.pending_bytes < 2 * table.pause_bytes:
            raise SettingsError("limits.pending_bytes must be at least twice limits.pause_bytes")
        _check_networks("limits.unlimited_addresses", table.unlimited_addresses)


def _highest_of(name: str) -> int:
    if name.endswith("_burst"):
        return _MAX_BURST
    return (1 << 53) - 1 if name.endswith("_ms") else (1 << 31) - 1


def _check_networks(key: str, networks: tuple[str, ...]) -> None:
    for network in networks:
        try:
            ip_network(network)
        except ValueError as problem:
            raise SettingsError(f"{key} must be addresses or networks: {problem}") from None


def _check_doors(settings: ServerSettings) -> None:
    tls, websocket = settings.tls, settings.websocket
    if not tls.certificate_file and (tls.enabled or (websocket.enabled and websocket.tls)):
        raise SettingsError("tls.certificate_file must name the server's certificate: a door is to be encrypted")
    if tls.client_certificates != "none" and not tls.client_ca_file:
        raise SettingsError("tls.client_ca_file must name who signs the clients' certificates, or ask for none")
    if not websocket.path.startswith("/") or "?" in websocket.path:
        raise SettingsError(f"websocket.path must begin with a slash and have no '?', unlike {websocket.path}")
    _check_networks("proxy_protocol.trusted", settings.proxy_protocol.trusted)
