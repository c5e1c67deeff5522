"""Encoding: what is written once per message (DELIVER, SIGNAL, record, chain hash) or once per sender (ACK)."""

from collections.abc import Callable

import pytest

from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.constants import RecordKind
from chatcore_ext.frame import encode_ack, encode_deliver, encode_signal
from chatcore_ext.record import decode_record, encode_record
from measuring import Measure

pytest_plugins = "measuring_plugin"

N = 1000
BODY = bytes(128)
SENDER = b"player-0001"
RECORD = encode_record(RecordKind.RECORD_MESSAGE, 1, 1, 1, SENDER, BODY)

ENCODERS: dict[str, Callable[[int], object]] = {
    "deliver": lambda i: encode_deliver(7, 0, i, i, i, i, SENDER, BODY),
    "signal": lambda i: encode_signal(7, 128, SENDER, BODY),
    "ack": lambda i: encode_ack(i, i, i),
    "record": lambda i: encode_record(RecordKind.RECORD_MESSAGE, 1, i, i, SENDER, BODY),
    "decode-record": lambda i: decode_record(RECORD),
    "chain-hash": lambda i: chain_hash(i, i, SENDER, BODY),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encode(measure: Measure, name: str) -> None:
    encode = ENCODERS[name]

    def batch() -> None:
        for i in range(1, N + 1):
            encode(i)

    measure(batch, N)
