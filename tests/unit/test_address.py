"""Addresses of servers: what a client is given, and where it then connects."""

import ssl

import pytest

from chatcore.address import ServerAddress, encryption, parse_address


@pytest.mark.parametrize(
    ("text", "port", "address", "uri"),
    [
        ("127.0.0.1", None, ServerAddress("127.0.0.1", 7400), "tcp://127.0.0.1:7400"),
        ("chat.example", 5, ServerAddress("chat.example", 5), "tcp://chat.example:5"),
        ("chat.example:6", 5, ServerAddress("chat.example", 6), "tcp://chat.example:6"),
        ("::1", 5, ServerAddress("::1", 5), "tcp://[::1]:5"),
        ("[::1]:6", None, ServerAddress("::1", 6), "tcp://[::1]:6"),
        ("tcp://chat.example", None, ServerAddress("chat.example", 7400), "tcp://chat.example:7400"),
        ("tls://chat.example", None, ServerAddress("chat.example", 7443, "tls"), "tls://chat.example:7443"),
        ("tls://[::1]:8", None, ServerAddress("::1", 8, "tls"), "tls://[::1]:8"),
        ("ws://chat.example", None, ServerAddress("chat.example", 80, "ws"), "ws://chat.example:80/"),
        ("wss://c.example/a?b=c", 9, ServerAddress("c.example", 9, "wss", "/a?b=c"), "wss://c.example:9/a?b=c"),
        ("wss://c.example", None, ServerAddress("c.example", 443, "wss"), "wss://c.example:443/"),
    ],
)
def test_what_they_mean(text: str, port: int | None, address: ServerAddress, uri: str) -> None:
    assert parse_address(text, port) == address
    assert address.uri == uri
    assert parse_address(uri) == address


@pytest.mark.parametrize(
    "text",
    [
        *("", "http://x", "tls://", "tls://x/path", "ws://me@x/", "ws://x/#part", "tcp://x?q", ":7400"),
        *("x:port", "x:70000", "x:0", "x:-1", "x:99999999", "[::1:7400", "::1]:7400", "1.2.3.4:5:6"),
    ],
)
def test_what_is_none_is_named_with_what_would_be_one(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_address(text)
    assert str(caught.value).startswith(text)
    assert any(form in str(caught.value) for form in ("HOST:PORT", "tcp://, tls://", "only a WebSocket's"))


def test_only_encrypted_doors_need_a_context() -> None:
    own = ssl.create_default_context()
    for scheme, wants in [("tcp", False), ("ws", False), ("tls", True), ("wss", True)]:
        address = ServerAddress("x", 1, scheme)
        assert (encryption(address, own) is own) == wants
        default = encryption(address, None)
        assert (default is not None and default.verify_mode is ssl.CERT_REQUIRED and default.check_hostname) == wants
