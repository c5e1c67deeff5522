"""The keys that verify tokens: each kind by its one algorithm and no other, key sets, and files that change."""

import base64
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from chatcore.errors import AuthenticationError
from chatcore_server.authentication import Authenticator, development_token_key, make_authenticator, make_token
from chatcore_server.keys import Key, read_private_key, verifying_key
from chatcore_server.settings import AuthenticationSettings, SettingsError
from chatcore_server.settings_layers import load_settings
from support.keys import ALGORITHMS, jwk, private_key, private_pem, public_pem, secret_jwk, write_jwks

SECRET = bytes(range(32))
KINDS = list(ALGORITHMS)


def signed(kind: str, number: int = 0, *, kid: str | None = None, algorithm: str = "") -> str:
    return make_token(Key(algorithm or ALGORITHMS[kind], private_key(kind, number), kid), "ann", 60)


def with_header(header: dict[str, Any], key: bytes) -> str:
    """A token with any header, signed by HMAC-SHA256 with any bytes: what PyJWT would refuse to make."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    claims = {"sub": "ann", "exp": int(time.time()) + 60}
    content = f"{part(json.dumps(header).encode())}.{part(json.dumps(claims).encode())}"
    return f"{content}.{part(hmac.digest(key, content.encode(), hashlib.sha256))}"


def of_files(folder: Path, *keys: dict[str, Any], pem: bytes = b"", secret: bytes = b"", **more: Any) -> Authenticator:
    settings = dict(more)
    if keys:
        settings["jwks_file"] = str(write_jwks(folder / "jwks.json", *keys))
    for name, content in (("public_key_file", pem), ("secret_file", secret)):
        if content:
            (folder / name).write_bytes(content)
            settings[name] = str(folder / name)
    return Authenticator(AuthenticationSettings(**settings))


def refused(authenticator: Authenticator, token: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        authenticator.verify(token)
    assert caught.value.name == "bad_token"


# ---- Every kind of key by every algorithm ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_in_pem(kind: str, tmp_path: Path) -> None:
    authenticator = of_files(tmp_path, pem=public_pem(kind))
    assert authenticator.verify(signed(kind)).player == b"ann"
    assert authenticator.verify(signed(kind, kid="anything")), "without a key set, names say nothing"
    refused(authenticator, signed(kind, 1))
    for other in KINDS:
        if other != kind:
            refused(authenticator, signed(other))


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_of_a_set(kind: str, tmp_path: Path) -> None:
    authenticator = of_files(tmp_path, jwk(kind, kid="a", alg=ALGORITHMS[kind], use="sig", key_ops=["verify"]))
    assert authenticator.verify(signed(kind, kid="a"))
    assert authenticator.verify(signed(kind)), "it is the only one"
    refused(authenticator, signed(kind, 1, kid="a"))
    refused(authenticator, signed(kind, kid="b"))
    refused(authenticator, signed(kind, kid=""))
    for other in KINDS:
        if other != kind:
            refused(authenticator, signed(other, kid="a"))


OTHER_ALGORITHMS = [("rsa", "RS384"), ("rsa", "RS512"), ("rsa", "PS256"), ("p384", "ES384"), ("ed448", "EdDSA")]


@pytest.mark.parametrize(("kind", "algorithm"), OTHER_ALGORITHMS)
def test_another_algorithm_of_the_same_family(kind: str, algorithm: str, tmp_path: Path) -> None:
    authenticator = of_files(tmp_path, *(jwk(each, kid=each) for each in KINDS))
    refused(authenticator, signed(kind, algorithm=algorithm))
    refused(authenticator, signed(kind, kid="rsa", algorithm=algorithm))


@pytest.mark.parametrize("kind", KINDS)
def test_a_public_key_is_no_secret(kind: str, tmp_path: Path) -> None:
    """Everybody has its bytes: a token signed by them as if they were an HS256 secret is worth nothing."""
    pem = public_pem(kind)
    set_text = json.dumps(jwk(kind)).encode()
    authenticators = [
        of_files(tmp_path, pem=pem),
        of_files(tmp_path, pem=pem, secret=SECRET),
        of_files(tmp_path, jwk(kind, kid="a")),
        of_files(tmp_path, jwk(kind, kid="a"), secret=SECRET),
    ]
    for authenticator in authenticators:
        for key in (pem, pem.strip(), set_text, b""):
            for header in ({"alg": "HS256"}, {"alg": "HS256", "kid": "a"}, {"alg": ALGORITHMS[kind], "kid": "a"}):
                refused(authenticator, with_header(header, key))


def test_a_public_key_never_becomes_a_secret() -> None:
    """However it came to be taken for one."""
    with pytest.raises(jwt.InvalidKeyError):
        verifying_key(Key("HS256", public_pem("rsa")))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", None, "HS256 ", "hs256"])
def test_no_algorithm(algorithm: str | None, tmp_path: Path) -> None:
    for authenticator in (of_files(tmp_path, jwk("rsa", kid="a")), of_files(tmp_path, secret=SECRET)):
        for kid in ({}, {"kid": "a"}):
            content = with_header({"alg": algorithm, **kid}, SECRET).rpartition(".")[0]
            refused(authenticator, f"{content}.")
            refused(authenticator, with_header({"alg": algorithm, **kid}, SECRET))


def test_a_token_brings_no_key_of_its_own(tmp_path: Path) -> None:
    """`jwk`, `jku`, `x5u` in a header are what the token says about itself (RFC 8725, 3.10)."""
    authenticator = of_files(tmp_path, jwk("p256", kid="a"))
    for header in ({"jwk": jwk("p256", 1)}, {"jku": "file:///jwks.json"}, {"x5u": "file:///"}, {"kid": "../jwks.json"}):
        token = jwt.encode(
            {"sub": "ann", "exp": int(time.time()) + 60}, private_key("p256", 1), "ES256", {"kid": "a", **header}
        )
        refused(authenticator, token)


# ---- Names -----------------------------------------------------------------------------------------------------------


def test_a_token_without_a_name_needs_the_only_key(tmp_path: Path) -> None:
    authenticator = of_files(tmp_path, jwk("p256", 0, kid="a"), jwk("p256", 1, kid="b"), jwk("ed25519", kid="c"))
    assert authenticator.verify(signed("p256", 1, kid="b"))
    assert authenticator.verify(signed("ed25519"))
    refused(authenticator, signed("p256", 1))
    refused(authenticator, signed("p256", 1, kid="a"))


def test_with_a_set_a_name_must_be_one_of_it(tmp_path: Path) -> None:
    authenticator = of_files(tmp_path, jwk("p256", kid="a"), secret=SECRET, pem=public_pem("ed25519"))
    assert authenticator.verify(signed("ed25519"))
    assert authenticator.verify(make_token(SECRET, "ann", 60))
    refused(authenticator, signed("ed25519", kid="x"))
    refused(authenticator, make_token(Key("HS256", SECRET, "a"), "ann", 60))


# ---- Files that are none ---------------------------------------------------------------------------------------------


REFUSED_SETS: list[tuple[list[Any], str]] = [
    ([], "holds no key"),
    ([5], "no kty"),
    ([{}], "no kty"),
    ([{"kty": 5}], "no kty"),
    ([secret_jwk(SECRET)], "is a secret"),
    ([jwk("p256"), secret_jwk(SECRET, kid="s")], "is a secret"),
    ([jwk("rsa", private=True)], "is a private key"),
    ([jwk("p256", private=True)], "is a private key"),
    ([jwk("p256", kid="a"), jwk("ed25519", kid="a")], "'a' twice"),
    ([jwk("p256", kid=5)], "no text"),
    ([jwk("small rsa")], "1024 bits"),
    ([jwk("p384")], "holds no key"),
    ([jwk("p256", use="enc")], "holds no key"),
    ([{**jwk("p256"), "x": "AAAA"}], "damaged"),
    ([{**jwk("p256"), "x": 5}], "damaged"),
    ([{**jwk("p256"), "y": jwk("p256", 1)["y"]}], "damaged"),  # not on the curve
    ([{**jwk("p384"), "crv": "P-256"}], "damaged"),
    ([{"kty": "EC", "crv": "P-256"}], "damaged"),
    ([{**jwk("rsa"), "n": ["x"]}], "damaged"),
    ([{**jwk("rsa"), "e": "AQ"}], "damaged"),  # an exponent of 1 signs nothing
    ([{**jwk("ed25519"), "x": "AAAA"}], "damaged"),
]


@pytest.mark.parametrize(("keys", "words"), REFUSED_SETS)
def test_sets_that_are_refused_whole(keys: list[Any], words: str, tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "jwks.json", *keys)
    with pytest.raises(SettingsError, match=words) as caught:
        Authenticator(AuthenticationSettings(jwks_file=str(path)))
    assert str(path) in str(caught.value)
    assert "AAECAwQF" not in str(caught.value), "a secret is not shown"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"keys": {}}', '{"keys": 5}', "[" * 5000, "\ud800"])
def test_files_that_are_no_set(text: str, tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SettingsError, match="not a JSON Web Key Set"):
        Authenticator(AuthenticationSettings(jwks_file=str(path)))


LEFT_OUT = [
    jwk("ed25519", kid="x", use="enc"),
    jwk("ed25519", kid="x", key_ops=["sign"]),
    jwk("ed25519", kid="x", key_ops="verify"),
    jwk("ed25519", kid="x", alg="ES256"),
    jwk("rsa", kid="x", alg="RS512"),
    jwk("p384", kid="x"),
    jwk("ed448", kid="x"),
    {"kty": "AKP", "kid": "x", "alg": "ML-DSA-44", "pub": ""},
]


@pytest.mark.parametrize("other", LEFT_OUT)
def test_keys_for_something_else_are_left_out(other: dict[str, Any], tmp_path: Path) -> None:
    authenticator = of_files(tmp_path, other, jwk("p256", kid="a"))
    assert authenticator.counters()["keys"] == 1
    assert authenticator.verify(signed("p256", kid="a"))
    refused(authenticator, signed("ed25519", kid="x"))
    refused(authenticator, signed("rsa", kid="x"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("secret_file", b"too short\n", "at least 32"),
        ("secret_file", public_pem("rsa"), "not a secret"),
        ("secret_file", json.dumps({"keys": [jwk("p256")]}).encode(), "not a secret"),
        ("public_key_file", b"junk", "not a public key in PEM"),
        ("public_key_file", private_pem("p256"), "not a public key in PEM"),
        ("public_key_file", public_pem("small rsa"), "1024 bits"),
        ("public_key_file", public_pem("p384"), "is not an Ed25519, a P-256 or an RSA"),
        ("public_key_file", public_pem("ed448"), "is not an Ed25519, a P-256 or an RSA"),
    ],
)
def test_keys_that_are_none(name: str, content: bytes, words: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=f"^authentication.{name}: .*{words}"):
        Authenticator(AuthenticationSettings(**{name: str(file)}))  # type: ignore[arg-type]
    file.unlink()
    with pytest.raises(SettingsError, match="cannot read the key"):
        Authenticator(AuthenticationSettings(**{name: str(file)}))  # type: ignore[arg-type]


def test_configured_keys_replace_the_development_secret(tmp_path: Path) -> None:
    path = write_jwks(tmp_path / "jwks.json", jwk("p256"))
    authenticator = make_authenticator(load_settings({"authentication": {"jwks_file": str(path)}}), lambda: SECRET)
    refused(authenticator, make_token(development_token_key(SECRET), "ann", 60))
    assert authenticator.verify(signed("p256"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_private_key_signs(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "private.pem"
    file.write_bytes(private_pem(kind))
    key = read_private_key(file)._replace(kid="a")
    authenticator = of_files(tmp_path, jwk(kind, kid="a"), audience="chat", issuer="game")
    assert authenticator.verify(make_token(key, "ann", 60, audience="chat", issuer="game"))
    refused(authenticator, make_token(key, "ann", 60))
    file.write_bytes(public_pem(kind))
    with pytest.raises(SettingsError, match="not a private key"):
        read_private_key(file)


# ---- Files that change -----------------------------------------------------------------------------------------------


def test_a_rotation(tmp_path: Path) -> None:
    old, new = jwk("p256", 0, kid="old"), jwk("p256", 1, kid="new")
    authenticator = of_files(tmp_path, old)
    refused(authenticator, signed("p256", 1, kid="new"))
    assert not authenticator.refresh()
    write_jwks(tmp_path / "jwks.json", old, new)
    assert authenticator.refresh()
    assert not authenticator.refresh()
    assert authenticator.verify(signed("p256", 0, kid="old"))
    assert authenticator.verify(signed("p256", 1, kid="new"))
    write_jwks(tmp_path / "jwks.json", new)
    assert authenticator.refresh()
    refused(authenticator, signed("p256", 0, kid="old"))
    assert authenticator.verify(signed("p256", 1, kid="new"))
    assert authenticator.counters() == {"keys": 1, "key_reads": 2, "key_reads_failed": 0}


def test_a_file_that_breaks_changes_nothing(tmp_path: Path) -> None:
    authenticator = of_files(tmp_path, jwk("p256", kid="a"))
    path = tmp_path / "jwks.json"
    for content in ("{", json.dumps({"keys": [secret_jwk(SECRET)]})):
        path.write_text(content)
        assert not authenticator.refresh()
        assert not authenticator.refresh()
        assert authenticator.verify(signed("p256", kid="a"))
    path.unlink()
    assert not authenticator.refresh()
    assert authenticator.verify(signed("p256", kid="a"))
    assert authenticator.counters()["key_reads_failed"] == 3, "each is told once"
    write_jwks(path, jwk("p256", 1, kid="b"))
    assert authenticator.refresh()
    refused(authenticator, signed("p256", kid="a"))
    assert authenticator.verify(signed("p256", 1, kid="b"))


def test_a_file_behind_a_link(tmp_path: Path) -> None:
    """As Kubernetes mounts secrets: the path stays, the link behind it moves."""
    for i in (0, 1):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "public.pem").write_bytes(public_pem("ed25519", i))
    os.symlink(tmp_path / "0", tmp_path / "current")
    authenticator = Authenticator(AuthenticationSettings(public_key_file=str(tmp_path / "current" / "public.pem")))
    assert authenticator.verify(signed("ed25519", 0))
    os.symlink(tmp_path / "1", tmp_path / "next")
    os.replace(tmp_path / "next", tmp_path / "current")
    assert authenticator.refresh()
    assert authenticator.verify(signed("ed25519", 1))
    refused(authenticator, signed("ed25519", 0))


def test_reloading_now_by_other_settings(tmp_path: Path) -> None:
    authenticator = of_files(tmp_path, jwk("p256", kid="a"))
    authenticator.reload()
    with pytest.raises(SettingsError, match="cannot read"):
        authenticator.reload(AuthenticationSettings(jwks_file=str(tmp_path / "none")))
    with pytest.raises(SettingsError, match="no key is configured"):
        authenticator.reload(AuthenticationSettings())
    assert authenticator.verify(signed("p256", kid="a"))
    authenticator.reload(AuthenticationSettings(jwks_file=str(tmp_path / "jwks.json"), audience="chat"))
    refused(authenticator, signed("p256", kid="a"))
