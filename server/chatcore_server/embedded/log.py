"""The message log on the embedded store: appends go to the writer, tails replay from the file and then go on live.

Loop thread only. Holds no records beyond those of a tail's page that is being read.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from chatcore_ext.chain_hash import name_hash
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import LogFull, LogRecord, Outcome
from chatcore_server.embedded.log_rows import last_offset_before, read_page
from chatcore_server.embedded.reader import Reader
from chatcore_server.embedded.settings import EmbeddedSettings
from chatcore_server.embedded.writer import Report, Writer

OnRecords = Callable[[int, Sequence[LogRecord]], None]
CODE = ErrorCode.ERROR_LOG_UNAVAILABLE


class _Tail:
    """One tail: where it stands, and while a page is read, what came live meanwhile."""

    def __init__(self, on_records: OnRecords, partitions: int) -> None:
        self._on_records = on_records
        self._last = [0] * partitions  # the offset handed over last
        self._held: list[list[LogRecord]] | None = None
        self.live = False

    def start_at(self, partition: int, after: int) -> None:
        self._last[partition] = after

    def last(self, partition: int) -> int:
        return self._last[partition]

    def hold(self, partitions: int) -> None:
        """From now on keep what comes live: the page that is about to be read may be the one that reaches the end."""
        self._held = [[] for _ in range(partitions)]

    def offer(self, partition: int, records: list[LogRecord]) -> None:
        """What has just become durable."""
        if self.live:
            self.hand_over(partition, records)
        elif self._held is not None:
            self._held[partition] += records

    def go_live(self) -> None:
        """The replay has read to the log's end, so what was held follows on it without a gap."""
        held, self._held, self.live = self._held or [], None, True
        for partition, records in enumerate(held):
            self.hand_over(partition, records)

    def hand_over(self, partition: int, records: list[LogRecord]) -> None:
        last = self._last[partition]
        if records and records[0].offset <= last:  # a replay saw these before they were reported
            records = [record for record in records if record.offset > last]
        if not records:
            return
        self._last[partition] = records[-1].offset
        try:
            self._on_records(partition, records)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "a tail's callback failed; the records count as handed over", "exception": error}
            )


class EmbeddedLog:
    """MessageLog; see backends.py."""

    def __init__(self, settings: EmbeddedSettings, writer: Writer, reader: Reader) -> None:
        self._settings = settings
        self._writer = writer
        self._reader = reader
        self._callbacks: list[Callable[[list[Outcome]], None]] = []
        self._tails: list[_Tail] = []
        self._closed = False
        self.epoch = ""  # the store sets it when it opens

    @property
    def partitions(self) -> int:
        return self._settings.partitions

    def partition_of(self, channel: bytes) -> int:
        return name_hash(channel) % self._settings.partitions

    async def open(self) -> None:
        """Nothing: the store opens its parts together."""

    async def close(self) -> None:
        self._closed = True
        await self._writer.drain()

    def append(self, channel: bytes, value: bytes, token: object) -> None:
        if self._closed:
            raise LogFull("the log is closed")
        self._writer.append(channel, value, token)

    def on_outcomes(self, callback: Callable[[list[Outcome]], None]) -> None:
        self._callbacks.append(callback)

    async def tail(self, since_ms: int, on_records: OnRecords) -> None:
        tail = _Tail(on_records, self.partitions)
        for partition in range(self.partitions):
            look_up = partial(last_offset_before, partition=partition, since_ms=since_ms)
            tail.start_at(partition, await self._reader.look_up(look_up, CODE))
        self._tails.append(tail)
        try:
            while not await self._replay_round(tail):
                pass
        except BaseException:
            self._tails.remove(tail)
            raise

    async def _replay_round(self, tail: _Tail) -> bool:
        """One page of each partition; True if that was all and the tail is live now."""
        limit = self._settings.page_records
        tail.hold(self.partitions)
        at_end = True
        for partition in range(self.partitions):
            read = partial(read_page, partition=partition, after=tail.last(partition), limit=limit)
            page = await self._reader.look_up(read, CODE)
            tail.hand_over(partition, page)
            at_end = at_end and len(page) < limit
        if at_end:
            tail.go_live()
        return at_end

    def deliver(self, report: Report) -> None:
        """A batch has become durable, or failed. Called by the writer."""
        if report.outcomes:
            for callback in self._callbacks:
                try:
                    callback(report.outcomes)
                except Exception as error:
                    asyncio.get_running_loop().call_exception_handler(
                        {"message": "an outcome callback failed", "exception": error}
                    )
        for partition, records in report.records.items():
            for tail in tuple(self._tails):
                tail.offer(partition, records)

    def forget_tails(self) -> None:
        self._tails.clear()
