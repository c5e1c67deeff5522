"""A connection of the hub on somebody else's transport: a BufferedProtocol by shape, of no event loop."""

from collections.abc import Callable
from typing import final

from chatcore_ext.hub import Hub

@final
class TransportLink:
    """Reads a transport into the hub's own receive buffer and tells the hub when it may write.

    Fits asyncio's and uvloop's `create_server(lambda: TransportLink(hub, wake), ssl=...)`. `wake()` is called after
    each read and when writing becomes possible again: the shell then schedules one `take_events` and `flush` for this
    turn.

    What the transport holds unsent is bounded: above TRANSPORT_HIGH_WATER the hub keeps the rest itself, under its own
    bound."""
    def __init__(self, hub: Hub, wake: Callable[[], object], peer_address: str = "") -> None: ...
    @property
    def peer_address(self) -> str:
        """The client's, as a load balancer or the socket says; "" = not known."""
    @property
    def connection(self) -> int:
        """The hub's handle; 0 before `open` and connection_made, and of one that was refused without a word."""
    def open(self, give_up: Callable[[], object] | None = None) -> bool:
        """Count as a connection before there is a transport (while TLS shakes hands), so that limits and the time for
        HELLO hold from there on. False: the server is full, do without the transport. Then exactly one of
        `connection_made` and, if no transport comes of it, `connection_lost` must follow.

        `give_up()` is called if the hub ends it in between: nobody waits for the transport any more."""
    def connection_made(self, transport: object) -> None: ...
    def get_buffer(self, sizehint: int) -> memoryview: ...
    def buffer_updated(self, nbytes: int) -> None: ...
    def data_received(self, data: bytes | bytearray | memoryview) -> None:
        """The other way to read, for event loops that know a BufferedProtocol by its class."""
    def eof_received(self) -> bool: ...
    def connection_lost(self, exc: BaseException | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...

    # What the hub does with it
    def write(self, data: bytes) -> None: ...
    def close(self) -> None:
        """End our side when what is written is out. The transport lives on until the peer ends its own."""
    def abort(self) -> None: ...
