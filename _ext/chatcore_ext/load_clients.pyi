"""The connections of a load in one epoll set (load_sockets.pxd): opened and logged in by Python, driven by compiled
code."""

from typing import Final, Literal

from chatcore_ext.load_sockets import LoadSockets

EVENT_FRAME: Final[Literal[1]]
EVENT_LOST: Final[Literal[2]]
EVENT_HEAL: Final[Literal[3]]

Event = tuple[int, int, int, bytes]
"""(kind, client, number, body). EVENT_FRAME: number is the FrameType, one that Python deals with. EVENT_LOST: the
connection is gone, number is the errno, 0 = the server closed it. EVENT_HEAL: the slot `number` needs a sync after
`last_id`."""

class LoadClients(LoadSockets):
    """`body_size`: of every message, in bytes; at least MIN_BODY_SIZE. Raises ValueError, OSError, MemoryError."""

    def __init__(self, run: int, body_size: int) -> None: ...
    def close_all(self) -> None:
        """Close every connection and the epoll set; nothing may be called after it."""
    def set_limits(self, window: int, heartbeat_ms: int, grace_ms: int) -> None:
        """As WELCOME tells them: sends that may be unanswered, and the heartbeat."""
    @property
    def n_ready(self) -> int:
        """Clients that may send."""
    @property
    def n_scheduled(self) -> int:
        """Messages of the schedule that have not come due."""
    def now_ns(self) -> int:
        """The clock of all times here: CLOCK_MONOTONIC."""
    def open(self, client: int, descriptor: int, data: bytes) -> None:
        """A connection is being opened. Takes over the descriptor, which is non-blocking; `data` is sent first. Raises
        OSError, and then the descriptor is the caller's again; ValueError if the client has a connection."""
    def is_open(self, client: int) -> bool: ...
    def write(self, client: int, data: bytes) -> None:
        """Without a connection it is dropped."""
    def ready(self, client: int, resumed: bool) -> None:
        """It is in all its channels and may send. `resumed`: what is unanswered is sent again; otherwise it has a new
        session, and the outcome of what was unanswered stays unknown."""
    def quiet(self, client: int) -> None:
        """Send nothing new on this connection."""
    def drop_connection(self, client: int) -> None:
        """Close it; no EVENT_LOST."""
    def start(self, start_ns: int, rate: float, n_messages: int, private_share: float, seed: int) -> None:
        """Message n comes due at start_ns + n / rate, from a random client (by the seed). `private_share` (0 to 1) of
        those whose client has a second slot go there, the others to the first."""
    def stop(self) -> None:
        """Nothing more comes due. What was due and is not sent yet still is."""
    def turn(self, timeout_ms: int) -> list[Event]:
        """Send and receive until there is something for Python, for at most `timeout_ms`. Raises MemoryError."""
    def refused_codes(self) -> dict[int, int]:
        """How often each code was the answer to a SEND."""
