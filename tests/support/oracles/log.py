"""Slow, obvious models of what is in a log: the truth about every record, and what a reader of it may know."""

from collections import Counter
from dataclasses import dataclass

from support.oracles.replay import ReplayModel

UNKNOWN = 2**64 - 1


def chain(previous: int, id: int, sender: bytes, body: bytes) -> int:
    """docs/protocol.md, "Hash"."""
    state = previous or 0xCBF29CE484222325
    fields = id.to_bytes(8, "big") + bytes([len(sender)]) + sender + len(body).to_bytes(4, "big") + body
    for byte in fields:
        state = (state ^ byte) * 0x100000001B3 % 2**64
    return state or 1


@dataclass(frozen=True)
class Record:
    """A record of the log, and what becomes of it: `first` False = a later copy, without prev and hash."""

    partition: int
    offset: int
    time: int
    channel: bytes
    session: int
    seq: int
    sender: bytes
    body: bytes
    first: bool = True
    prev: int = 0
    hash: int = 0


class LogModel:
    """Knows the whole log since its beginning."""

    def __init__(self, window_ms: int, chain_idle_ms: int) -> None:
        self.replay = ReplayModel(window_ms)
        self.chain_idle_ms = chain_idle_ms
        self.records: list[Record] = []

    def append(self, record: Record) -> None:
        first = self.replay.admit(record.session, record.partition, record.seq, record.time)
        prev = hash = 0
        if first:
            last = self.head(record.channel, len(self.records))
            is_new_chain = last is None or record.time - last.time > self.chain_idle_ms
            prev, previous_hash = (0, 0) if last is None or is_new_chain else (last.offset, last.hash)
            hash = chain(previous_hash, record.offset, record.sender, record.body)
        self.records.append(Record(**{**vars(record), "first": first, "prev": prev, "hash": hash}))

    def head(self, channel: bytes, position: int) -> Record | None:
        """The channel's last message among the first `position` records of the log."""
        messages = [record for record in self.records[:position] if record.channel == channel and record.first]
        return messages[-1] if messages else None


@dataclass
class Known:
    """What a reader knows of a channel's head. Values come from the log; this is only whether it has them."""

    id: int
    has_hash: bool
    is_told: bool  # by the log, not by history
    completed_at: int | None = None  # history has told the hash of this later message


class ReaderModel:
    """What a reader knows, by channel; the order of `heads` is the age of the unpinned ones."""

    def __init__(self, max_heads: int) -> None:
        self.max_heads = max_heads
        self.heads: dict[bytes, Known] = {}
        self.pins = Counter[bytes]()

    def place(self, record: Record, is_settled: bool = True) -> tuple[int, int] | None:
        if not record.first:
            return None
        head = self.heads.get(record.channel)
        if not is_settled:
            if head is not None and head.id < record.offset:
                del self.heads[record.channel]
            return UNKNOWN, 0
        completed_at = head.completed_at if head else None
        if head is not None and head.id >= record.offset:
            completed_at = head.id if head.has_hash else None
            head = None
        knows_hash = (head is not None and (head.has_hash or record.prev == 0)) or completed_at == record.offset
        if completed_at is not None and completed_at <= record.offset:
            completed_at = None
        self.heads.pop(record.channel, None)
        self.heads[record.channel] = Known(record.offset, knows_hash, True, completed_at)
        self.evict()
        return (record.prev if head else UNKNOWN), (record.hash if knows_hash else 0)

    def learn(self, channel: bytes, id: int, has_hash: bool) -> None:
        head = self.heads.get(channel)
        if head is None:
            self.heads[channel] = Known(id, has_hash, False)
            self.evict()
        elif id > head.id and not head.is_told:
            head.id, head.has_hash = id, has_hash
        elif id == head.id:
            head.has_hash |= has_hash
        elif id > head.id and not head.has_hash and has_hash and id < (head.completed_at or UNKNOWN):
            head.completed_at = id

    def pin(self, channel: bytes) -> None:
        self.pins[channel] += 1

    def unpin(self, channel: bytes) -> None:
        self.pins[channel] -= 1
        if self.pins[channel] == 0 and channel in self.heads:
            self.heads[channel] = self.heads.pop(channel)
            self.evict()

    def evict(self) -> None:
        unpinned = [channel for channel in self.heads if self.pins[channel] == 0]
        for channel in unpinned[: max(0, len(unpinned) - self.max_heads)]:
            del self.heads[channel]
