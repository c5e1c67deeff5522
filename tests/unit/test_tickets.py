"""Resume tickets: they say what they were given, for as long as they may, and nobody else can make one."""

import hashlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore.errors import BadTicket
from chatcore_server.tickets import MAX_TICKET_SIZE, Ticket, TicketSigner, unpack_channels

SIGNER = TicketSigner(bytes(32), 300_000)
NOW = 1_800_000_000_000
CHANNELS = [f"group:{i}".encode() for i in range(300)]


def issue(**changes: object) -> tuple[bytes, int]:
    arguments: dict[str, object] = {
        "session": 7,
        "player": b"ann",
        "now_ms": NOW,
        "token_expires_ms": NOW + 10**9,
        "grants": None,
        "checked": [],
    }
    return SIGNER.issue(**{**arguments, **changes})  # type: ignore[arg-type]


def test_round_trip() -> None:
    data, lifetime = issue(grants=SIGNER.channel_set([b"room:x"]), checked=[b"group:a", b"dm:a:b"])
    ticket = SIGNER.verify(data, NOW + 1)
    assert (ticket.session, ticket.player, ticket.issued_ms, lifetime) == (7, b"ann", NOW, 300_000)
    assert unpack_channels(ticket.checked) == SIGNER.channel_set([b"group:a", b"dm:a:b"])
    assert ticket.grants is not None
    assert SIGNER.allows(unpack_channels(ticket.grants), b"room:x")
    assert not SIGNER.allows(unpack_channels(ticket.grants), b"room:y")
    assert SIGNER.allows(None, b"room:y")


def test_it_ends_with_its_lifetime_or_with_the_token() -> None:
    data, lifetime = issue()
    SIGNER.verify(data, NOW + 299_999)
    with pytest.raises(BadTicket, match="too old"):
        SIGNER.verify(data, NOW + 300_000)
    data, lifetime = issue(token_expires_ms=NOW + 50)
    assert lifetime == 50
    with pytest.raises(BadTicket, match="too old"):
        SIGNER.verify(data, NOW + 50)


def test_no_grants_is_not_all_grants() -> None:
    ticket = SIGNER.verify(issue(grants=frozenset())[0], NOW)
    assert ticket.grants == b""
    assert not SIGNER.allows(unpack_channels(ticket.grants), b"room:y")


def test_it_never_grows_over_its_bound() -> None:
    data, _ = issue(player=b"p" * 64, grants=SIGNER.channel_set(CHANNELS[:64]), checked=CHANNELS, session=2**64 - 1)
    assert MAX_TICKET_SIZE - 64 < len(data) <= MAX_TICKET_SIZE
    ticket = SIGNER.verify(data, NOW)
    kept = unpack_channels(ticket.checked)
    assert len(kept) > 30
    assert kept <= SIGNER.channel_set(CHANNELS)


@settings(max_examples=100)
@given(st.binary(max_size=100))
def test_noise_is_no_ticket(data: bytes) -> None:
    with pytest.raises(BadTicket):
        SIGNER.verify(data, NOW)


def test_every_changed_bit_is_seen() -> None:
    data, _ = issue()
    for i in range(len(data) * 8):
        changed = bytearray(data)
        changed[i // 8] ^= 1 << i % 8
        with pytest.raises(BadTicket):
            SIGNER.verify(bytes(changed), NOW)
    with pytest.raises(BadTicket):
        SIGNER.verify(data + b"\0", NOW)
    with pytest.raises(BadTicket):
        TicketSigner(b"\1" * 32, 300_000).verify(data, NOW)


def signed(payload: bytes) -> bytes:
    """As a server of another version would that shares the key."""
    return hashlib.blake2b(payload, digest_size=32, key=bytes(32)).digest() + payload


@pytest.mark.parametrize("payload", [b"\1", b"\1\x97\1", b"\1\x80", b"\1" + b"\x91" * 900, b"\2\x97"])
def test_a_good_signature_on_something_else_is_no_ticket(payload: bytes) -> None:
    with pytest.raises(BadTicket, match="version"):
        SIGNER.verify(signed(payload), NOW)


def test_whose_a_ticket_claims_to_be_is_asked_of_any_bytes() -> None:
    assert SIGNER.claimed_player(issue()[0]) == b"ann"
    whole = msgspec.msgpack.encode(Ticket(7, b"ann", 0, 0, 0, None, b""))
    too_deep = b"\x98" + whole[1:] + b"\x91" * 3000 + b"\0"  # one more item, which a decoder has to skip
    assert SIGNER.claimed_player(bytes(33) + too_deep) == b""
    assert SIGNER.claimed_player(b"") == b""
