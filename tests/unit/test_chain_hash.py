"""The chain hash and the name hash, against known values of FNV-1a and the slow oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore_ext.chain_hash import chain_hash, name_hash
from support.oracles import frames as oracle

u64 = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 9923, section 8.3, without and with the strings' terminating NUL
        (b"", 0xCBF29CE484222325),
        (b"a", 0xAF63DC4C8601EC8C),
        (b"foobar", 0x85944171F73967E8),
        (b"Hello!\x01\xff\xed", 0xBD51EA7094EE6FA1),
        (b"\0", 0xAF63BD4C8601B7DF),
        (b"a\0", 0x089BE207B544F1E4),
        (b"foobar\0", 0x34531CA7168B8F38),
        (b"Hello!\x01\xff\xed\0", 0xA0A0FE4D1127AE93),
        # An input that leads to 0, of the authors' "zero hash challenge".
        (b"\xd5\x6b\xb9\x53\x42\x87\x08\x36", 0),
    ],
)
def test_known_values(data: bytes, expected: int) -> None:
    assert name_hash(data) == expected
    assert oracle.fnv(0xCBF29CE484222325, data) == expected


@given(u64, u64, st.binary(max_size=255), st.binary(max_size=300))
def test_chain_as_the_oracle(previous: int, id: int, sender: bytes, body: bytes) -> None:
    assert chain_hash(previous, id, sender, body) == oracle.chain(previous, id, sender, body)


def test_a_state_of_zero_is_told_as_one() -> None:
    """This id's bytes lead from the offset basis to 0, where the zero bytes of the empty sender and body leave it."""
    assert chain_hash(0, 0xD56BB95342870836, b"", b"") == 1
    assert chain_hash(1, 2, b"a", b"x") != chain_hash(0, 2, b"a", b"x"), "1 is a state, not the start of a chain"


def test_what_must_not_look_alike_does_not() -> None:
    states = {
        chain_hash(0, 1, b"ab", b"c"),
        chain_hash(0, 1, b"a", b"bc"),
        chain_hash(0, 2, b"ab", b"c"),
        chain_hash(1, 1, b"ab", b"c"),
        chain_hash(0, 1, b"ab", b""),
    }
    assert len(states) == 5


def test_order_counts() -> None:
    first_then_second = chain_hash(chain_hash(0, 1, b"a", b"x"), 2, b"b", b"y")
    assert first_then_second != chain_hash(chain_hash(0, 2, b"b", b"y"), 1, b"a", b"x")


def test_a_sender_has_one_length_byte() -> None:
    with pytest.raises(ValueError, match="255"):
        chain_hash(0, 1, b"x" * 256, b"")
