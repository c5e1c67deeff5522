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

    `on_wire`: it was handed to this connection. `copies`: how often it was handed to any. `is_waiting`: it waits for
    the next connection, because this one's server is about to stop.
    """

    handle: int
    channel: str
    body: bytes
    flags: int
    first_sent_ms: int | None = None
    on_wire: bool = False
    copies: int = 0
    is_waiting: bool = False
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
        return not self._is_inside(self._next_seq)

    def may_go(self, send: PendingSend) -> bool:
        """False while it is beyond the window, as one that was postponed may be."""
        return self._is_inside(send.seq)

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

    @property
    def n_on_wire(self) -> int:
        """Sends that this connection will answer."""
        return sum(send.on_wire for send in self._by_seq.values())

    def connection_lost(self) -> None:
        for send in self._by_seq.values():
            send.on_wire = send.is_waiting = False

    def postpone(self, send: PendingSend) -> None:
        """It is certainly not in the log, and its seq is spent: it becomes a new send of the next connection."""
        del self._by_seq[send.seq]
        send.first_sent_ms = None
        send.copies = 0
        send.on_wire = False
        send.is_waiting = True
        self._number(send)

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

    def _is_inside(self, seq: int) -> bool:
        oldest = next(iter(self._by_seq), seq)  # the places are in the order of the seqs
        return seq - oldest < self.window

    def _number(self, send: PendingSend) -> None:
        send.seq = self._next_seq
        self._next_seq += 1
        self._by_seq[send.seq] = send
