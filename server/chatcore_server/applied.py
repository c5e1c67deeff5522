"""How far this worker has applied the log, and the way to change rights through it. Knows nothing of what a control
does.
"""

import asyncio
import heapq

from chatcore.errors import Overloaded, error_from_code
from chatcore_ext.constants import RETRY_AFTER_MS, RecordKind
from chatcore_ext.record import encode_record
from chatcore_server.backends import LogFull, MessageLog, Outcome
from chatcore_server.controls import AnyControl, encode_control

_ATTEMPTS = 20  # of an append while the log's queue is full: the relations have the change already
_RETRY_S = 0.1


class AppliedOffsets:
    """The last offset of each partition that was handed to the hub, and who waits for one."""

    def __init__(self) -> None:
        self._applied: dict[int, int] = {}
        self._waiting: dict[int, list[tuple[int, int, asyncio.Future[None]]]] = {}
        self._number = 0

    def advance(self, partition: int, offset: int) -> None:
        self._applied[partition] = offset
        waiting = self._waiting.get(partition)
        while waiting and waiting[0][0] <= offset:
            future = heapq.heappop(waiting)[2]
            if not future.done():
                future.set_result(None)

    async def reach(self, partition: int, offset: int) -> None:
        """Returns when the record at this offset has been applied here."""
        if self._applied.get(partition, 0) >= offset:
            return
        future = asyncio.get_running_loop().create_future()
        self._number += 1  # futures do not compare
        heapq.heappush(self._waiting.setdefault(partition, []), (offset, self._number, future))
        await future


class ControlLog:
    """Appends control records to the message log and waits until they are durable and applied here.

    The token of such an append is a future of its Outcome: whoever gets the log's outcomes completes it.
    """

    def __init__(self, log: MessageLog, applied: AppliedOffsets) -> None:
        self._log = log
        self._applied = applied

    async def tell(self, channel: bytes, control: AnyControl, time_ms: int) -> None:
        """Raises a ChatError with `retry` if the log did not take it: the whole change may then be asked for again."""
        value = encode_record(RecordKind.RECORD_CONTROL, 0, 0, time_ms, b"", encode_control(control))
        outcome = await self._append(channel, value)
        if outcome.code:
            raise error_from_code(outcome.code, "the change is made, but not yet told to all servers")
        await self._applied.reach(outcome.partition, outcome.offset)

    async def _append(self, channel: bytes, value: bytes) -> Outcome:
        for _ in range(_ATTEMPTS):
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            try:
                self._log.append(channel, value, future)
            except LogFull:
                await asyncio.sleep(_RETRY_S)
                continue
            return await future
        raise Overloaded("the message log is full", retry_after_ms=RETRY_AFTER_MS)
