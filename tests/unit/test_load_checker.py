"""The check of a load's deliveries: against a slow model with every mistake that a server can make; its corners."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore_ext.chain_hash import chain_hash
from chatcore_ext.constants import UNKNOWN_ID, DeliverFlag
from chatcore_ext.frame import encode_deliver
from chatcore_ext.load_checker import MIN_BODY_SIZE, LoadChecker
from support.oracles.load import Delivery, ReceiverModel

HEADER = 4
NUMBER = 7  # of the channel, on every connection
RUN = 0xABCDEF0123456789


class World:
    """A channel with some players, and a log of what they said."""

    def __init__(self, n_players: int = 3) -> None:
        self.checker = LoadChecker(RUN)
        self.channel = self.checker.add_channel()
        self.names = [f"player{i}".encode() for i in range(n_players)]
        for name in self.names:
            self.checker.add_client(name, [self.channel])
        for client in range(n_players):
            assert not self.checker.enter(client, 0, NUMBER, 0, 0)
        self.log: list[Delivery] = []
        self.now = 0

    def say(self, sender: int = 0, *, acknowledged: bool = True) -> Delivery:
        self.now += 1_000
        message = self.checker.plan(sender, 0, self.now)
        prev, hash = (self.log[-1].id, self.log[-1].hash) if self.log else (0, 0)
        id = prev + 2
        body = self.checker.body_of(message, MIN_BODY_SIZE + 4)
        said = Delivery(message, id, prev, chain_hash(hash, id, self.names[sender], body), self.names[sender], body)
        self.log.append(said)
        if acknowledged:
            self.checker.acknowledge(message, id, self.now + 10)
        return said

    def deliver(self, receiver: int, found: Delivery, flags: int = 0, number: int = NUMBER) -> int:
        frame = encode_deliver(number, flags, found.id, found.prev, found.hash, 5, found.sender, found.body)
        return self.checker.deliver(receiver, frame[HEADER:], self.now + 100)

    def history(self, receiver: int, found: Delivery) -> None:
        self.checker.take_history(
            receiver, 0, found.id, found.prev, found.hash, 0, found.sender, found.body, self.now + 200
        )

    def wrong(self) -> dict[str, int]:
        """The counts that are not 0 and should be."""
        counts = self.checker.counts()
        fine = {"planned", "sent", "acked", "refused", "expected", "delivered", "healed", "gaps", "unknown"}
        return {name: n for name, n in counts.items() if n and name not in fine}


def changed_body(found: Delivery) -> Delivery:
    return dataclasses.replace(found, body=found.body[:-1] + b"!")


MISTAKES = st.sampled_from(["right", "right", "right", "drop", "double", "swap", "body", "hash", "late"])


@settings(max_examples=150, deadline=None)
@given(
    senders=st.lists(st.integers(0, 2), min_size=1, max_size=25),
    mistakes=st.lists(st.lists(MISTAKES, min_size=25, max_size=25), min_size=3, max_size=3),
)
def test_counts_like_the_model(senders: list[int], mistakes: list[list[str]]) -> None:
    world = World()
    for sender in senders:
        world.say(sender)
    models = [ReceiverModel() for _ in world.names]
    for receiver, model in enumerate(models):
        for found in tampered(world.log, mistakes[receiver]):
            world.deliver(receiver, found)
            model.deliveries.append(found)
    messages = {found.message for found in world.log}
    counts = world.checker.counts()
    assert counts["expected"] == len(messages) * 3
    assert counts["delivered"] == sum(len(model.first_copies()) for model in models)
    assert counts["lost"] == sum(model.lost(messages) for model in models)
    for name in ("duplicated", "out_of_order", "prev_mismatches", "hash_mismatches"):
        assert counts[name] == sum(getattr(model, name) for model in models), name
    assert counts["misdelivered"] == counts["id_mismatches"] == counts["foreign"] == 0


def tampered(log: list[Delivery], mistakes: list[str]) -> list[Delivery]:
    """What comes out of a server that makes one of these mistakes with each message."""
    found: list[Delivery] = []
    swapped: list[Delivery] = []
    late: list[Delivery] = []
    for said, mistake in zip(log, mistakes, strict=False):
        if mistake == "swap" and not swapped:
            swapped.append(said)
            continue
        if mistake == "late":
            late.append(said)
            continue
        if mistake == "hash":
            found.append(dataclasses.replace(said, hash=said.hash ^ 1 or 2))
        elif mistake == "body":
            found.append(changed_body(said))
        elif mistake != "drop":
            found += [said] * (2 if mistake == "double" else 1)
        found += swapped
        swapped.clear()
    return found + swapped + late


@pytest.mark.parametrize(
    ("mistake", "count"),
    [
        ("drop", {"lost": 1, "prev_mismatches": 1, "unverified": 1}),
        ("double", {"duplicated": 1}),
        ("swap", {"out_of_order": 1, "prev_mismatches": 1, "unverified": 1}),
        ("body", {"hash_mismatches": 1}),
        ("hash", {"hash_mismatches": 1}),
    ],
)
def test_one_mistake_is_one_count(mistake: str, count: dict[str, int]) -> None:
    world = World(1)
    for _ in range(9):
        world.say()
    mistakes = ["right"] * 9
    mistakes[4] = mistake
    for found in tampered(world.log, mistakes):
        world.deliver(0, found)
    assert world.wrong() == count


def test_what_was_never_delivered_to_anybody() -> None:
    world = World()
    world.say()
    assert world.wrong() == {"lost": 3}
    unanswered = world.say(acknowledged=False)
    assert world.wrong() == {"lost": 3}  # it may not be in the log
    world.deliver(0, world.log[0])
    world.deliver(0, unanswered)
    assert world.wrong() == {"lost": 4}  # now it is known to be


def test_a_refused_message_is_not_lost_and_must_not_be_delivered() -> None:
    world = World(2)
    refused = world.say(acknowledged=False)
    world.checker.refuse(refused.message)
    assert world.wrong() == {}
    world.deliver(0, refused)
    assert world.wrong() == {"delivered_refused": 1, "lost": 1}


def test_the_same_message_under_two_ids_is_doubled() -> None:
    world = World(1)
    first = world.say()
    world.deliver(0, first)
    again = chain_hash(first.hash, 9, first.sender, first.body)
    world.deliver(0, dataclasses.replace(first, id=9, prev=first.id, hash=again))
    assert world.wrong() == {"duplicated": 1}


def test_an_id_that_is_not_the_acknowledged_one() -> None:
    world = World(1)
    said = world.say(acknowledged=False)
    world.checker.acknowledge(said.message, said.id + 5, 10_000)
    world.deliver(0, said)
    assert world.wrong() == {"id_mismatches": 1}


def test_a_sender_whose_messages_lie_in_the_wrong_order() -> None:
    world = World(2)
    first, second = world.checker.plan(0, 0, 0), world.checker.plan(0, 0, 1)
    before = Delivery(0, 0, 0, 0, b"", b"")
    for message, id in ((second, 1), (first, 2)):
        body = world.checker.body_of(message, MIN_BODY_SIZE)
        hash = chain_hash(before.hash, id, b"player0", body)
        before = Delivery(message, id, before.id, hash, b"player0", body)
        world.deliver(0, before)
        world.deliver(1, before)
    assert world.wrong() == {"out_of_order": 2}


def test_what_is_not_for_this_receiver() -> None:
    world = World(2)
    said = world.say()
    world.deliver(0, said, number=NUMBER + 1)
    assert world.wrong() == {"misdelivered": 1, "lost": 2}
    elsewhere = world.checker.add_channel()
    world.checker.add_client(b"stranger", [elsewhere])
    world.checker.enter(2, 0, NUMBER, 0, 0)
    world.deliver(2, said)
    assert world.wrong() == {"misdelivered": 2, "lost": 2}


def test_a_wrong_sender() -> None:
    world = World(2)
    said = world.say()
    hash = chain_hash(0, said.id, b"player1", said.body)
    world.deliver(0, dataclasses.replace(said, sender=b"player1", hash=hash))
    assert world.wrong() == {"misdelivered": 1, "lost": 2}


def test_messages_of_others_are_followed_but_not_counted() -> None:
    world = World(1)
    hash = chain_hash(0, 1, b"somebody", b"hello")
    world.deliver(0, Delivery(0, 1, 0, hash, b"somebody", b"hello"))
    message = world.checker.plan(0, 0, 0)
    body = world.checker.body_of(message, MIN_BODY_SIZE)
    world.deliver(0, Delivery(message, 2, 1, chain_hash(hash, 2, b"player0", body), b"player0", body))
    assert world.wrong() == {"foreign": 1}
    assert world.checker.counts()["delivered"] == 1


def test_a_hidden_entry_moves_the_place() -> None:
    world = World(1)
    said = world.say(acknowledged=False)
    world.deliver(0, dataclasses.replace(said, sender=b"", body=b""), flags=DeliverFlag.DELIVER_HIDDEN)
    world.deliver(0, world.say())
    assert world.wrong() == {"unverified": 1}


def test_a_reconnect_heals_by_sync() -> None:
    world = World(1)
    for _ in range(6):
        world.say()
    world.deliver(0, world.log[0])
    world.checker.left(0)
    assert not world.checker.is_joined(0, 0)
    assert world.checker.enter(0, 0, NUMBER, world.log[3].id, world.log[3].hash)
    world.deliver(0, world.log[4])  # held: the sync is under way
    assert world.checker.counts()["delivered"] == 1
    for found in world.log[1:5]:  # history is ahead of the live stream
        world.history(0, found)
    assert not world.checker.synced(0, 0, False, True, 0)
    world.deliver(0, world.log[5])
    assert world.wrong() == {}
    assert world.checker.counts()["healed"] == 4
    assert world.checker.counts()["delivered"] == 6


def test_a_sync_that_brings_too_little_is_repeated() -> None:
    world = World(1)
    for _ in range(5):
        world.say()
    world.deliver(0, world.log[0])
    assert world.checker.enter(0, 0, NUMBER, world.log[2].id, 0)
    world.deliver(0, world.log[4])
    world.history(0, world.log[1])
    assert world.checker.synced(0, 0, False, True, 0)  # history lags behind
    world.history(0, world.log[2])
    assert world.checker.synced(0, 0, False, True, 0)  # what is held does not follow
    world.history(0, world.log[3])
    assert not world.checker.synced(0, 0, False, True, 0)
    assert world.wrong() == {}
    assert world.checker.counts()["delivered"] == 5


def test_patience_ends() -> None:
    world = World(1)
    for _ in range(3):
        world.say()
    world.deliver(0, world.log[0])
    assert world.checker.enter(0, 0, NUMBER, world.log[1].id, 0)
    world.deliver(0, world.log[2])
    assert world.checker.synced(0, 0, False, True, 0)
    assert not world.checker.synced(0, 0, False, False, 0)
    assert world.wrong() == {"lost": 1, "prev_mismatches": 1, "unverified": 1}


def test_what_a_new_connection_brings_again_is_doubled() -> None:
    """The head says what has been before; DELIVER brings what comes after."""
    world = World(1)
    world.deliver(0, world.say())
    assert not world.checker.enter(0, 0, NUMBER, world.log[0].id, world.log[0].hash)
    world.deliver(0, world.log[0])
    assert world.wrong() == {"duplicated": 1}


def test_a_head_with_another_hash() -> None:
    world = World(1)
    world.deliver(0, world.say())
    assert not world.checker.enter(0, 0, NUMBER, world.log[0].id, world.log[0].hash ^ 1)
    assert world.wrong() == {"hash_mismatches": 1}


def test_a_log_that_has_lost_what_was_delivered() -> None:
    world = World(1)
    for _ in range(2):
        world.deliver(0, world.say())
    assert not world.checker.enter(0, 0, NUMBER, world.log[0].id, world.log[0].hash)
    assert world.wrong() == {"prev_mismatches": 1}


def test_a_gap_is_no_mistake_and_is_healed() -> None:
    world = World(1)
    for _ in range(4):
        world.say()
    world.deliver(0, world.log[0])
    assert world.checker.gap(0, NUMBER, world.log[0].id, world.log[2].id) == 0
    world.deliver(0, world.log[3])
    for found in world.log[1:3]:
        world.history(0, found)
    assert not world.checker.synced(0, 0, False, True, 0)
    assert world.wrong() == {}
    assert world.checker.counts()["delivered"] == 4
    assert world.checker.counts()["gaps"] == 1


def test_a_prev_that_the_server_does_not_know_asks_for_a_sync() -> None:
    world = World(1)
    for _ in range(3):
        world.say()
    world.deliver(0, world.log[0])
    assert world.deliver(0, dataclasses.replace(world.log[2], prev=UNKNOWN_ID)) == 0
    for found in world.log[1:]:
        world.history(0, found)
    assert not world.checker.synced(0, 0, False, True, 0)
    assert world.wrong() == {}


def test_an_unknown_head_takes_the_first_as_it_comes() -> None:
    world = World(1)
    world.checker.add_client(b"late", [world.channel])
    world.say()
    assert not world.checker.enter(1, 0, NUMBER, UNKNOWN_ID, 0)
    world.deliver(1, world.say())
    world.deliver(1, world.say())
    counts = world.checker.counts()
    assert counts["prev_mismatches"] == counts["hash_mismatches"] == 0
    assert counts["delivered"] == 2


def test_a_message_without_hash_is_told() -> None:
    world = World(1)
    world.deliver(0, dataclasses.replace(world.say(), hash=0))
    world.deliver(0, world.say())  # whose hash follows from the computed one
    assert world.wrong() == {"unverified": 1}


def test_latency_counts_from_when_it_was_due() -> None:
    world = World(1)
    world.deliver(0, world.say())
    assert world.checker.slowest_ns() == {"ack": 10, "deliver": 100}
    assert world.checker.histograms()["deliver"] == {100: 1}
    assert world.checker.progress() == (1, 1, 1, 1)


def test_more_messages_than_the_first_bitmap_holds() -> None:
    world = World(2)
    for place in range(1_000):
        world.deliver(place % 2, world.say())
        world.deliver(1 - place % 2, world.log[-1])
    assert world.wrong() == {}
    assert world.checker.counts()["delivered"] == 2_000


def test_what_does_not_exist() -> None:
    checker = LoadChecker(1)
    for call in (
        lambda: checker.add_client(b"x", [0]),
        lambda: checker.plan(0, 0, 0),
        lambda: checker.body_of(0, 100),
        lambda: checker.acknowledge(0, 1, 1),
        lambda: checker.deliver(0, bytes(40), 0),
        lambda: checker.left(0),
    ):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(ValueError):
        checker.add_client(b"", [])
    world = World(1)
    with pytest.raises(ValueError):
        world.checker.deliver(0, bytes(10), 0)
    with pytest.raises(ValueError):
        world.checker.body_of(world.checker.plan(0, 0, 0), MIN_BODY_SIZE - 1)
