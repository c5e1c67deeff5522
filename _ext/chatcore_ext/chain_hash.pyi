"""The rolling hash of a channel (docs/protocol.md, "Hash"): FNV-1a 64, RFC 9923."""

def chain_hash(previous: int, id: int, sender: bytes, body: bytes) -> int:
    """The chain after this message. previous = 0 starts a new chain. Never returns 0: 0 means "not known", so a state
    of 0 is told as 1. Raises ValueError for a sender over 255 bytes."""

def name_hash(name: bytes) -> int:
    """FNV-1a 64 of a name: picks a channel's partition."""
