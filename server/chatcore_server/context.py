"""What the parts of a worker share: the hub, the backends, the outbox, what was seen lately. Does nothing by itself."""

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from chatcore_ext.hub import Hub
from chatcore_server.applied import AppliedOffsets
from chatcore_server.backends import History, MessageLog, Relations, SessionStore
from chatcore_server.controls import RecentControls
from chatcore_server.outbox import Outbox
from chatcore_server.settings import ServerSettings
from chatcore_server.tasks import Tasks
from chatcore_server.tickets import ChannelSet, TicketSigner
from chatcore_server.tracing import Tracer


class Backends(Protocol):
    """The four backends, opened."""

    @property
    def log(self) -> MessageLog: ...
    @property
    def history(self) -> History: ...
    @property
    def sessions(self) -> SessionStore: ...
    @property
    def relations(self) -> Relations: ...


class Caller(NamedTuple):
    """Who asks, on which connection."""

    connection: int
    request_id: int
    session: int
    player: bytes


@dataclass(slots=True)
class Context:
    """One worker's. Loop thread only. Names of players and channels are ASCII bytes throughout the server."""

    settings: ServerSettings
    hub: Hub
    outbox: Outbox
    backends: Backends
    signer: TicketSigner
    recent: RecentControls
    applied: AppliedOffsets
    tracer: Tracer
    tasks: Tasks = field(default_factory=Tasks)
    # Only of connections whose token names channels: the others may join all. By connection.
    grants: dict[int, ChannelSet] = field(default_factory=dict)
    # What the hub does not count; `Worker.counters` has all.
    counters: Counter[str] = field(default_factory=Counter)
    is_draining: bool = False  # what comes now is refused; what is under way is finished

    def is_granted(self, connection: int, channel: bytes) -> bool:
        return not self.grants or self.signer.allows(self.grants.get(connection), channel)
