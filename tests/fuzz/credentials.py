"""Tickets and tokens: a valid one says what it was given, and anything else is refused by name, never by another error.

Also bytes with a good signature and no ticket in them: a server of another version may share the key.
"""

import hashlib

import jwt

from chatcore.errors import AuthenticationError, BadName, BadTicket
from chatcore.names import validate_player
from chatcore_server.authentication import Authenticator, claimed_player
from chatcore_server.settings import AuthenticationSettings
from chatcore_server.tickets import MAX_TICKET_SIZE, TicketSigner, unpack_channels
from fuzz.reading import Reader

KEY = bytes(range(32))
NOW = 1_800_000_000_000  # ms
LIFETIME = 300_000
SIGNER = TicketSigner(KEY, LIFETIME)
AUTHENTICATOR = Authenticator(AuthenticationSettings(), lambda: KEY)
MAC = 32  # bytes


def one_input(data: bytes) -> None:
    read = Reader(data)
    aspect = read.one_of([_noise, _issued, _changed, _signed, _token])
    aspect(read)


def _is_refused(data: bytes) -> None:
    assert type(SIGNER.claimed_player(data)) is bytes  # asked of any bytes, while a trace is on
    try:
        SIGNER.verify(data, NOW)
    except BadTicket:
        return
    raise AssertionError("a ticket that nobody issued")


def _noise(read: Reader) -> None:
    _is_refused(read.rest())


def _issue(read: Reader) -> bytes:
    channels = [b"group:%d" % i for i in range(read.number())]
    grants = SIGNER.channel_set(channels[: read.below(65)]) if read.below(2) else None
    session, player, life = read.number(8), b"p" * (1 + read.below(64)), read.number(3)
    data, lifetime = SIGNER.issue(session, player, NOW, NOW + life, grants, channels)
    assert lifetime == min(life, LIFETIME)
    assert len(data) <= MAX_TICKET_SIZE
    if lifetime:
        ticket = SIGNER.verify(data, NOW + lifetime - 1)
        assert (ticket.session, ticket.player, ticket.token_expires_ms) == (session, player, NOW + life)
        assert (None if ticket.grants is None else unpack_channels(ticket.grants)) == grants
        assert unpack_channels(ticket.checked) <= SIGNER.channel_set(channels)
    return data


def _issued(read: Reader) -> None:
    _issue(read)


def _changed(read: Reader) -> None:
    """Cut off, lengthened, or with a few bytes changed."""
    data = _issue(read)
    changed = bytearray(data[: len(data) - read.below(64)] + read.text())
    for _ in range(read.below(4)):
        if changed:
            changed[read.number(2) % len(changed)] ^= read.number()
    if bytes(changed) != data:
        _is_refused(bytes(changed))


def _signed(read: Reader) -> None:
    payload = read.one_of([b"\1", b"\1\x97", b""]) + read.rest()
    data = hashlib.blake2b(payload, digest_size=MAC, key=KEY).digest() + payload
    assert type(SIGNER.claimed_player(data)) is bytes
    try:
        ticket = SIGNER.verify(data, NOW)
    except BadTicket:
        return
    assert ticket.expires_ms > NOW
    assert SIGNER.verify(SIGNER.sign(ticket), NOW) == ticket


def _token(read: Reader) -> None:
    """As it came, or its payload signed with the good key."""
    is_signed = read.below(2)
    token = read.rest().decode("utf-8", "replace")
    if is_signed:
        token = jwt.api_jws.encode(token.encode(), KEY, algorithm="HS256")
    assert type(claimed_player(token)) is bytes
    try:
        identity = AUTHENTICATOR.verify(token)
    except AuthenticationError:
        return
    try:
        validate_player(identity.player.decode("ascii"))
    except BadName as error:
        raise AssertionError("a token for nobody") from error
    assert is_signed
