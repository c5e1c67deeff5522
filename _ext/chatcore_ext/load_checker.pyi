"""Checks the deliveries of a load (load_tables.pxd): once, in order, `prev` and hash right, for every receiver."""

from typing import Final

from typing_extensions import disjoint_base

MIN_BODY_SIZE: Final[int]
"""Bytes of a message's body that say which it is."""

@disjoint_base
class LoadChecker:
    """One process's share of a load. Channels and clients are added first; then messages are planned, answered and
    delivered. A *slot* is a channel's place among those of the client, as given to `add_client`.

    `run` tells the messages of this run from those of others in the same channels: any u64. Raises IndexError for a
    client, slot or message that does not exist, MemoryError.
    """

    def __init__(self, run: int) -> None: ...
    @property
    def n_clients(self) -> int: ...
    def add_channel(self) -> int:
        """Its index."""
    def add_client(self, name: bytes, channels: list[int]) -> int:
        """Its index. Raises ValueError for a name that no player has."""
    def plan(self, client: int, slot: int, due_ns: int) -> int:
        """A new message of the client; its index."""
    def body_of(self, message: int, size: int) -> bytes:
        """The body to send. Raises ValueError for a size under MIN_BODY_SIZE."""
    def acknowledge(self, message: int, id: int, now_ns: int) -> None:
        """The server has it in the log, as `id`; 0 = the server does not know."""
    def refuse(self, message: int) -> None:
        """The server says that it is not in the log."""
    def give_up(self, message: int) -> None:
        """Nobody will tell whether it is in the log: it is expected once one receiver has it."""
    def enter(self, client: int, slot: int, number: int, head: int, hash: int) -> bool:
        """The client is in the channel, on a new connection. True: sync after `last_id`."""
    def left(self, client: int) -> None:
        """The client's connection is gone."""
    def is_joined(self, client: int, slot: int) -> bool: ...
    def is_healing(self, client: int, slot: int) -> bool: ...
    def deliver(self, client: int, body: bytes, now_ns: int) -> int:
        """A DELIVER frame's body has come. The slot that needs a sync now, or -1. Raises ValueError if it is
        malformed."""
    def gap(self, client: int, number: int, first: int, last: int) -> int:
        """As `deliver`."""
    def last_id(self, client: int, slot: int) -> int: ...
    def take_history(
        self, client: int, slot: int, id: int, prev: int, hash: int, flags: int, sender: bytes, body: bytes, now_ns: int
    ) -> None:
        """One entry of the answer to a sync, in order."""
    def synced(self, client: int, slot: int, more: bool, patient: bool, now_ns: int) -> bool:
        """The answer to a sync is through. True: sync again; what was held back goes on being held. `patient` False:
        take what is still missing for good."""
    def progress(self) -> tuple[int, int, int, int]:
        """Messages planned, messages answered, deliveries expected, deliveries made. Cheap."""
    def counts(self) -> dict[str, int]:
        """All counts so far. `out_of_order` and `lost` are final only when nothing is under way any more."""
    def histograms(self) -> dict[str, dict[int, int]]:
        """`ack` and `deliver`: how many took so many ns, by the bucket's largest value."""
    def slowest_ns(self) -> dict[str, int]:
        """`ack` and `deliver`: the exact maximum."""
