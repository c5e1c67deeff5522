"""Who a player is: verifies JSON Web Tokens (RFC 7519), makes some, and keeps the secret of the data folder.

Which key verifies a token and by which algorithm is keys.py's. Knows nothing of sessions and tickets.
"""

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from chatcore.errors import AuthenticationError, BadName, TokenExpired
from chatcore.names import validate_channel, validate_player
from chatcore_server.clock import lead_ms, now_ms
from chatcore_server.keys import (
    SECRET_SIZE,
    Key,
    KeySet,
    read_jwks_file,
    read_public_key,
    read_secret_file,
    verifying_key,
)
from chatcore_server.logging import get_logger
from chatcore_server.settings import AuthenticationSettings, ServerSettings, SettingsError, naming
from chatcore_server.settings_check import is_loopback
from chatcore_server.watched_files import WatchedFiles

SECRET_NAME = "secret"
MAX_GRANTS = 64  # channels that a token may name: they go into every ticket

_NEVER_MS = 1 << 53  # a token may claim any time; this one is still exact in every client's numbers

# One secret, one purpose each: a ticket is never a token.
_TOKEN_LABEL = b"chatcore development token 1"
_TICKET_LABEL = b"chatcore ticket 1"
_ADMIN_LABEL = b"chatcore admin token 1"

_MAX_HEADERS = 64  # issuers have a few keys, and each key a few headers
_VerifyingKey = tuple[Any, list[str]]  # PyJWT's key and algorithms
_log = get_logger()


class Identity(NamedTuple):
    """What a valid token says. `expires_ms`: the server's time from which on it is no longer accepted, leeway included.
    `channels` None: the player may join all that is open to players.
    """

    player: bytes
    expires_ms: int
    channels: list[bytes] | None


class Authenticator:
    """Verifies tokens with the configured keys, which it reads again when their files change. Loop thread only.

    Keys may come and go at any time: they are for logging in. Who is logged in stays so until the token expires.
    """

    def __init__(self, settings: AuthenticationSettings, development_key: Callable[[], bytes] | None = None) -> None:
        """`development_key`: what signs tokens while no key is configured. Raises SettingsError."""
        self._development_key = development_key
        self.n_reads = 0  # of the keys, after the first
        self.n_reads_failed = 0
        self._use(settings)

    def _use(self, settings: AuthenticationSettings) -> None:
        watched = WatchedFiles(_files(settings))
        self._keys = self._read(settings)
        # Tokens of one issuer begin alike: what is in the first part of a token that was valid is not decoded again,
        # which spares a third of the verification.
        self._key_of_header: dict[str, _VerifyingKey] = {}
        self._settings = settings
        self._watched = watched

    def _read(self, settings: AuthenticationSettings) -> KeySet:
        if not settings.is_configured:
            if self._development_key is None:
                raise SettingsError("no key is configured under authentication, and this is not only for loopback")
            return KeySet([Key("HS256", self._development_key())])
        keys = []
        if settings.secret_file:
            with naming("authentication.secret_file"):
                keys.append(Key("HS256", read_secret_file(Path(settings.secret_file))))
        if settings.public_key_file:
            with naming("authentication.public_key_file"):
                keys.append(read_public_key(Path(settings.public_key_file)))
        with naming("authentication.jwks_file"):
            return KeySet(keys, read_jwks_file(Path(settings.jwks_file)) if settings.jwks_file else None)

    def reload(self, settings: AuthenticationSettings | None = None) -> None:
        """Read all keys now, by new settings if there are any. Raises SettingsError: then the old ones stay in use."""
        try:
            self._use(self._settings if settings is None else settings)
        except SettingsError as error:
            self.n_reads_failed += 1
            _log.error("keys_rejected", reason=str(error), consequence="the keys that were read before stay in use")
            raise
        self.n_reads += 1
        _log.info("keys_read", keys=len(self._keys), algorithms=self._keys.algorithms)

    def refresh(self) -> bool:
        """Look at the files, and if they have changed, read them. True: there are new keys. What cannot be used is
        logged once."""
        if not self._watched.have_changed():
            return False
        try:
            self.reload()
        except SettingsError:
            return False
        return True

    def counters(self) -> dict[str, int]:
        return {"keys": len(self._keys), "key_reads": self.n_reads, "key_reads_failed": self.n_reads_failed}

    def verify(self, token: str) -> Identity:
        """Raises TokenExpired, and AuthenticationError for all else that is wrong."""
        leeway_ms = self._settings.leeway_ms
        try:
            claims = self._claims(token, leeway_ms / 1000)
        except jwt.ExpiredSignatureError:
            raise TokenExpired("the token is expired") from None
        except (jwt.InvalidTokenError, RecursionError) as error:
            raise AuthenticationError(str(error)) from None
        identity = _identity(claims, leeway_ms + lead_ms())
        if identity.expires_ms <= now_ms():  # by the clock that never goes back, unlike PyJWT's
            raise TokenExpired("the token is expired")
        return identity

    def _find_key(self, token: str) -> _VerifyingKey:
        header = jwt.get_unverified_header(token)
        key = self._keys.find(str(header.get("alg")), header.get("kid"))
        if key is None:
            raise AuthenticationError("there is no key for the token's alg and kid")
        return verifying_key(key), [key.algorithm]

    def _claims(self, token: str, leeway_s: float) -> dict[str, Any]:
        header = token.partition(".")[0]
        key, algorithms = found = self._key_of_header.get(header) or self._find_key(token)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=algorithms,
            audience=self._settings.audience or None,
            issuer=self._settings.issuer or None,
            leeway=leeway_s,
            # `iat` is information, not a condition: the issuer's clock may be a little ahead.
            options={"require": ["sub", "exp"], "verify_iat": False},
        )
        if len(self._key_of_header) < _MAX_HEADERS:
            self._key_of_header[header] = found
        if "aud" in claims and not self._settings.audience:  # PyJWT lets an empty one pass
            raise AuthenticationError("the token names an audience, and authentication.audience is not set")
        return claims


def _files(settings: AuthenticationSettings) -> list[str]:
    return [file for file in (settings.secret_file, settings.public_key_file, settings.jwks_file) if file]


def _identity(claims: dict[str, Any], later_ms: int) -> Identity:
    channels = claims.get("channels")
    try:
        player = validate_player(claims["sub"]).encode("ascii")
        if channels is not None:
            if not isinstance(channels, list) or len(channels) > MAX_GRANTS:
                raise AuthenticationError(f"the token's channels must be a list of at most {MAX_GRANTS}")
            channels = [validate_channel(str(channel)).encode("ascii") for channel in channels]
    except BadName as error:
        raise AuthenticationError(error.message) from None
    return Identity(player, min(int(claims["exp"]) * 1000 + later_ms, _NEVER_MS), channels)


def make_token(
    key: bytes | Key,
    player: str,
    lifetime_s: int,
    channels: Sequence[str] | None = None,
    *,
    audience: str = "",
    issuer: str = "",
) -> str:
    """Signed by an HS256 secret or a private key. Raises BadName, and ValueError for a secret under 32 bytes."""
    signer = key if isinstance(key, Key) else Key("HS256", key)
    if isinstance(signer.key, bytes) and len(signer.key) < SECRET_SIZE:
        raise ValueError(f"the key must have at least {SECRET_SIZE} bytes")
    now = int(time.time())
    claims: dict[str, Any] = {"sub": validate_player(player), "iat": now, "exp": now + lifetime_s}
    claims |= {name: value for name, value in (("aud", audience), ("iss", issuer)) if value}
    if channels is not None:
        claims["channels"] = [validate_channel(channel) for channel in channels]
    headers = None if signer.kid is None else {"kid": signer.kid}
    return jwt.encode(claims, signer.key, algorithm=signer.algorithm, headers=headers)


# ---- The data folder's secret ----------------------------------------------------------------------------------------


def data_secret(folder: Path) -> bytes:
    """The data folder's own 32 random bytes, created at the first call. Raises SettingsError."""
    path = folder / SECRET_NAME
    try:
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"the data folder {folder} is no folder: name another one with --data", "data")
        if not path.exists():
            _create_secret(folder, path)
        secret = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot use the secret {path}: {error.strerror}."
            " The data folder must belong to the user who runs the server",
            "data",
        ) from None
    if len(secret) != SECRET_SIZE:
        raise SettingsError(
            f"{path} does not hold {SECRET_SIZE} bytes. Delete it to get a new one; all tickets become void"
        )
    return secret


def _create_secret(folder: Path, path: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = folder / f".{SECRET_NAME}.{secrets.token_hex(8)}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secrets.token_bytes(SECRET_SIZE))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)  # unlike a rename it never replaces what another process has just created
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def development_token_key(secret: bytes) -> bytes:
    return hmac.digest(secret, _TOKEN_LABEL, hashlib.sha256)


def ticket_key(secret: bytes) -> bytes:
    return hmac.digest(secret, _TICKET_LABEL, hashlib.sha256)


def admin_token(secret: bytes) -> str:
    """What the administration asks for unless admin.token_file holds another one: it follows from the data folder's
    secret, so that who may read that folder may ask."""
    return hmac.digest(secret, _ADMIN_LABEL, hashlib.sha256).hex()


def read_admin_token(path: Path) -> str:
    """Raises SettingsError unless it is at least 32 printable characters without a space: it goes into a header."""
    token = read_secret_file(path, "a token of the administration").decode("ascii", "replace")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise SettingsError(
            f"{path} must hold a token of printable ASCII characters without spaces: openssl rand -hex 32"
        )
    return token


def claimed_player(token: str) -> bytes:
    """Whose token it says it is, which proves nothing: for traces alone. b"": it says nothing."""
    try:
        return str(jwt.decode(token, options={"verify_signature": False}).get("sub", "")).encode("ascii")
    except (jwt.InvalidTokenError, UnicodeEncodeError, RecursionError):
        return b""


def make_authenticator(settings: ServerSettings, secret: Callable[[], bytes]) -> Authenticator:
    """With the configured keys; without any, with the data folder's `secret`, but then only for loopback. Raises
    SettingsError.
    """
    if not is_loopback(settings.host):
        return Authenticator(settings.authentication)
    return Authenticator(settings.authentication, lambda: development_token_key(secret()))
