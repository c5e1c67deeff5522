"""The value of a log record: u8 version, u8 kind, u64 session, u64 seq, u64 time, u8 sender length, sender, body."""

def encode_record(kind: int, session: int, seq: int, time: int, sender: bytes, body: bytes) -> bytes:
    """Raises ValueError for a sender over 255 bytes."""

def decode_record(value: bytes) -> tuple[int, int, int, int, bytes, bytes]:
    """(kind, session, seq, time, sender, body). Raises ValueError if malformed or of an unknown version."""
