"""The server's settings: every one with its default, its range, its description and when a change takes effect.

Each Table is a table of the configuration file. In the file values carry their units; the fields are whole
milliseconds (`_ms`) and bytes (`_bytes`). Where the values come from is settings_layers.py's, which of them go together
settings_check.py's. Never opens a socket or a key.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

from chatcore_ext import constants
from chatcore_server.embedded.settings import EmbeddedSettings
from chatcore_server.setting import DAY_MS, Choice, Count, Duration, Networks, Origins, Size, Switch, Table, Text

MAX_BURST = 2_147_483  # a token bucket counts thousandths in 32 bits
_MAX_PORT = 65_535
_MIN_FRAME = 256  # bytes: at least a HELLO with a token has to fit
_MAX_PENDING = 1 << 30  # bytes: the hub counts them in 31 bits
_MAX_FRAME = 2 << 20  # bytes: a larger one would never fit into the bucket of a player's bytes, MAX_BURST
_MAX_BODY = _MAX_FRAME - 1024  # bytes: what stands around it in a frame is less than that
_MAX_ANSWER = 15 << 20  # bytes: what stands around it in its frame, of 16 MiB at most, is less than the rest
_MAX_LISTED = 100_000  # players in one answer, under 150 bytes each: it is one frame


class SettingsError(Exception):
    """A setting is unknown, of the wrong type or out of range, or what it names is of no use. The text names the key
    and what it must be; `key` is "" where the text says who set it, too.
    """

    def __init__(self, text: str, key: str = "") -> None:
        super().__init__(text)
        self.key = key


@contextmanager
def naming(key: str) -> Iterator[None]:
    """What is wrong within is wrong with what this setting names."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"{key}: {error}", key) from None


class AuthenticationSettings(Table, frozen=True, kw_only=True):
    """Who signs the players' tokens. No key: a development secret in the data folder, on loopback only. The files are
    read again when they change."""

    secret_file: Annotated[str, Text(is_live=True, about="HS256: a file with at least 32 random bytes.")] = ""
    public_key_file: Annotated[
        str, Text(is_live=True, about="PEM: Ed25519 (EdDSA), P-256 (ES256) or RSA of at least 2048 bits (RS256).")
    ] = ""
    jwks_file: Annotated[
        str,
        Text(is_live=True, about="Any number of such keys as a JSON Web Key Set, which tokens choose from by `kid`."),
    ] = ""
    audience: Annotated[
        str, Text(is_live=True, about="What tokens must name in `aud`; empty: those that have an `aud` are refused.")
    ] = ""
    issuer: Annotated[str, Text(is_live=True, about="What tokens must name in `iss`; empty: not looked at.")] = ""
    # RFC 7519, 4.1.4: no more than a few minutes.
    leeway_ms: Annotated[
        int,
        Duration(is_live=True, lowest=0, highest=300_000, about="How far the issuer's clock may be from this one's."),
    ] = 5_000

    @property
    def is_configured(self) -> bool:
        return bool(self.secret_file or self.public_key_file or self.jwks_file)


class SessionSettings(Table, frozen=True, kw_only=True):
    """A player's devices."""

    sessions_per_player: Annotated[int, Count(is_live=True, about="Devices of one player that are logged in.")] = 8
    on_excess: Annotated[
        Literal["refuse", "newest_wins"],
        Choice(
            is_live=True,
            about='When there are more. "refuse": the new login fails; "newest_wins": the oldest session ends. In both'
            " cases one without a connection gives way first.",
        ),
    ] = "refuse"
    resume_grace_ms: Annotated[
        int, Duration(is_live=True, lowest=0, about="A player without a connection stays online this long.")
    ] = constants.DEFAULT_RESUME_GRACE_MS
    expiry_warning_ms: Annotated[
        int, Duration(lowest=0, about="How long before its token expires a session is told so; 0 = never.")
    ] = 60_000


class LimitSettings(Table, frozen=True, kw_only=True):
    """What one client, one player, one address may cost. docs/limits.md tells what happens beyond it."""

    # Three are not live: `frame_size` and the heartbeats. A client that has been told others would be cut off.

    frame_bytes: Annotated[
        int,
        Size(lowest=_MIN_FRAME, highest=_MAX_FRAME, about="Inbound frame; whoever sends more is closed."),
    ] = constants.DEFAULT_MAX_FRAME_SIZE
    body_bytes: Annotated[
        int,
        Size(
            is_live=True,
            highest=_MAX_BODY,
            about="Of a message; more is refused. At least 13 bytes less than frame_size, better a little more, so that"
            " most are told so.",
        ),
    ] = 4_000
    pending_bytes: Annotated[
        int,
        Size(
            is_live=True,
            lowest=2 * _MIN_FRAME,
            highest=_MAX_PENDING,
            about="Unsent to one client, then it is cut off. At least twice pause_size.",
        ),
    ] = constants.DEFAULT_MAX_PENDING_SIZE
    pause_bytes: Annotated[
        int,
        Size(
            is_live=True,
            lowest=_MIN_FRAME,
            highest=_MAX_PENDING // 2,
            about="Unsent to one client, then messages are left out until it has caught up (GAP).",
        ),
    ] = constants.DEFAULT_MAX_PENDING_SIZE // 2
    total_pending_bytes: Annotated[
        int,
        Size(
            is_live=True,
            lowest=2 * _MIN_FRAME,
            highest=1 << 46,
            about="Unsent to all clients of a worker; from there on only those pay who do not read.",
        ),
    ] = constants.DEFAULT_MAX_TOTAL_PENDING_SIZE
    flush_window_ms: Annotated[
        int,
        Duration(
            lowest=0,
            highest=20,
            about="Output of busy clients waits so long, at most, for more to go with it. 0 = off.",
        ),
    ] = 0
    flush_window_rate: Annotated[
        int, Count(highest=10_000, about="Outputs a second; who has more of them is busy.")
    ] = constants.DEFAULT_FLUSH_WINDOW_RATE
    connections: Annotated[int, Count(is_live=True, about="Connections in all.")] = constants.DEFAULT_MAX_CONNECTIONS
    half_open: Annotated[
        int, Count(is_live=True, about="Of these, before WELCOME; then the oldest that has not said HELLO gives way.")
    ] = constants.DEFAULT_MAX_HALF_OPEN
    closing: Annotated[
        int,
        Count(
            is_live=True,
            about="Beside them: those that have been told CLOSE and have two seconds to hang up; more are cut at once.",
        ),
    ] = constants.DEFAULT_MAX_CLOSING
    connections_per_address: Annotated[
        int, Count(is_live=True, about="Connections of one IPv4 address, or one /64 of IPv6.")
    ] = constants.DEFAULT_MAX_CONNECTIONS_PER_ADDRESS
    accepts_per_second: Annotated[
        int, Count(is_live=True, about="New connections of one address, in the long run.")
    ] = constants.DEFAULT_ACCEPTS_PER_SECOND
    accept_burst: Annotated[int, Count(is_live=True, highest=MAX_BURST, about="And at once.")] = (
        constants.DEFAULT_ACCEPT_BURST
    )
    # One is hopeless for guessing, and players' clients stop by themselves.
    failed_logins_per_second: Annotated[
        int,
        Count(
            is_live=True, about="Failed logins of one address; with more it is refused before its token is looked at."
        ),
    ] = 1
    # A carrier's address at the moment when a game's tokens expire.
    failed_login_burst: Annotated[int, Count(is_live=True, highest=MAX_BURST, about="And at once.")] = 100
    unlimited_addresses: Annotated[
        tuple[str, ...],
        Networks(
            is_live=True,
            most=constants.MAX_NETWORKS,
            about="Networks for which the five limits above do not hold: load tests, load balancers that send no PROXY"
            " header.",
        ),
    ] = ("127.0.0.0/8", "::1/128")
    # All of them are in WELCOME, with up to 165 bytes each.
    channels: Annotated[int, Count(is_live=True, highest=65_535, about="Channels that one connection is in.")] = (
        constants.DEFAULT_MAX_CHANNELS_PER_CONNECTION
    )
    room_members: Annotated[int, Count(is_live=True, about="Connections in one room.")] = 100_000
    frames_per_second: Annotated[int, Count(is_live=True, about="Frames of one connection, in the long run.")] = (
        constants.DEFAULT_FRAMES_PER_SECOND
    )
    frame_burst: Annotated[int, Count(is_live=True, highest=MAX_BURST, about="And at once.")] = (
        constants.DEFAULT_FRAME_BURST
    )
    player_frames_per_second: Annotated[
        int, Count(is_live=True, about="Frames of all devices of a player together; at least that of one.")
    ] = 3 * constants.DEFAULT_FRAMES_PER_SECOND
    player_frame_burst: Annotated[int, Count(is_live=True, highest=MAX_BURST, about="And at once.")] = (
        3 * constants.DEFAULT_FRAME_BURST
    )
    player_bytes_per_second: Annotated[
        int,
        Size(
            is_live=True, lowest=0, about="Bytes of all devices of a player together; 0: 1KiB for each of these frames."
        ),
    ] = 0
    player_byte_burst: Annotated[
        int, Size(is_live=True, lowest=0, highest=MAX_BURST, about="And at once; 0: as above.")
    ] = 0
    joins_per_second: Annotated[int, Count(is_live=True, about="Joins of one player, in the long run.")] = 50
    # A player with a few devices, all of which join what they can.
    join_burst: Annotated[int, Count(is_live=True, highest=MAX_BURST, about="And at once.")] = 1_000
    # Each costs the verification of a signature; one an hour is usual.
    refreshes_per_second: Annotated[
        int, Count(is_live=True, about="New tokens for running sessions of one player.")
    ] = 1
    refresh_burst: Annotated[int, Count(is_live=True, highest=MAX_BURST, about="And at once.")] = 10
    # Each is told to all in the player's channels: thousands of events for one request. People look away that often.
    presences_per_second: Annotated[
        int, Count(is_live=True, about="`set_presence` of one player, in the long run.")
    ] = 1
    presence_burst: Annotated[int, Count(is_live=True, highest=MAX_BURST, about="And at once.")] = 5
    hello_timeout_ms: Annotated[int, Duration(is_live=True, about="From accept to HELLO.")] = (
        constants.DEFAULT_HELLO_TIMEOUT_MS
    )
    heartbeat_ms: Annotated[int, Duration(about="How often a client has to send something; it is told so.")] = (
        constants.DEFAULT_HEARTBEAT_MS
    )
    heartbeat_grace_ms: Annotated[
        int, Duration(about="Added to the heartbeat before a silent connection is closed.")
    ] = constants.DEFAULT_HEARTBEAT_GRACE_MS
    # A quarter of pending_size, so that it always fits.
    sync_bytes: Annotated[
        int, Size(is_live=True, highest=_MAX_ANSWER, about="Messages in one answer to `sync`; at most pause_size.")
    ] = 65_536
    # A client that joins all its channels at once, and then some.
    requests_under_way: Annotated[int, Count(is_live=True, about="Unanswered requests of one connection.")] = 512
    # Beside the channels, with up to 200 bytes each.
    conversations: Annotated[
        int, Count(is_live=True, highest=10_000, about="In WELCOME and in the answer to `conversations`.")
    ] = 256
    members: Annotated[int, Count(is_live=True, highest=_MAX_LISTED, about="In the answer to `members`.")] = 1_000
    blocks: Annotated[
        int, Count(is_live=True, highest=_MAX_LISTED, about="Of one player: they are looked up at each login.")
    ] = 1_000
    friends: Annotated[
        int,
        Count(
            is_live=True,
            highest=_MAX_LISTED,
            about="That one player has added, answered or not: friends are told of the player's comings and goings.",
        ),
    ] = 1_000

    # Fewer than `channels`, so that a client can be in all of them; the largest games let players have a few.
    groups: Annotated[
        int, Count(is_live=True, about="That one player is a member of: they are looked up at each login.")
    ] = 200
    # An alliance of guilds; guilds have a few hundred. What is said there is sent to all who are online.
    group_members: Annotated[int, Count(is_live=True, about="Of one group.")] = 5_000
    # The name of a group is never given again: each stays in the store for good.
    creations_per_second: Annotated[int, Count(is_live=True, about="New groups of one player, in the long run.")] = 1
    creation_burst: Annotated[int, Count(is_live=True, highest=MAX_BURST, about="And at once.")] = 20


class LogSettings(Table, frozen=True, kw_only=True):
    """The message log: what all its readers must agree on."""

    replay_window_ms: Annotated[
        int,
        Duration(
            highest=365 * DAY_MS, about="A resend is recognised this long, and a ticket works for four fifths of it."
        ),
    ] = constants.DEFAULT_REPLAY_WINDOW_MS
    chain_idle_ms: Annotated[
        int, Duration(highest=36_500 * DAY_MS, about="A channel silent for longer starts a new chain of hashes.")
    ] = constants.DEFAULT_CHAIN_IDLE_MS
    heads: Annotated[int, Count(about="Channels whose last id is kept in memory, 200 bytes each.")] = (
        constants.DEFAULT_MAX_HEADS
    )


class DrainSettings(Table, frozen=True, kw_only=True):
    """How the server stops after SIGTERM or SIGINT."""

    deadline_ms: Annotated[int, Duration(is_live=True, about="Then the process ends, whatever is under way.")] = 10_000
    goaway_ms: Annotated[
        int, Duration(is_live=True, lowest=0, about="Clients may go on sending this long after GOAWAY.")
    ] = 1_000
    reconnect_window_ms: Annotated[
        int, Duration(is_live=True, lowest=0, about="Clients spread their reconnecting over this.")
    ] = 2_000


class LoggingSettings(Table, frozen=True, kw_only=True):
    """What the server tells of itself on standard error."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Choice(is_live=True, about="The least that is told.")
    ] = "info"
    format: Annotated[
        Literal["auto", "text", "json"],
        Choice(
            is_live=True,
            about='"text": readable lines; "json": one object a line; "auto": text on a terminal, otherwise json.',
        ),
    ] = "auto"


class TlsSettings(Table, frozen=True, kw_only=True):
    """The door for clients that encrypt (TLS 1.2 and 1.3), and the certificate of all doors that do."""

    enabled: Annotated[bool, Switch(about="Whether this door is open.")] = False
    port: Annotated[int, Count(lowest=0, highest=_MAX_PORT, about="0 = any free one.")] = 7443
    certificate_file: Annotated[
        str,
        Text(about="PEM: the certificate, then those between it and the root. Read again when the file changes."),
    ] = ""
    key_file: Annotated[str, Text(about="PEM, without a password; empty: it is in certificate_file.")] = ""
    client_ca_file: Annotated[str, Text(about="PEM: who signs the clients' own certificates.")] = ""
    client_certificates: Annotated[
        Literal["none", "optional", "required"], Choice(about="Whether clients must have one.")
    ] = "none"


class WebSocketSettings(Table, frozen=True, kw_only=True):
    """The door for browsers (RFC 6455)."""

    enabled: Annotated[bool, Switch(about="Whether this door is open.")] = False
    port: Annotated[int, Count(lowest=0, highest=_MAX_PORT, about="0 = any free one.")] = 7444
    tls: Annotated[bool, Switch(about="With the certificate under [tls], whether that door is open or not.")] = False
    path: Annotated[str, Text(about="Of the URL; anything else is not found.")] = "/"
    # A client that is no browser names no page and is let in.
    origins: Annotated[
        tuple[str, ...],
        Origins(is_live=True, about='Pages whose scripts may connect, as "https://game.example"; "*" = all.'),
    ] = ()


class ProxyProtocolSettings(Table, frozen=True, kw_only=True):
    """Load balancers that say before each connection whose it is (PROXY protocol, version 2), on all doors."""

    trusted: Annotated[
        tuple[str, ...],
        Networks(
            is_live=True,
            about="The balancers' addresses or networks; if there are any, nobody else may connect. Live except for the"
            " first and the last.",
        ),
    ] = ()


class AdminSettings(Table, frozen=True, kw_only=True):
    """Traces over HTTP, at http_host and http_port."""

    token_file: Annotated[
        str,
        Text(about="A file with the token that opens /admin; empty: one that follows from the data folder's secret."),
    ] = ""


class ServerSettings(Table, frozen=True, kw_only=True):
    """Everything. The defaults are a complete chat server on this machine alone."""

    host: Annotated[
        str, Text(about="Address of the doors. Beyond loopback only with a key under [authentication].")
    ] = "127.0.0.1"
    port: Annotated[
        int, Count(lowest=0, highest=_MAX_PORT, about="Of the TCP door. 0 = any free one; the ready line tells which.")
    ] = 7400
    http_host: Annotated[str, Text(about="Address of /healthz, /readyz, /metrics and /admin.")] = "127.0.0.1"
    http_port: Annotated[int, Count(lowest=0, highest=_MAX_PORT, about="0 = any free one.")] = 7480
    data: Annotated[str, Text(about="The data folder: log, history, secret. One server at a time.")] = "data"
    engine: Annotated[
        Literal["epoll", "transport"],
        Choice(about='"transport": uvloop\'s own sockets, for comparison; slower, otherwise the same.'),
    ] = "epoll"
    authentication: AuthenticationSettings = AuthenticationSettings()
    sessions: SessionSettings = SessionSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    drain: DrainSettings = DrainSettings()
    logging: LoggingSettings = LoggingSettings()
    admin: AdminSettings = AdminSettings()
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
