"""Tokens: what is accepted, what never is, and the secret of the data folder. The keys have test_keys.py."""

import base64
import json
import stat
import time
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from chatcore.errors import AuthenticationError, TokenExpired
from chatcore_server.authentication import (
    MAX_GRANTS,
    Authenticator,
    claimed_player,
    data_secret,
    development_token_key,
    make_authenticator,
    make_token,
    ticket_key,
)
from chatcore_server.clock import DISBELIEVED_MS, Clock, now_ms, wall_clock_ms
from chatcore_server.outbox import text_of
from chatcore_server.settings import AuthenticationSettings, ServerSettings, SettingsError
from chatcore_server.settings_check import is_loopback
from chatcore_server.settings_layers import load_settings

KEY = bytes(range(32))


def authenticator(**settings: object) -> Authenticator:
    """With KEY alone."""
    return Authenticator(AuthenticationSettings(**settings), lambda: KEY)  # type: ignore[arg-type]


def token(claims: dict[str, object], key: object = KEY, algorithm: str = "HS256") -> str:
    return jwt.encode({"exp": int(time.time()) + 60, **claims}, key, algorithm=algorithm)  # type: ignore[arg-type]


def test_a_token_names_its_player_until_it_expires() -> None:
    identity = authenticator().verify(make_token(KEY, "ann", 60))
    assert identity.player == b"ann"
    assert identity.channels is None
    assert time.time() * 1000 + 58_000 < identity.expires_ms - 5_000 < time.time() * 1000 + 61_000, "leeway included"


def test_grants() -> None:
    identity = authenticator().verify(make_token(KEY, "ann", 60, ["room:x", "group:y"]))
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
        authenticator().verify(make())
    assert caught.value.name == "bad_token"


def test_expired() -> None:
    with pytest.raises(TokenExpired):
        authenticator().verify(make_token(KEY, "ann", -6))


def test_leeway() -> None:
    assert authenticator().verify(make_token(KEY, "ann", -3))
    with pytest.raises(TokenExpired):
        authenticator(leeway_ms=0).verify(make_token(KEY, "ann", -3))
    now = int(time.time())
    assert authenticator().verify(token({"sub": "ann", "nbf": now + 3}))
    with pytest.raises(AuthenticationError, match="not yet valid"):
        authenticator(leeway_ms=0).verify(token({"sub": "ann", "nbf": now + 3}))


@pytest.fixture
def ahead_s(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By how much the machine's clock is ahead of the right time, as the server sees it."""
    ahead = [0]
    clock = Clock(lambda: wall_clock_ms() + ahead[0] * 1000)
    monkeypatch.setattr("chatcore_server.clock._server_clock", clock)
    return ahead


def test_expired_once_is_expired_when_the_clock_is_set_back(ahead_s: list[int]) -> None:
    short = make_token(KEY, "ann", 60)
    for ahead_s[0] in (66, 0, -50):
        with pytest.raises(TokenExpired):
            authenticator().verify(short)


def test_a_clock_that_ran_ahead_keeps_no_fresh_token_out(ahead_s: list[int]) -> None:
    ahead_s[0] = 86_400
    with pytest.raises(TokenExpired):
        authenticator().verify(make_token(KEY, "ann", 600))
    ahead_s[0] = 0
    left_ms = authenticator().verify(make_token(KEY, "ann", 600)).expires_ms - now_ms()
    assert 0 <= 605_000 - DISBELIEVED_MS - left_ms < 10_000
    with pytest.raises(TokenExpired):
        authenticator().verify(make_token(KEY, "ann", 100))


@pytest.mark.parametrize("aud", ["chat", ["chat"], ["shop", "chat"]])
def test_the_token_must_name_this_audience(aud: object) -> None:
    assert authenticator(audience="chat").verify(token({"sub": "ann", "aud": aud}))


@pytest.mark.parametrize("aud", [None, "", [], "shop", "Chat", "chat ", ["shop"], [["chat"]], {"chat": 1}, 5, "ch"])
def test_another_audience(aud: object) -> None:
    claims: dict[str, object] = {"sub": "ann"} if aud is None else {"sub": "ann", "aud": aud}
    with pytest.raises(AuthenticationError):
        authenticator(audience="chat").verify(token(claims))
    if "aud" in claims:  # it is meant for somebody, and nobody has said that this is us (RFC 7519, 4.1.3)
        with pytest.raises(AuthenticationError):
            authenticator().verify(token(claims))
    else:
        assert authenticator().verify(token(claims))


def test_an_audience_that_is_null_is_one() -> None:
    with pytest.raises(AuthenticationError):
        authenticator().verify(token({"sub": "ann", "aud": None}))


def test_the_issuer() -> None:
    assert authenticator().verify(token({"sub": "ann", "iss": "anybody"}))
    assert authenticator(issuer="https://game").verify(token({"sub": "ann", "iss": "https://game"}))
    for claims in ({}, {"iss": "https://game.example"}, {"iss": ""}):
        with pytest.raises(AuthenticationError):
            authenticator(issuer="https://game").verify(token({"sub": "ann", **claims}))


HEADERS = [
    {"alg": "HS256", "crit": ["\ud800"]},
    {"alg": "\ud800"},
    {"alg": ["HS256"]},
    {"alg": None},
    {},
    {"alg": "HS256", "kid": 7},
    {"alg": "HS256", "b64": False},
    [],
    json.loads("[" * 500 + "]" * 500),
]


@pytest.mark.parametrize("header", HEADERS)
def test_headers_of_no_token(header: object) -> None:
    part = base64.urlsafe_b64encode(json.dumps(header).encode()).decode().rstrip("=")
    _, claims, signature = token({"sub": "ann"}).split(".")
    with pytest.raises(AuthenticationError) as caught:
        authenticator().verify(f"{part}.{claims}.{signature}")
    assert isinstance(text_of(caught.value), bytes)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", ""])
def test_the_development_secret_stays_on_loopback(host: str) -> None:
    with pytest.raises(SettingsError, match="refusing to listen"):
        load_settings({"host": host})
    with pytest.raises(SettingsError, match="not only for loopback"):
        make_authenticator(ServerSettings(host=host), lambda: KEY)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)
    assert make_authenticator(load_settings({"host": host}), lambda: KEY)


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


def test_whose_a_token_claims_to_be_is_asked_of_any_text() -> None:
    assert claimed_player(make_token(KEY, "ann", 60)) == b"ann"
    too_deep = base64.urlsafe_b64encode(b"[" * 3000).decode()
    header = make_token(KEY, "ann", 60).partition(".")[0]
    for text in ("", "x", "a.b.c", "ä.ä.ä", f"{too_deep}..", f"{header}.{too_deep}."):
        assert claimed_player(text) == b""
