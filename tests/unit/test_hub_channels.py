"""Joining and leaving channels: numbers, generations against late answers, permissions, and the pinned heads."""

from collections.abc import Iterator

import pytest

from chatcore_ext.hub import EVENT_DISCONNECTED
from support.hub_world import World

ROOM = b"room:hall"
GROUP = b"group:guild"


@pytest.fixture
def world() -> Iterator[World]:
    with World(max_channels_per_connection=3) as made:
        yield made


def test_join_in_two_steps(world: World) -> None:
    peer = world.login(b"ann", 1)
    generation = world.hub.begin_join(peer.handle, ROOM)
    assert not world.hub.is_joined(peer.handle, ROOM)
    assert world.hub.channels_of(peer.handle) == []
    assert world.hub.subscribers(ROOM) == 0
    assert world.hub.players_in(ROOM, 10) == []
    number = world.hub.complete_join(peer.handle, ROOM, generation, True)
    assert number > 0
    assert world.hub.is_joined(peer.handle, ROOM)
    assert world.hub.channels_of(peer.handle) == [ROOM]
    assert world.hub.subscribers(ROOM) == 1
    assert world.hub.players_in(ROOM, 10) == [b"ann"]


def test_members_of_a_channel_have_one_number_for_it(world: World) -> None:
    peers = [world.login(b"p%d" % i, i + 1) for i in range(3)]
    assert len({world.join(peer, ROOM) for peer in peers}) == 1
    assert world.join(peers[0], GROUP) != world.join(peers[0], ROOM)


def test_what_makes_a_join_void(world: World) -> None:
    peer, other = world.login(b"ann", 1), world.login(b"bob", 2)
    hub = world.hub
    world.join(other, ROOM)

    generation = hub.begin_join(peer.handle, ROOM)
    assert not hub.leave(peer.handle, ROOM), "it was not joined yet"
    assert hub.complete_join(peer.handle, ROOM, generation, True) == 0

    generation = hub.begin_join(peer.handle, ROOM)
    assert hub.remove_player(b"ann", ROOM) == []
    assert hub.complete_join(peer.handle, ROOM, generation, True) == 0

    older = hub.begin_join(peer.handle, ROOM)
    newer = hub.begin_join(peer.handle, ROOM)
    assert hub.complete_join(peer.handle, ROOM, older, True) == 0
    assert not hub.cancel_join(peer.handle, ROOM, older)
    assert hub.complete_join(peer.handle, ROOM, newer, True) > 0

    generation = hub.begin_join(peer.handle, GROUP)
    peer.close()
    world.pump()
    assert hub.complete_join(peer.handle, GROUP, generation, True) == 0
    assert hub.complete_join(other.handle, GROUP, generation, True) == 0
    assert hub.subscribers(ROOM) == 1


def test_a_void_join_does_not_undo_a_later_one(world: World) -> None:
    peer = world.login(b"ann", 1)
    late = world.hub.begin_join(peer.handle, ROOM)
    world.hub.leave(peer.handle, ROOM)
    world.join(peer, ROOM)
    assert world.hub.complete_join(peer.handle, ROOM, late, False) == 0
    assert world.hub.is_joined(peer.handle, ROOM)


def test_joining_again_keeps_the_place_and_the_number(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM)
    generation = world.hub.begin_join(peer.handle, ROOM)
    assert world.hub.is_joined(peer.handle, ROOM), "it goes on receiving"
    world.say(ROOM, b"bob", b"x")
    assert world.hub.complete_join(peer.handle, ROOM, generation, True) == number
    assert world.hub.subscribers(ROOM) == 1
    generation = world.hub.begin_join(peer.handle, ROOM)
    assert not world.hub.cancel_join(peer.handle, ROOM, generation), "an earlier join stands"
    assert len(world.delivered(peer)) == 1


def test_cancelled_join_leaves_nothing(world: World) -> None:
    peer = world.login(b"ann", 1)
    generation = world.hub.begin_join(peer.handle, ROOM)
    assert world.hub.cancel_join(peer.handle, ROOM, generation)
    assert not world.hub.cancel_join(peer.handle, ROOM, generation)
    assert world.hub.counters()["channels"] == 0


def test_too_many_channels(world: World) -> None:
    peer = world.login(b"ann", 1)
    for i in range(3):
        world.join(peer, b"room:%d" % i)
    assert world.hub.begin_join(peer.handle, b"room:3") == 0
    assert world.hub.session(peer.handle) is not None, "which tells this from a connection that is gone"
    assert world.hub.begin_join(peer.handle, b"room:1") > 0, "it is in that one"
    world.hub.leave(peer.handle, b"room:0")
    world.join(peer, b"room:3")


def test_bad_names(world: World) -> None:
    peer = world.login(b"ann", 1)
    for name in (b"", bytes(133)):
        with pytest.raises(ValueError, match="name"):
            world.hub.begin_join(peer.handle, name)
    world.join(peer, bytes(132))


def test_removing_a_player_takes_all_its_connections(world: World) -> None:
    phone, desk, bob = world.login(b"ann", 1), world.login(b"ann", 2), world.login(b"bob", 3)
    for peer in (phone, desk, bob):
        world.join(peer, ROOM)
        world.join(peer, GROUP)
    assert world.hub.remove_player(b"ann", ROOM) == [phone.handle, desk.handle]
    assert world.hub.remove_player(b"ann", ROOM) == []
    assert world.hub.remove_player(b"nobody", ROOM) == []
    world.say(ROOM, b"bob", b"x")
    world.say(GROUP, b"bob", b"y")
    assert [body for *_, body in world.delivered(phone)] == [b"y"]
    assert [body for *_, body in world.delivered(bob)] == [b"x", b"y"]


def test_players_in_a_channel_are_told_once_each(world: World) -> None:
    for session, name in enumerate([b"ann", b"ann", b"bob", b"cid"], 1):
        world.join(world.login(name, session), ROOM)
    assert sorted(world.hub.players_in(ROOM, 10)) == [b"ann", b"bob", b"cid"]
    assert len(world.hub.players_in(ROOM, 2)) == 2
    assert world.hub.players_in(ROOM, 0) == []
    assert world.hub.subscribers(ROOM) == 4


def test_heads_are_pinned_while_somebody_needs_them() -> None:
    with World() as world:
        ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
        assert world.hub.head(ROOM) is None
        generation = world.hub.begin_join(ann.handle, ROOM)
        world.hub.learn_head(ROOM, 17, 4711, 1000)
        assert world.hub.head(ROOM) == world.view.head(ROOM) == (17, 4711)
        world.hub.complete_join(ann.handle, ROOM, generation, True)
        world.hub.begin_join(bob.handle, ROOM)
        world.hub.leave(ann.handle, ROOM)
        with pytest.raises(ValueError, match="pinned"):
            world.view.unpin(b"room:other")
        bob.close()
        world.pump()
        with pytest.raises(ValueError, match="pinned"):
            world.view.unpin(ROOM)  # the hub has done so


def test_channel_numbers_do_not_come_back_soon(world: World) -> None:
    peer = world.login(b"ann", 1)
    numbers = []
    for _ in range(1000):
        numbers.append(world.join(peer, ROOM))
        world.hub.leave(peer.handle, ROOM)
    assert len(set(numbers)) == 1000
    assert world.hub.counters()["channels"] == 0


def test_everything_is_left_on_disconnect(world: World) -> None:
    peer = world.login(b"ann", 1)
    world.join(peer, ROOM)
    world.join(peer, GROUP)
    world.hub.begin_join(peer.handle, b"room:pending")
    peer.close()
    [(_, _, _, _, channels)] = world.take(EVENT_DISCONNECTED)
    assert sorted(channels) == [GROUP, ROOM], "what was only asked for was not joined"
    counters = world.hub.counters()
    assert (counters["channels"], counters["subscriptions"]) == (0, 0)
