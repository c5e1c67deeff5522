"""Tokens: what is accepted, what never is, and where the keys come from."""

import base64
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chatcore.errors import AuthenticationError, TokenExpired
from chatcore_server.authentication import (
    MAX_GRANTS,
    Authenticator,
    data_secret,
    development_token_key,
    is_loopback,
    make_authenticator,
    make_token,
    ticket_key,
)
from chatcore_server.settings import SettingsError
from chatcore_server.settings_layers import load_settings

KEY = bytes(range(32))


def token(claims: dict[str, object], key: object = KEY, algorithm: str = "HS256") -> str:
    return jwt.encode({"exp": int(time.time()) + 60, **claims}, key, algorithm=algorithm)  # type: ignore[arg-type]


def test_a_token_names_its_player_until_it_expires() -> None:
    identity = Authenticator({"HS256": KEY}).verify(make_token(KEY, "ann", 60))
    assert identity.player == b"ann"
    assert identity.channels is None
    assert time.time() * 1000 + 58_000 < identity.expires_ms < time.time() * 1000 + 61_000


def test_grants() -> None:
    identity = Authenticator({"HS256": KEY}).verify(make_token(KEY, "ann", 60, ["room:x", "group:y"]))
    assert identity.channels == [b"room:x", b"group:y"]


def unsigned(claims: dict[str, object]) -> str:
    def part(value: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none', 'typ': 'JWT'})}.{part({'exp': time.time() + 60, **claims})}."


BAD: list[Callable[[], str]] = [
    lambda: "",
    lambda: "not a token",
    lambda: unsigned({"sub": "ann"}),
    lambda: token({"sub": "ann"}, key=bytes(32)),
    lambda: token({"sub": "ann"}, key=KEY * 2, algorithm="HS512"),
    lambda: token({"sub": "ann"}, key=Ed25519PrivateKey.generate(), algorithm="EdDSA"),
    lambda: token({}),
    lambda: jwt.encode({"sub": "ann"}, KEY, algorithm="HS256"),
    lambda: token({"sub": "a:b"}),
    lambda: token({"sub": ""}),
    lambda: token({"sub": "a" * 65}),
    lambda: token({"sub": 7}),
    lambda: token({"sub": "ann", "channels": "room:x"}),
    lambda: token({"sub": "ann", "channels": ["lobby"]}),
    lambda: token({"sub": "ann", "channels": [f"room:{i}" for i in range(MAX_GRANTS + 1)]}),
]


@pytest.mark.parametrize("make", BAD)
def test_what_is_no_token_here(make: Callable[[], str]) -> None:
    with pytest.raises(AuthenticationError) as caught:
        Authenticator({"HS256": KEY}).verify(make())
    assert caught.value.name == "bad_token"


def test_expired() -> None:
    with pytest.raises(TokenExpired):
        Authenticator({"HS256": KEY}).verify(make_token(KEY, "ann", -1))


def test_the_public_key_is_no_secret(tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path = tmp_path / "public.pem"
    path.write_bytes(pem)
    settings = load_settings({"host": "0.0.0.0", "authentication": {"public_key_file": str(path)}})
    authenticator = make_authenticator(settings, KEY)
    assert authenticator.verify(token({"sub": "ann"}, private, "EdDSA")).player == b"ann"
    with pytest.raises(AuthenticationError):  # the development secret counts no more
        authenticator.verify(make_token(development_token_key(KEY), "ann", 60))
    _, claims, _ = make_token(KEY, "ann", 60).split(".")
    forged = jwt.api_jws.PyJWS().encode(base64.urlsafe_b64decode(claims + "=="), KEY, algorithm="HS256")
    with pytest.raises(AuthenticationError):
        authenticator.verify(forged)


def test_keys_that_are_none(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_bytes(b"too short\n")
    with pytest.raises(SettingsError, match="at least 32"):
        make_authenticator(load_settings({"authentication": {"secret_file": str(short)}}), KEY)
    with pytest.raises(SettingsError, match="Ed25519"):
        make_authenticator(load_settings({"authentication": {"public_key_file": str(short)}}), KEY)
    with pytest.raises(SettingsError, match="cannot read"):
        make_authenticator(load_settings({"authentication": {"secret_file": str(tmp_path / "none")}}), KEY)
    with pytest.raises(ValueError, match="at least 32"):
        make_token(b"short", "ann", 60)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_the_development_secret_stays_on_loopback(host: str) -> None:
    with pytest.raises(SettingsError, match="refusing to listen"):
        make_authenticator(load_settings({"host": host}), KEY)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert make_authenticator(load_settings({"host": host}), KEY)


def test_the_secret_is_made_once_and_for_one_user(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "data"
    secret = data_secret(folder)
    assert len(secret) == 32
    assert data_secret(folder) == secret
    assert stat.S_IMODE((folder / "secret").stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir()] == ["secret"]
    assert len({secret, development_token_key(secret), ticket_key(secret)}) == 3


def test_a_damaged_secret_is_told(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    with pytest.raises(SettingsError, match="32 bytes"):
        data_secret(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="data folder"):
        data_secret(tmp_path / "file")
