"""Resume tickets: what a session needs to go on, signed, so that a resume asks nobody who the player is.

A ticket is void by its expiry or, before that, by the session store (logged out, replaced). Keeps no state itself.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence

import msgspec

from chatcore.errors import BadTicket
from chatcore.operations import UNDECODABLE

MAX_TICKET_SIZE = 1024  # bytes, docs/protocol.md
_MAC_SIZE = 32  # bytes of keyed BLAKE2b (RFC 7693): a quarter of the time of Python's HMAC-SHA256, twice per resume
_VERSION = b"\x01"
_DIGEST_SIZE = 8  # bytes of a channel's digest, see ChannelSet
_PAYLOAD_OVERHEAD = 64  # bytes: version, numbers and MessagePack headers, at most

# Channels by keyed digest (BLAKE2b-64, RFC 7693): a tenth of the names' size. Without the key nobody can find a name
# whose digest is in a set, and one wrong hit of 2**-64 needs no thought.
ChannelSet = frozenset[bytes]


class Ticket(msgspec.Struct, array_like=True, frozen=True):
    """Times are ms since 1970. `grants` None: all channels. `checked`: groups and private chats that the session was
    in, with the right to be there, when the ticket was issued.
    """

    session: int
    player: bytes
    issued_ms: int
    expires_ms: int
    token_expires_ms: int
    grants: bytes | None
    checked: bytes


class TicketSigner:
    """Signs and verifies with one key, shared by all servers that a session may resume on."""

    def __init__(self, key: bytes, lifetime_ms: int) -> None:
        self._keyed = hashlib.blake2b(digest_size=_MAC_SIZE, key=key)  # a copy takes half as long as a new one
        self._channel_key = hmac.digest(key, b"channels", hashlib.sha256)
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode = msgspec.msgpack.Decoder(Ticket).decode
        self.lifetime_ms = lifetime_ms

    def issue(
        self,
        session: int,
        player: bytes,
        now_ms: int,
        token_expires_ms: int,
        grants: ChannelSet | None,
        checked: Sequence[bytes],
    ) -> tuple[bytes, int]:
        """The ticket and for how many ms it will work. It names as many of the `checked` channels as there is room
        for."""
        expires_ms = min(now_ms + self.lifetime_ms, token_expires_ms)
        packed_grants = None if grants is None else b"".join(sorted(grants))
        room = MAX_TICKET_SIZE - _MAC_SIZE - _PAYLOAD_OVERHEAD - len(player) - len(packed_grants or b"")
        packed = b"".join(map(self.digest, checked[: max(room, 0) // _DIGEST_SIZE]))
        ticket = Ticket(session, player, now_ms, expires_ms, token_expires_ms, packed_grants, packed)
        return self.sign(ticket), max(expires_ms - now_ms, 0)

    def sign(self, ticket: Ticket) -> bytes:
        payload = _VERSION + self._encode(ticket)
        return self._mac(payload) + payload

    def _mac(self, payload: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(payload)
        return mac.digest()

    def verify(self, data: bytes, now_ms: int) -> Ticket:
        """Raises BadTicket. Compares in constant time."""
        mac, payload = data[:_MAC_SIZE], data[_MAC_SIZE:]
        if len(data) > MAX_TICKET_SIZE or not hmac.compare_digest(mac, self._mac(payload)):
            raise BadTicket("the ticket is not one of this service")
        if payload[:1] != _VERSION:
            raise BadTicket("the ticket is of another version")
        try:
            ticket = self._decode(payload[1:])
        except UNDECODABLE:  # signed with our key all the same, by a server of another version
            raise BadTicket("the ticket is of another version") from None
        if ticket.expires_ms <= now_ms:
            raise BadTicket("the ticket is too old")
        return ticket

    def claimed_player(self, data: bytes) -> bytes:
        """Whose it says it is, which proves nothing: for traces alone. b"": it says nothing."""
        try:
            return self._decode(data[_MAC_SIZE + len(_VERSION) :]).player
        except UNDECODABLE:
            return b""

    def digest(self, channel: bytes) -> bytes:
        return hashlib.blake2b(channel, digest_size=_DIGEST_SIZE, key=self._channel_key).digest()

    def channel_set(self, channels: Iterable[bytes]) -> ChannelSet:
        return frozenset(map(self.digest, channels))

    def allows(self, grants: ChannelSet | None, channel: bytes) -> bool:
        return grants is None or self.digest(channel) in grants


def unpack_channels(packed: bytes) -> ChannelSet:
    return frozenset(packed[i : i + _DIGEST_SIZE] for i in range(0, len(packed), _DIGEST_SIZE))
