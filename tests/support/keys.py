"""Keys for tests, one of each kind that the server takes and of some that it does not, and key sets of them."""

import base64
import functools
import json
import os
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ALGORITHMS = {"rsa": "RS256", "p256": "ES256", "ed25519": "EdDSA"}


def private_key(kind: str, number: int = 0) -> Any:
    """Always the same one for the same arguments: RSA keys take time to make."""
    return _made(kind, number)


@functools.cache
def _made(kind: str, number: int) -> Any:
    match kind:
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "small rsa":
            return rsa.generate_private_key(65537, 1024)
        case "p256":
            return ec.generate_private_key(ec.SECP256R1())
        case "p384":
            return ec.generate_private_key(ec.SECP384R1())
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
    assert kind == "ed25519"
    return Ed25519PrivateKey.generate()


def public_pem(kind: str, number: int = 0) -> bytes:
    key = private_key(kind, number).public_key()
    pem: bytes = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def private_pem(kind: str, number: int = 0) -> bytes:
    pem: bytes = private_key(kind, number).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


def jwk(kind: str, number: int = 0, /, *, private: bool = False, **members: Any) -> dict[str, Any]:
    key = private_key(kind, number)
    key = key if private else key.public_key()
    if kind == "p384" or kind == "p256":
        found = ECAlgorithm.to_jwk(key, as_dict=True)
    elif "rsa" in kind:
        found = RSAAlgorithm.to_jwk(key, as_dict=True)
        found.pop("key_ops")
    else:
        found = OKPAlgorithm.to_jwk(key, as_dict=True)
    return {**found, **members}


def secret_jwk(secret: bytes, **members: Any) -> dict[str, Any]:
    return {"kty": "oct", "k": base64.urlsafe_b64encode(secret).rstrip(b"=").decode(), **members}


def write_jwks(path: Path, *keys: object) -> Path:
    """Replaces the file at once, as a careful operator does."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps({"keys": keys}))
    os.replace(draft, path)
    return path
