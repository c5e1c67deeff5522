"""A connection of the hub on somebody else's transport: a BufferedProtocol by shape, of no event loop."""

from collections.abc import Callable
from typing import final

from chatcore_ext.hub import Hub

@final
class TransportLink:
    """Reads a transport into the hub's own receive buffer and tells the hub when it may write.

    Fits asyncio's and uvloop's `create_server(lambda: TransportLink(hub, wake), ssl=...)`. `wake()` is called after
    each read and when writing becomes possible again: the shell then schedules one `take_events` and `flush` for this
    turn."""
    def __init__(self, hub: Hub, wake: Callable[[], object]) -> None: ...
    @property
    def connection(self) -> int:
        """The hub's handle; 0 before connection_made."""
    def connection_made(self, transport: object) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def data_received(self, data: bytes | bytearray | memoryview) -> None:
        """The other way to read, for event loops that know a BufferedProtocol by its class."""
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...
