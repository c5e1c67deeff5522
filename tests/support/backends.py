"""What the contract suites run against: a deployment of the four backends, to be connected to and left repeatedly.

To put another implementation under the contracts, subclass `Deployment` and add it to `DEPLOYMENTS`.
"""

import asyncio
import itertools
import secrets
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

from chatcore_ext.record import encode_record
from chatcore_server.backends import (
    History,
    HistoryEntry,
    LogFull,
    LogRecord,
    MessageLog,
    Outcome,
    Relations,
    SessionStore,
)
from chatcore_server.embedded import EmbeddedSettings, EmbeddedStore
from support.eventually import eventually

MESSAGE = 1
CONTROL = 2
PLENTY = 1 << 30  # bytes of entries: more than any test has


class Backends(Protocol):
    """The four, as one server has them. Closed means: no connection to the data is left."""

    @property
    def log(self) -> MessageLog: ...
    @property
    def history(self) -> History: ...
    @property
    def sessions(self) -> SessionStore: ...
    @property
    def relations(self) -> Relations: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...


class Deployment(ABC):
    """Data that outlives the connections to it. `clock_skew_ms`: how far its times may be from this machine's.

    Configure small bounds (pages, batches, a queue of a few thousand records), so that the suites meet them.
    """

    clock_skew_ms = 0

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def connect(self) -> Backends:
        """New backends on the same data; the caller opens and closes them, one at a time."""


class EmbeddedDeployment(Deployment):
    def connect(self) -> Backends:
        return EmbeddedStore(
            self.folder, EmbeddedSettings(page_records=7, max_batch_records=100, max_queued_records=2_000)
        )


DEPLOYMENTS: dict[str, type[Deployment]] = {"embedded": EmbeddedDeployment}


async def entries_after(history: History, channel: bytes, after: int, limit: int) -> list[HistoryEntry]:
    """Whatever their size."""
    return (await history.after(channel, after, limit, PLENTY)).entries


def unique(prefix: str) -> bytes:
    """A name that no other test has, for deployments whose data outlives the test run."""
    return f"{prefix}{secrets.token_hex(6)}".encode()


class Sender:
    """Writes as one session does: its own seqs, remembered outcomes."""

    def __init__(self, backends: Backends, player: bytes = b"ann") -> None:
        self.player = player
        self.session = secrets.randbits(64)
        self.outcomes: dict[object, Outcome] = {}
        self.batches: list[list[Outcome]] = []
        self._backends = backends
        self._identity = object()
        self._seqs = itertools.count(1)
        self._tokens = itertools.count(1)
        backends.log.on_outcomes(self._on_outcomes)

    def _on_outcomes(self, outcomes: list[Outcome]) -> None:
        self.batches.append(outcomes)
        for outcome in outcomes:
            assert outcome.token not in self.outcomes, "a second outcome for one append"
            self.outcomes[outcome.token] = outcome

    def record(self, body: bytes, seq: int | None = None, kind: int = MESSAGE) -> bytes:
        return encode_record(kind, self.session, next(self._seqs) if seq is None else seq, 0, self.player, body)

    def append(self, channel: bytes, value: bytes) -> object:
        """The token of the append."""
        token = (self._identity, next(self._tokens))
        self._backends.log.append(channel, value, token)
        return token

    async def append_when_there_is_room(self, channel: bytes, value: bytes) -> object:
        async with asyncio.timeout(20):
            while True:
                try:
                    return self.append(channel, value)
                except LogFull:
                    await asyncio.sleep(0.001)

    async def outcome(self, token: object) -> Outcome:
        await eventually(lambda: token in self.outcomes, f"the outcome of {token}")
        return self.outcomes[token]

    async def send(self, channel: bytes, *bodies: bytes) -> list[Outcome]:
        """New messages, durable when it returns."""
        tokens = [self.append(channel, self.record(body)) for body in bodies]
        outcomes = [await self.outcome(token) for token in tokens]
        assert all(outcome.code == 0 for outcome in outcomes)
        return outcomes


class Collector:
    """A tail's receiver: what came, by partition, of the channels that the test uses."""

    def __init__(self, channels: set[bytes] | None = None) -> None:
        self.records: dict[int, list[LogRecord]] = {}
        self._channels = channels
        self._last: dict[int, int] = {}

    def __call__(self, partition: int, records: "list[LogRecord] | tuple[LogRecord, ...] | object") -> None:
        assert isinstance(records, (list, tuple))
        assert records, "an empty batch"
        for record in records:
            assert record.offset > self._last.get(partition, 0), "offsets of a partition must grow"
            self._last[partition] = record.offset
            if self._channels is None or record.channel in self._channels:
                self.records.setdefault(partition, []).append(record)

    def of(self, channel: bytes) -> list[LogRecord]:
        return [record for records in self.records.values() for record in records if record.channel == channel]

    def values(self, channel: bytes) -> list[bytes]:
        return [record.value for record in self.of(channel)]
