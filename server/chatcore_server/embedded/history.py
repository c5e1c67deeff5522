"""History on the embedded store: the log's own rows, so it never lags behind what is reported durable. Never writes."""

from collections.abc import Sequence
from functools import partial

from chatcore_ext.chain_hash import name_hash
from chatcore_ext.error_codes import ErrorCode
from chatcore_server.backends import Head, HistoryPage
from chatcore_server.embedded.log_rows import read_after, read_before, read_heads
from chatcore_server.embedded.reader import Reader
from chatcore_server.embedded.settings import EmbeddedSettings
from chatcore_server.embedded.writer import Writer

CODE = ErrorCode.ERROR_HISTORY_UNAVAILABLE


class EmbeddedHistory:
    """History; see backends.py."""

    def __init__(self, settings: EmbeddedSettings, writer: Writer, reader: Reader) -> None:
        self._partitions = settings.partitions
        self._writer = writer
        self._reader = reader

    async def heads(self, channels: Sequence[bytes]) -> list[Head]:
        return await self._reader.look_up(partial(read_heads, channels=channels), CODE)

    async def after(self, channel: bytes, after: int, limit: int, size: int) -> HistoryPage:
        partition = name_hash(channel) % self._partitions
        look_up = partial(read_after, partition=partition, channel=channel, after=after, limit=limit, size=size)
        return await self._reader.look_up(look_up, CODE, is_large=True)

    async def before(self, channel: bytes, before: int, limit: int, size: int) -> HistoryPage:
        partition = name_hash(channel) % self._partitions
        look_up = partial(read_before, partition=partition, channel=channel, before=before, limit=limit, size=size)
        return await self._reader.look_up(look_up, CODE, is_large=True)

    async def find(self, channel: bytes, session: int, seq: int) -> int:
        return self._writer.find_recent(channel, session, seq)
