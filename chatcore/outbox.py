"""The sends of a session that have no answer yet: numbering, the window, what must be sent again.

Knows neither sockets nor clocks. docs/protocol.md, "Sending", has the rules.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from chatcore_ext.constants import MAX_UNACKED_SENDS


@dataclass(slots=True)
class PendingSend:
    """One send without an answer. `first_sent_ms` is None until it was first handed to a connection.

    `on_wire`: it was handed to this connection. `copies`: how often it was handed to any.
    """

    handle: int
    channel: str
    body: bytes
    flags: int
    first_sent_ms: int | None = None
    on_wire: bool = False
    copies: int = 0
    seq: int = 0


class Outbox:
    """Unanswered sends in their order. A handle names a send for its whole life; a new session gives new seqs."""

    def __init__(self) -> None:
        self.window = MAX_UNACKED_SENDS
        self._by_seq: OrderedDict[int, PendingSend] = OrderedDict()
        self._next_seq = 1
        self._next_handle = 1

    def __len__(self) -> int:
        return len(self._by_seq)

    def __iter__(self) -> Iterator[PendingSend]:
        return iter(list(self._by_seq.values()))

    @property
    def is_full(self) -> bool:
        """True: the next seq would be `window` or more beyond the oldest that has no answer."""
        oldest = next(iter(self._by_seq), self._next_seq)
        return self._next_seq - oldest >= self.window

    def add(self, channel: str, body: bytes, flags: int) -> PendingSend:
        """The caller has checked `is_full`."""
        send = PendingSend(self._next_handle, channel, body, flags)
        self._next_handle += 1
        self._number(send)
        return send

    def get(self, seq: int) -> PendingSend | None:
        return self._by_seq.get(seq)

    def answered(self, seq: int) -> PendingSend | None:
        """Take the send out; None if it has been answered before."""
        return self._by_seq.pop(seq, None)

    def connection_lost(self) -> None:
        for send in self._by_seq.values():
            send.on_wire = False

    def restart(self) -> list[PendingSend]:
        """A new session: seqs start at 1. Returns the sends that were on a connection: what became of them is unknown.

        Those that were not are numbered anew, in their order.
        """
        sends = list(self._by_seq.values())
        self._by_seq.clear()
        self._next_seq = 1
        for send in sends:
            if send.first_sent_ms is None:
                self._number(send)
        return [send for send in sends if send.first_sent_ms is not None]

    def _number(self, send: PendingSend) -> None:
        send.seq = self._next_seq
        self._next_seq += 1
        self._by_seq[send.seq] = send
