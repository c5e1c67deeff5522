"""PROXY protocol, version 2: whose address a header says, and who may say it."""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore_server.doors.proxy_protocol import ProxyHeaderError, TrustedProxies, parse_source


def addresses(source: str, target: str) -> bytes:
    pair = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    return pair + struct.pack("!HH", 40_000, 7400)


@given(source=st.ip_addresses(v=4), more=st.binary(max_size=40))
def test_an_ipv4_source(source: ipaddress.IPv4Address, more: bytes) -> None:
    assert parse_source(0x11, addresses(str(source), "10.0.0.1") + more) == str(source)


@given(source=st.ip_addresses(v=6), more=st.binary(max_size=40))
def test_an_ipv6_source(source: ipaddress.IPv6Address, more: bytes) -> None:
    said = parse_source(0x21, addresses(str(source), "::1") + more)
    assert said == str(source.ipv4_mapped or source)


def test_an_ipv4_address_within_ipv6_is_an_ipv4_address() -> None:
    assert parse_source(0x21, addresses("::ffff:192.0.2.7", "::1")) == "192.0.2.7"


@pytest.mark.parametrize("family", [0x00, 0x31])
def test_a_source_without_an_address(family: int) -> None:
    assert parse_source(family, bytes(216)) == ""


@pytest.mark.parametrize(
    ("family", "rest"), [(0x11, bytes(11)), (0x21, bytes(35)), (0x11, b""), (0x41, bytes(12)), (0xFF, bytes(64))]
)
def test_what_is_no_address(family: int, rest: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_source(family, rest)


def test_who_is_trusted() -> None:
    proxies = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"])
    for address in ["10.1.2.3", "192.0.2.1", "2001:db8::5", "::ffff:10.1.2.3"]:
        assert address in proxies, address
    for address in ["11.0.0.1", "192.0.2.2", "2001:db9::5", "::1", "::ffff:11.0.0.1"]:
        assert address not in proxies, address
    with pytest.raises(ValueError, match="host bits"):
        TrustedProxies(["10.0.0.1/8"])
