"""The hub's traces: which players and channels are followed, and what was seen of them."""

from collections.abc import Iterable

from chatcore_ext.turns import Turns

# (kind, frame type, connection, player, channel, six numbers, size of the body, body). tap.pxd says which numbers a
# kind has. The body lacks what players say, unless that was asked for; the size is of the whole.
TraceEvent = tuple[int, int, int, bytes, bytes, tuple[int, int, int, int, int, int], int, bytes]

class Tracing(Turns):
    """The second part of `Hub`; not used by itself."""
    def trace(self, players: Iterable[bytes], channels: Iterable[bytes], with_bodies: bool = False) -> None:
        """From now on note all frames of these players, all that happens in these channels, and nothing else; none at
        all ends it. They need not be here. Raises ValueError: more than 8 of either."""
    def take_trace(self) -> tuple[int, list[TraceEvent]]:
        """What was noted since the last call, in its order, and how many events had no room. Call it once per turn."""
    def reception(self, connection: int, channel: bytes) -> tuple[bool, int, int, bool] | None:
        """How a ready connection stands in a channel: (joined, the first id that was left out and not told of yet or 0,
        bytes that wait to be sent to it, True if it takes none now or is behind). None: it is gone."""
