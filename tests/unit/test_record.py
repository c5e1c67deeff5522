"""Log records against the slow oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore_ext.record import decode_record, encode_record
from support.oracles import frames as oracle

u64 = st.integers(0, 2**64 - 1)


@given(st.integers(0, 255), u64, u64, u64, st.binary(max_size=255), st.binary(max_size=300))
def test_there_and_back(kind: int, session: int, seq: int, time: int, sender: bytes, body: bytes) -> None:
    value = encode_record(kind, session, seq, time, sender, body)
    assert value == oracle.record(kind, session, seq, time, sender, body)
    assert decode_record(value) == (kind, session, seq, time, sender, body)


def test_whatever_is_too_short_is_refused() -> None:
    value = oracle.record(1, 2, 3, 4, b"alice", b"")
    for cut in range(len(value)):
        with pytest.raises(ValueError, match="version 1"):
            decode_record(value[:cut])


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 1"):
        decode_record(b"\x02" + oracle.record(1, 2, 3, 4, b"", b"")[1:])


def test_a_sender_has_one_length_byte() -> None:
    with pytest.raises(ValueError, match="255"):
        encode_record(1, 2, 3, 4, b"x" * 256, b"")
