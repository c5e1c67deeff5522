"""What one receiver of a channel got, judged slowly and obviously: all is kept, and every question asks all of it."""

from dataclasses import dataclass, field

from support.oracles.frames import chain


@dataclass(frozen=True)
class Delivery:
    """A DELIVER as it came. `message`: which of the run's it is."""

    message: int
    id: int
    prev: int
    hash: int
    sender: bytes
    body: bytes


@dataclass
class ReceiverModel:
    """A connection that joined before the channel's first message. Messages are numbered from 0."""

    deliveries: list[Delivery] = field(default_factory=list)

    def first_copies(self) -> list[int]:
        """Places of those that came for the first time."""
        messages = [delivery.message for delivery in self.deliveries]
        return [place for place, message in enumerate(messages) if message not in messages[:place]]

    def highest_before(self, place: int) -> int:
        return max((delivery.id for delivery in self.deliveries[:place]), default=0)

    def advances(self) -> list[int]:
        """Places of those with the highest id so far."""
        return [place for place, found in enumerate(self.deliveries) if found.id > self.highest_before(place)]

    @property
    def duplicated(self) -> int:
        return len(self.deliveries) - len(self.first_copies())

    @property
    def out_of_order(self) -> int:
        return len(set(self.first_copies()) - set(self.advances()))

    @property
    def prev_mismatches(self) -> int:
        return sum(not self.follows(place) for place in self.advances())

    def follows(self, place: int) -> bool:
        return self.deliveries[place].prev in (0, self.highest_before(place))

    @property
    def hash_mismatches(self) -> int:
        wrong = 0
        possible: list[int] = [0]  # what the hash before may be; none: nobody knows
        for place in self.advances():
            found = self.deliveries[place]
            if found.prev == 0:
                possible = [0]
            elif not self.follows(place):
                possible = []
            computed = [chain(before, found.id, found.sender, found.body) for before in possible]
            if not computed or found.hash in computed:
                possible = [found.hash]
            else:
                wrong += 1
                possible = [found.hash, computed[0]]
        return wrong

    def lost(self, messages: set[int]) -> int:
        return len(messages - {delivery.message for delivery in self.deliveries})
