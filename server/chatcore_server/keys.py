"""The keys that players' tokens are verified with, and where they come from: an HS256 secret, a public key in PEM, a
JSON Web Key Set (RFC 7517).

A key knows its one algorithm from its own kind, so a token has no say in how it is verified (RFC 8725, 3.1). Knows
nothing of what tokens say.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from jwt.algorithms import HMACAlgorithm

from chatcore_server.logging import get_logger
from chatcore_server.settings import SettingsError

SECRET_SIZE = 32  # bytes: HMAC-SHA256 gains nothing from more; RFC 7518, 3.2 asks for as many for HS256
MIN_RSA_BITS = 2048  # RFC 7518, 3.3

# A key's kind decides its algorithm. In a JWK it is `kty` and, but for RSA, `crv`.
_JWK_ALGORITHMS = {("RSA", ""): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_KINDS = f"an Ed25519, a P-256 or an RSA key of at least {MIN_RSA_BITS} bits"

_log = get_logger()


class Key(NamedTuple):
    """One key and the only algorithm that it is used with. `kid` None: it has no name."""

    algorithm: str
    key: Any  # bytes of a secret, or one of cryptography's keys
    kid: str | None = None


class _CheckedSecret(HMACAlgorithm):
    """HMAC with secrets that are known to be secrets."""

    def prepare_key(self, key: str | bytes) -> bytes:
        return key if isinstance(key, bytes) else key.encode()


def verifying_key(key: Key) -> Any:
    """What PyJWT verifies with. It looks at a secret for every token whether it is not a public key in disguise, which
    is a third of a verification; here it has done so once. Raises jwt.InvalidKeyError.
    """
    if not isinstance(key.key, bytes):
        return key.key
    secret = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(key.key)
    checked = jwt.PyJWK({"kty": "oct", "k": base64.urlsafe_b64encode(secret).decode()}, key.algorithm)
    checked.Algorithm = _CheckedSecret(HMACAlgorithm.SHA256)
    return checked


class KeySet:
    """All keys that count at one time; never changes."""

    def __init__(self, keys: Iterable[Key], jwks: Iterable[Key] | None = None) -> None:
        """`jwks`: those of a key set, whose names tokens must then use. Each `kid` at most once."""
        named = None if jwks is None else list(jwks)
        self._by_kid = None if named is None else {key.kid: key for key in named if key.kid is not None}
        self._keys = [*keys, *(named or [])]

    @property
    def algorithms(self) -> list[str]:
        return sorted({key.algorithm for key in self._keys})

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, algorithm: str, kid: str | None) -> Key | None:
        """For a token that claims to be signed so. Without a name, or where keys have none, the only key of the
        algorithm: trying one after the other would make a forged token cost as much as there are keys.
        """
        if kid is not None and self._by_kid is not None:
            named = self._by_kid.get(kid)
            return named if named is not None and named.algorithm == algorithm else None
        fitting = [key for key in self._keys if key.algorithm == algorithm]
        return fitting[0] if len(fitting) == 1 else None


# ---- Secrets and PEM files -------------------------------------------------------------------------------------------


def read_secret_file(path: Path, what: str = "an HS256 secret") -> bytes:
    """Raises SettingsError if it cannot be read, is short, or is no secret. `what`: what it is to be."""
    secret = _read(path).rstrip(b"\r\n")
    if len(secret) < SECRET_SIZE:
        raise SettingsError(f"{path} holds {len(secret)} bytes, but {what} has at least {SECRET_SIZE}")
    if secret.lstrip().startswith((b"-----BEGIN", b"ssh-", b"{")):
        raise SettingsError(f"{path} holds a key, not a secret: public keys belong into public_key_file or jwks_file")
    return secret


def read_public_key(path: Path) -> Key:
    """Raises SettingsError."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{path} is not a public key in PEM (openssl pkey -in PRIVATE -pubout)") from None
    return Key(_algorithm(key, str(path)), key)


def read_private_key(path: Path) -> Key:
    """To sign with, of the same kinds. Raises SettingsError."""
    try:
        key = load_pem_private_key(_read(path), None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{path} is not a private key in PEM without a password") from None
    return Key(_algorithm(key.public_key(), str(path)), key)


def _algorithm(key: object, where: str) -> str:
    """Raises SettingsError for a key of another kind."""
    match key:
        case Ed25519PublicKey():
            return "EdDSA"
        case EllipticCurvePublicKey(curve=SECP256R1()):
            return "ES256"
        case RSAPublicKey(key_size=bits) if bits >= MIN_RSA_BITS:
            return "RS256"
        case RSAPublicKey(key_size=bits):
            raise SettingsError(f"{where} is an RSA key of {bits} bits; at least {MIN_RSA_BITS} are safe")
    raise SettingsError(f"{where} is not {_KINDS}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"cannot read the key {path}: {error.strerror}") from None


# ---- Key sets --------------------------------------------------------------------------------------------------------


def read_jwks_file(path: Path) -> list[Key]:
    """The keys that tokens are signed with. Raises SettingsError.

    As RFC 7517, 5 asks, keys that are for something else or of a kind that is not known here are left out, and the log
    says so. What is a mistake or a danger makes the whole file void: a secret or a private key in it, a name that is
    given twice, a key that is too weak or damaged.
    """
    try:
        content = json.loads(_read(path))
        entries = content["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise SettingsError(f'{path} is not a JSON Web Key Set: {{"keys": [...]}} (RFC 7517)')
    found = [_read_jwk(entry, f"{path}, key {i}", i) for i, entry in enumerate(entries, 1)]
    keys = [key for key in found if key is not None]
    if not keys:
        raise SettingsError(f"{path} holds no key that tokens can be verified with: {_KINDS}")
    _check_kids(keys, path)
    return keys


def _check_kids(keys: list[Key], path: Path) -> None:
    seen: set[str] = set()
    for key in keys:
        if key.kid is not None and key.kid in seen:
            raise SettingsError(f"{path} has the kid {key.kid!r} twice: it must name one key")
        seen |= {key.kid} if key.kid is not None else set()


def _read_jwk(entry: object, where: str, number: int) -> Key | None:
    """None: it is not for us. Raises SettingsError."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kty"), str):
        raise SettingsError(f"{where} has no kty")
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise SettingsError(f"{where} has a kid that is no text")
    where = f"{where} (kid {kid!r})"
    if entry["kty"] == "oct":
        raise SettingsError(f"{where} is a secret: take it out; a secret belongs into secret_file, which nobody serves")
    if "d" in entry:
        raise SettingsError(f"{where} is a private key: take it out and replace it, whoever read the file can sign")
    curve = "" if entry["kty"] == "RSA" else str(entry.get("crv"))
    algorithm = _JWK_ALGORITHMS.get((entry["kty"], curve))
    reason = _why_not_used(entry, algorithm)
    if algorithm is None or reason:
        _log.warning("key_left_out", key=where, reason=reason)
        return None
    try:
        key = jwt.PyJWK(entry, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"{where} is damaged: {error}") from None
    return Key(_algorithm(key, where), key, kid)


def _why_not_used(entry: dict[str, Any], algorithm: str | None) -> str:
    """ "" if it is there to verify signatures by the algorithm that its kind decides."""
    if algorithm is None:
        return f"not {_KINDS}"
    if entry.get("alg", algorithm) != algorithm:
        return f"its alg is not {algorithm}"
    if entry.get("use", "sig") != "sig":
        return "its use is not sig"
    operations = entry.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return "its key_ops do not name verify"
    return ""
