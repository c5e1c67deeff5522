"""The log view: what it says is true whatever it is told in whatever order, and it knows what it can know."""

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.constants import NO_ID, UNKNOWN_ID, RecordKind
from chatcore_ext.log_view import LogView
from chatcore_ext.record import encode_record
from support.memory import resident_bytes
from support.oracles.log import LogModel, ReaderModel, Record

WINDOW_MS = 1000
CHAIN_IDLE_MS = 5000
CHANNELS = [b"room:%d" % number for number in range(5)]
START_MS = 10**6


def message(session: int, seq: int, sender: bytes = b"ann", body: bytes = b"hi") -> bytes:
    return encode_record(RecordKind.RECORD_MESSAGE, session, seq, 7, sender, body)


@dataclass
class Reader:
    """A view under test, its model, and how far it has read. It started at the log's `first` record."""

    view: LogView
    model: ReaderModel
    position: int
    settled_ms: int

    def read(self, record: Record) -> None:
        value = message(record.session, record.seq, record.sender, record.body)
        placed = self.view.place(record.partition, record.offset, record.time, record.channel, value)
        self.position += 1
        if record.time >= self.settled_ms:
            assert placed == self.model.place(record)
            assert placed is None or placed[0] in (record.prev, UNKNOWN_ID)
            assert placed is None or placed[1] in (record.hash, 0)
        elif placed is not None:
            # It may take a later copy for a first one here, so it must not say anything about it.
            assert placed == (UNKNOWN_ID, 0)
            self.model.place(Record(**{**vars(record), "first": True}), is_settled=False)


class ViewMachine(RuleBasedStateMachine):
    """Several readers of one log, at different positions, with different bounds, told by history at different times."""

    def __init__(self) -> None:
        super().__init__()
        self.log = LogModel(WINDOW_MS, CHAIN_IDLE_MS)
        self.time = START_MS
        self.next_offset = 1
        self.readers = [self.start_reader(max_heads, 0) for max_heads in (0, 2, 100)]

    def start_reader(self, max_heads: int, since_ms: int) -> Reader:
        view = LogView(window_ms=WINDOW_MS, max_heads=max_heads, chain_idle_ms=CHAIN_IDLE_MS, since_ms=since_ms)
        records = self.log.records
        first = next((index for index, record in enumerate(records) if record.time >= since_ms), len(records))
        # Generations are cut at multiples of the window: settled at the second cut after the start.
        settled_ms = (-(-since_ms // WINDOW_MS) + 1) * WINDOW_MS if since_ms else 0
        return Reader(view, ReaderModel(max_heads), first, settled_ms)

    @initialize()
    def start(self) -> None:
        for channel in CHANNELS[:3]:
            self.readers[2].view.learn_head(channel, NO_ID, 0, 0)
            self.readers[2].model.learn(channel, NO_ID, False)

    @rule(
        channel=st.sampled_from(CHANNELS),
        session=st.integers(0, 2),
        seq=st.integers(1, 40),
        elapsed=st.sampled_from([0, 1, 200, 900, CHAIN_IDLE_MS, CHAIN_IDLE_MS + 1]),
        gap=st.integers(1, 3),
        body=st.binary(max_size=4),
    )
    def append(self, channel: bytes, session: int, seq: int, elapsed: int, gap: int, body: bytes) -> None:
        self.time += elapsed
        self.next_offset += gap
        partition = CHANNELS.index(channel) % 2
        self.log.append(Record(partition, self.next_offset, self.time, channel, session, seq, b"ann", body))

    @precondition(lambda self: self.log.records)
    @rule(back=st.integers(1, 6), elapsed=st.integers(0, 400))
    def append_copy(self, back: int, elapsed: int) -> None:
        original = self.log.records[-min(back, len(self.log.records))]
        self.time += elapsed
        self.next_offset += 1
        self.log.append(Record(**{**vars(original), "offset": self.next_offset, "time": self.time}))

    @rule(data=st.data(), n_records=st.integers(1, 8))
    def read(self, data: st.DataObject, n_records: int) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        for record in self.log.records[reader.position : reader.position + n_records]:
            reader.read(record)

    @rule(data=st.data(), channel=st.sampled_from(CHANNELS), has_hash=st.booleans())
    def learn(self, data: st.DataObject, channel: bytes, has_hash: bool) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        # History may lag behind a reader that remembers the channel, but not behind one that does not.
        least = 0 if channel in reader.model.heads else reader.position
        head = self.log.head(channel, data.draw(st.integers(least, len(self.log.records))))
        id, hash, time = (head.offset, head.hash, head.time) if head else (NO_ID, 0, 0)
        reader.view.learn_head(channel, id, hash if has_hash else 0, time)
        reader.model.learn(channel, id, has_hash and head is not None)

    @rule(data=st.data(), channel=st.sampled_from(CHANNELS))
    def pin(self, data: st.DataObject, channel: bytes) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        reader.view.pin(channel)
        reader.model.pin(channel)

    @rule(data=st.data(), channel=st.sampled_from(CHANNELS))
    def unpin(self, data: st.DataObject, channel: bytes) -> None:
        reader = data.draw(st.sampled_from(self.readers))
        if reader.model.pins[channel] > 0:
            reader.view.unpin(channel)
            reader.model.unpin(channel)
        else:
            with pytest.raises(ValueError, match="not pinned"):
                reader.view.unpin(channel)

    @precondition(lambda self: len(self.readers) < 6)
    @rule(back=st.integers(0, 5 * WINDOW_MS))
    def start_late(self, back: int) -> None:
        self.readers.append(self.start_reader(2, self.time - back))

    @invariant()
    def heads_are_those_of_the_model(self) -> None:
        for reader in self.readers:
            assert reader.view.n_heads == len(reader.model.heads)
            for channel in CHANNELS:
                known, told = reader.model.heads.get(channel), reader.view.head(channel)
                assert (told is None) == (known is None)
                if known is not None and told is not None:
                    hashes = {record.offset: record.hash for record in self.log.records}
                    assert told == (known.id, hashes[known.id] if known.has_hash else 0)


TestViewMachine = ViewMachine.TestCase
TestViewMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_a_chain_from_its_beginning() -> None:
    view = LogView()
    view.learn_head(b"room:a", NO_ID, 0, 0)
    first, second = chain_hash(0, 5, b"ann", b"hi"), chain_hash(chain_hash(0, 5, b"ann", b"hi"), 9, b"bob", b"oh")
    assert view.place(0, 5, START_MS, b"room:a", message(1, 1)) == (NO_ID, first)
    assert view.place(0, 9, START_MS, b"room:a", message(2, 1, b"bob", b"oh")) == (5, second)
    assert view.head(b"room:a") == (9, second)


def test_a_later_copy_changes_nothing_but_the_count() -> None:
    view = LogView(max_heads=2)
    for offset, channel in enumerate([b"room:old", b"room:new"], start=1):
        view.place(0, offset, START_MS, channel, message(1, offset))
    assert view.place(0, 3, START_MS, b"room:old", message(1, 1)) is None
    assert (view.head(b"room:old"), view.duplicates, view.n_windows) == ((1, 0), 1, 1)
    # Nor has it made the channel younger.
    view.place(0, 4, START_MS, b"room:third", message(1, 3))
    assert (view.head(b"room:old"), view.head(b"room:new")) == (None, (2, 0))


@pytest.mark.parametrize(("silence", "prev"), [(CHAIN_IDLE_MS, 1), (CHAIN_IDLE_MS + 1, NO_ID)])
def test_a_long_silence_starts_a_new_chain(silence: int, prev: int) -> None:
    view = LogView(chain_idle_ms=CHAIN_IDLE_MS)
    view.learn_head(b"room:a", 1, 77, START_MS)
    chain = chain_hash(77 if prev else 0, 2, b"ann", b"hi")
    assert view.place(0, 2, START_MS + silence, b"room:a", message(1, 1)) == (prev, chain)


def test_a_hash_that_history_tells_ahead_completes_the_chain_when_the_log_comes_to_it() -> None:
    view = LogView()
    assert view.place(0, 1, START_MS, b"room:a", message(1, 1)) == (UNKNOWN_ID, 0)
    view.learn_head(b"room:a", 3, 77, START_MS)
    assert view.place(0, 2, START_MS, b"room:a", message(1, 2)) == (1, 0)
    assert view.place(0, 3, START_MS, b"room:a", message(1, 3)) == (2, 77)


def test_of_two_hashes_told_ahead_the_nearer_one_is_kept() -> None:
    for told in [(5, 3), (3, 5)]:
        view = LogView()
        view.place(0, 1, START_MS, b"room:a", message(1, 1))
        for id in told:
            view.learn_head(b"room:a", id, 70 + id, START_MS)
        assert view.place(0, 3, START_MS, b"room:a", message(1, 3)) == (1, 73)


def test_history_that_is_ahead_of_the_log_does_not_turn_the_order_around() -> None:
    view = LogView()
    view.learn_head(b"room:a", 3, 77, START_MS)
    assert view.place(0, 1, START_MS, b"room:a", message(1, 1)) == (UNKNOWN_ID, 0)
    assert view.place(0, 2, START_MS, b"room:a", message(1, 2)) == (1, 0)
    assert view.place(0, 3, START_MS, b"room:a", message(1, 3)) == (2, 77)


def test_pinned_heads_stay_and_the_others_are_bounded() -> None:
    view = LogView(max_heads=10)
    view.pin(b"room:0")
    for offset in range(1, 1001):
        view.place(offset % 12, offset, START_MS, b"room:%d" % (offset - 1), message(1, offset))
    assert (view.n_heads, view.head(b"room:0")) == (11, (1, 0))
    view.unpin(b"room:0")
    assert view.n_heads == 10


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_what_is_no_message_is_refused(value: bytes) -> None:
    view = LogView()
    is_message = len(value) >= 27 and value[:2] == b"\x01\x01" and len(value) >= 27 + value[26]
    if not is_message:
        with pytest.raises(ValueError, match="record"):
            view.place(0, 1, START_MS, b"room:a", value)
        assert (view.n_heads, view.n_windows) == (0, 0)


def test_control_records_and_impossible_ids_are_refused() -> None:
    view = LogView()
    with pytest.raises(ValueError, match="kind 2"):
        view.place(0, 1, START_MS, b"room:a", encode_record(RecordKind.RECORD_CONTROL, 0, 0, 7, b"", b""))
    for offset in (NO_ID, UNKNOWN_ID):
        with pytest.raises(ValueError, match="no id"):
            view.place(0, offset, START_MS, b"room:a", message(1, 1))
    with pytest.raises(ValueError, match="no id"):
        view.learn_head(b"room:a", UNKNOWN_ID, 0, 0)
    with pytest.raises(ValueError, match="0 ms"):
        LogView(window_ms=0)


@pytest.mark.resident_memory
def test_memory_stays_bounded_however_many_channels_pass() -> None:
    view = LogView(max_heads=1000, window_ms=1)
    value = message(0, 1)

    def pass_channels(first: int) -> None:
        for offset in range(first, first + 50_000):
            view.place(0, offset, START_MS + offset, b"room:%d" % offset, value)

    pass_channels(1)
    before = resident_bytes()
    pass_channels(100_000)
    # Heads that were kept would take 10 MB.
    assert resident_bytes() - before < 3_000_000


@pytest.mark.resident_memory
def test_memory_is_given_back() -> None:
    value = message(1, 1)

    def cycle() -> None:
        view = LogView(max_heads=500)
        for offset in range(1, 2000):
            view.pin(b"room:%d" % (offset % 700))
            view.place(0, offset, START_MS, b"room:%d" % offset, value)

    for _ in range(3):
        cycle()
    before = resident_bytes()
    for _ in range(60):
        cycle()
    # One cycle holds 250 kB.
    assert resident_bytes() - before < 5_000_000
