"""The places of a batch of messages in the embedded log: offsets, prev, hash, and the rows of its table."""

import itertools

import pytest

from chatcore_ext.constants import RecordKind
from chatcore_ext.log_placing import place_appends
from chatcore_ext.log_view import LogView
from chatcore_ext.record import encode_record
from measuring import Measure

pytest_plugins = "measuring_plugin"

BODY = bytes(128)
CHANNELS = [b"room:%d" % i for i in range(100)]
TIME = 1_800_000_000_000


@pytest.mark.parametrize("n", [8, 400])
def test_place_appends(measure: Measure, n: int) -> None:
    view, offsets, seqs = LogView(), [1, 1, 1, 1], itertools.count(1)

    def place() -> None:
        appends = [
            (CHANNELS[seq % 100], encode_record(RecordKind.RECORD_MESSAGE, 1, seq, TIME, b"somebody", BODY), None)
            for seq in itertools.islice(seqs, n)
        ]
        place_appends(view, appends, offsets, TIME, lambda channel: view.learn_head(channel, 0, 0, 0))

    measure(place, n)
