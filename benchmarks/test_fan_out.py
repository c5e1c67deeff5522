"""Fan-out: one signal or message to n receivers, from the call until all have read it. An item is a delivery."""

import pytest

from chatcore_ext.constants import RecordKind
from chatcore_ext.frame import encode_deliver, encode_signal
from chatcore_ext.record import encode_record
from crowd import CHANNEL, Crowd
from measuring import Measure

pytest_plugins = "measuring_plugin"
# Two processes and the kernel between them: beside other work equal runs came apart by a factor of two. What compiled
# code adds is found by its instruction counts.
pytestmark = pytest.mark.compared(calibrated_by="kernel", limit=1.5)

BODY = bytes(128)
SENDER = b"somebody"
DELIVERIES = 1000  # of a batch, at least: the word from the receivers' process costs some 20 us
MOST_MESSAGES = 100  # of a batch: more would fill the receivers' sockets


@pytest.mark.parametrize("receivers", [1, 100, 1_000, 10_000])
def test_signal(measure: Measure, receivers: int) -> None:
    messages = max(1, min(MOST_MESSAGES, DELIVERIES // receivers))
    size = messages * receivers * len(encode_signal(1, 128, SENDER, BODY))
    with Crowd(receivers) as crowd:

        def batch() -> None:
            for _ in range(messages):
                assert crowd.hub.signal(CHANNEL, 128, SENDER, BODY) == receivers
                crowd.hub.flush()
            crowd.wait_until_read(size)

        measure(batch, messages * receivers)


@pytest.mark.parametrize("receivers", [1, 100, 1_000, 10_000])
def test_message(measure: Measure, receivers: int) -> None:
    messages = max(1, min(MOST_MESSAGES, DELIVERIES // receivers))
    size = messages * receivers * len(encode_deliver(1, 0, 1, 0, 1, 1, SENDER, BODY))
    sent = 0
    with Crowd(receivers) as crowd:

        def batch() -> None:
            nonlocal sent
            for _ in range(messages):
                sent += 1
                record = encode_record(RecordKind.RECORD_MESSAGE, 1, sent, 1, SENDER, BODY)
                crowd.hub.deliver(0, [(sent, 1, CHANNEL, record)])
                crowd.hub.flush()
            crowd.wait_until_read(size)

        measure(batch, messages * receivers)
