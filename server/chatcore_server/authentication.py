"""Who a player is: verifies JSON Web Tokens (RFC 7519) and keeps the secret of the data folder.

Takes exactly the algorithm that belongs to each configured key, never the one that a token asks for. Knows nothing of
sessions and tickets.
"""

import hashlib
import hmac
import ipaddress
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from chatcore.errors import AuthenticationError, BadName, TokenExpired
from chatcore.names import validate_channel, validate_player
from chatcore_server.settings import ServerSettings, SettingsError

SECRET_NAME = "secret"
SECRET_SIZE = 32  # bytes: HMAC-SHA256 gains nothing from more; RFC 7518, 3.2 asks for as many for HS256
MAX_GRANTS = 64  # channels that a token may name: they go into every ticket

_NEVER_MS = 1 << 53  # a token may claim any time; this one is still exact in every client's numbers

# One secret, one purpose each: a ticket is never a token.
_TOKEN_LABEL = b"chatcore development token 1"
_TICKET_LABEL = b"chatcore ticket 1"


class Identity(NamedTuple):
    """What a valid token says. `channels` None: the player may join all that is open to players."""

    player: bytes
    expires_ms: int
    channels: list[bytes] | None


class Authenticator:
    """Verifies tokens with a fixed key for each algorithm: {"HS256": secret bytes, "EdDSA": public key}."""

    def __init__(self, keys: dict[str, Any]) -> None:
        if not keys or not keys.keys() <= {"HS256", "EdDSA"}:
            raise ValueError("keys are for HS256, EdDSA or both")
        self._keys = keys

    def verify(self, token: str) -> Identity:
        """Raises TokenExpired, and AuthenticationError for all else that is wrong."""
        try:
            algorithm = str(jwt.get_unverified_header(token).get("alg"))
            key = self._keys.get(algorithm)
            if key is None:
                raise AuthenticationError(f"the token's algorithm is not one of {', '.join(self._keys)}")
            # `iat` is information, not a condition: the issuer's clock may be a little ahead.
            claims = jwt.decode(
                token, key, algorithms=[algorithm], options={"require": ["sub", "exp"], "verify_iat": False}
            )
        except jwt.ExpiredSignatureError:
            raise TokenExpired("the token is expired") from None
        except jwt.InvalidTokenError as error:
            raise AuthenticationError(str(error)) from None
        return _identity(claims)


def _identity(claims: dict[str, Any]) -> Identity:
    channels = claims.get("channels")
    try:
        player = validate_player(claims["sub"]).encode("ascii")
        if channels is not None:
            if not isinstance(channels, list) or len(channels) > MAX_GRANTS:
                raise AuthenticationError(f"the token's channels must be a list of at most {MAX_GRANTS}")
            channels = [validate_channel(str(channel)).encode("ascii") for channel in channels]
    except BadName as error:
        raise AuthenticationError(error.message) from None
    return Identity(player, min(int(claims["exp"]) * 1000, _NEVER_MS), channels)


def make_token(key: bytes, player: str, lifetime_s: int, channels: Sequence[str] | None = None) -> str:
    """An HS256 token. Raises BadName, and ValueError for a key under 32 bytes."""
    if len(key) < SECRET_SIZE:
        raise ValueError(f"the key must have at least {SECRET_SIZE} bytes")
    now = int(time.time())
    claims: dict[str, Any] = {"sub": validate_player(player), "iat": now, "exp": now + lifetime_s}
    if channels is not None:
        claims["channels"] = [validate_channel(channel) for channel in channels]
    return jwt.encode(claims, key, algorithm="HS256")


# ---- Keys and where they come from -----------------------------------------------------------------------------------


def data_secret(folder: Path) -> bytes:
    """The data folder's own 32 random bytes, created at the first call. Raises SettingsError."""
    path = folder / SECRET_NAME
    try:
        if not path.exists():
            _create_secret(folder, path)
        secret = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"cannot use the secret {path}: {error.strerror}."
            " The data folder must belong to the user who runs the server"
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


def read_secret_file(path: Path) -> bytes:
    """An HS256 secret. Raises SettingsError if it cannot be read or is short."""
    secret = _read(path).rstrip(b"\r\n")
    if len(secret) < SECRET_SIZE:
        raise SettingsError(f"{path} holds {len(secret)} bytes, but an HS256 secret has at least {SECRET_SIZE}")
    return secret


def make_authenticator(settings: ServerSettings, secret: bytes) -> Authenticator:
    """From the configured keys; without any, from the data folder's secret, but then only for loopback. Raises
    SettingsError.
    """
    keys: dict[str, Any] = {}
    if settings.authentication.secret_file:
        keys["HS256"] = read_secret_file(Path(settings.authentication.secret_file))
    if settings.authentication.public_key_file:
        keys["EdDSA"] = _read_public_key(Path(settings.authentication.public_key_file))
    if not keys:
        if not is_loopback(settings.host):
            raise SettingsError(
                f"refusing to listen on {settings.host} with the development secret: who reads the data folder could be"
                " any player. Set authentication.secret_file (HS256) or authentication.public_key_file (EdDSA), or"
                " listen on 127.0.0.1"
            )
        keys["HS256"] = development_token_key(secret)
    return Authenticator(keys)


def is_loopback(host: str) -> bool:
    """Of names only "localhost" counts: any other may resolve to something else tomorrow."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the key {path}: {error.strerror}") from None


def _read_public_key(path: Path) -> object:
    # Imported here: most servers and every `chatcore token` do without it.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise SettingsError(f"{path} is not an Ed25519 public key in PEM (openssl pkey -pubout)")
    return key
