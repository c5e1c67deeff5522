"""The contract of Relations: groups and roles, friends, blocks; every change idempotent and durable when it returns."""

import asyncio

import pytest

from chatcore_server.backends import BackendUnavailable, Departure, Profile
from support.backends import Backends, Deployment, unique

pytestmark = pytest.mark.asyncio


async def group_of(backends: Backends, *members: tuple[bytes, str]) -> bytes:
    group = unique("group:")
    assert await backends.relations.create_group(group, members[0][0]) == "owner"
    for player, role in members[1:]:
        assert await backends.relations.set_role(group, player, role)
    return group


async def test_creating_a_group(backends: Backends) -> None:
    relations = backends.relations
    ann, bob = unique("a"), unique("b")
    group = unique("group:")
    assert await relations.create_group(group, ann) == "owner"
    assert await relations.create_group(group, ann) == "owner"
    assert await relations.create_group(group, bob) == ""
    assert await relations.set_role(group, bob, "officer")
    assert await relations.create_group(group, bob) == ""
    assert await relations.members(group, 10) == [(ann, "owner"), (bob, "officer")]


async def test_two_creators_at_once_have_one_owner(backends: Backends) -> None:
    group = unique("group:")
    players = [unique("p") for _ in range(8)]
    roles = await asyncio.gather(*(backends.relations.create_group(group, player) for player in players))
    assert sorted(roles) == [""] * 7 + ["owner"]
    assert await backends.relations.members(group, 10) == [(players[roles.index("owner")], "owner")]


async def test_an_unknown_group_has_no_members(backends: Backends) -> None:
    relations = backends.relations
    group, player = unique("group:"), unique("p")
    assert await relations.members(group, 10) == []
    assert await relations.role(group, player) == ""
    assert await relations.roles(group, [player, player]) == ["", ""]
    assert not await relations.set_role(group, player, "member")
    assert await relations.members(group, 10) == []
    assert await relations.leave(group, player) == Departure(False, b"", False)
    assert (await relations.count_members(group), await relations.count_groups(player)) == (0, 0)


async def test_an_unknown_player_has_no_relations(backends: Backends) -> None:
    relations = backends.relations
    player, other = unique("p"), unique("o")
    assert await relations.profiles([player]) == [Profile([], [], [])]
    assert await relations.blocks(player) == []
    assert await relations.friends(player) == ([], [])
    assert await relations.added(player) == []
    assert not await relations.blocked_between(player, other)
    await relations.unblock(player, other)
    await relations.remove_friend(player, other)


async def test_roles(backends: Backends) -> None:
    relations = backends.relations
    ann, bob, eve, zoe = (unique(name) for name in "abez")
    group = await group_of(backends, (ann, "owner"), (bob, "officer"), (eve, "member"))
    assert await relations.roles(group, [zoe, eve, bob, ann]) == ["", "member", "officer", "owner"]
    assert await relations.role(group, bob) == "officer"
    assert await relations.set_role(group, bob, "member")
    assert await relations.set_role(group, bob, "member")
    assert await relations.role(group, bob) == "member"
    assert await relations.members(group, 2) == [(ann, "owner"), (bob, "member")]
    assert await relations.count_members(group) == 3
    assert await relations.count_groups(bob) == 1
    with pytest.raises(ValueError, match="emperor"):
        await relations.set_role(group, bob, "emperor")


async def test_handing_over(backends: Backends) -> None:
    relations = backends.relations
    ann, bob, eve = (unique(name) for name in "abe")
    group = await group_of(backends, (ann, "owner"), (bob, "member"))
    assert await relations.set_role(group, bob, "owner")
    assert await relations.members(group, 9) == [(ann, "officer"), (bob, "owner")]
    assert await relations.set_role(group, eve, "owner")
    assert await relations.members(group, 9) == [(ann, "officer"), (bob, "officer"), (eve, "owner")]


async def test_a_group_never_loses_its_owner_by_a_role(backends: Backends) -> None:
    ann, bob = unique("a"), unique("b")
    group = await group_of(backends, (ann, "owner"), (bob, "officer"))
    assert await backends.relations.set_role(group, ann, "member")
    assert await backends.relations.members(group, 9) == [(ann, "owner"), (bob, "officer")]


async def test_an_owner_s_place_goes_to_the_oldest_officer(backends: Backends) -> None:
    relations = backends.relations
    ann, bob, eve, zoe = (unique(name) for name in "abez")
    group = await group_of(backends, (ann, "owner"), (bob, "member"), (eve, "officer"), (zoe, "officer"))
    assert await relations.leave(group, ann) == Departure(True, eve, False)
    assert await relations.leave(group, ann) == Departure(False, b"", False)
    assert await relations.members(group, 9) == [(bob, "member"), (eve, "owner"), (zoe, "officer")]


async def test_without_officers_the_oldest_member_inherits(backends: Backends) -> None:
    relations = backends.relations
    ann, bob, eve = (unique(name) for name in "abe")
    group = await group_of(backends, (ann, "owner"), (bob, "member"), (eve, "member"))
    assert await relations.leave(group, eve) == Departure(True, b"", False)
    assert await relations.leave(group, ann) == Departure(True, bob, False)
    assert await relations.leave(group, bob) == Departure(True, b"", True)
    assert await relations.members(group, 9) == []


async def test_the_name_of_an_ended_group_is_not_given_again(backends: Backends) -> None:
    relations = backends.relations
    ann, bob = unique("a"), unique("b")
    group = await group_of(backends, (ann, "owner"))
    assert (await relations.leave(group, ann)).ended
    for player in (ann, bob):
        assert await relations.create_group(group, player) == ""
    assert await relations.members(group, 9) == []


async def test_coming_back_is_coming_last(backends: Backends) -> None:
    relations = backends.relations
    ann, bob, eve = (unique(name) for name in "abe")
    group = await group_of(backends, (ann, "owner"), (bob, "member"), (eve, "member"))
    await relations.leave(group, bob)
    await relations.set_role(group, bob, "member")
    assert await relations.members(group, 9) == [(ann, "owner"), (eve, "member"), (bob, "member")]


async def test_blocks(backends: Backends) -> None:
    relations = backends.relations
    ann, bob, eve = (unique(name) for name in "abe")
    await relations.block(ann, bob)
    await relations.block(ann, bob)
    await relations.block(eve, ann)
    assert await relations.blocks(ann) == [bob]
    assert await relations.blocked_between(ann, bob)
    assert await relations.blocked_between(bob, ann)
    assert await relations.blocked_between(ann, eve)
    assert not await relations.blocked_between(bob, eve)
    await relations.unblock(bob, ann)
    assert await relations.blocked_between(ann, bob)
    await relations.unblock(ann, bob)
    await relations.unblock(ann, bob)
    assert not await relations.blocked_between(ann, bob)
    assert await relations.blocks(ann) == []


async def test_friends_are_those_who_added_each_other(backends: Backends) -> None:
    relations = backends.relations
    ann, bob, eve = (unique(name) for name in "abe")
    assert not await relations.add_friend(ann, bob)
    assert not await relations.add_friend(ann, bob)
    assert await relations.friends(ann) == ([], [])
    assert await relations.friends(bob) == ([], [ann])
    assert await relations.add_friend(bob, ann)
    assert await relations.add_friend(ann, bob)
    assert not await relations.add_friend(eve, ann)
    assert await relations.friends(ann) == ([bob], [eve])
    assert await relations.friends(bob) == ([ann], [])
    assert [await relations.added(player) for player in (ann, bob, eve)] == [[bob], [ann], [ann]]
    await relations.remove_friend(bob, ann)
    await relations.remove_friend(bob, ann)
    assert await relations.friends(ann) == ([], [eve])
    assert await relations.friends(bob) == ([], [])
    assert not await relations.add_friend(bob, ann)


async def test_a_profile_is_all_of_it(deployment: Deployment, backends: Backends) -> None:
    relations = backends.relations
    ann, bob, eve = (unique(name) for name in "abe")
    owned = await group_of(backends, (ann, "owner"))
    joined = await group_of(backends, (bob, "owner"), (ann, "member"))
    await relations.add_friend(ann, bob)
    await relations.add_friend(bob, ann)
    await relations.add_friend(eve, ann)
    await relations.block(ann, eve)
    profile = Profile([(owned, "owner"), (joined, "member")], [bob], [eve])
    [found] = await relations.profiles([ann])
    assert Profile(sorted(found.groups), *found[1:]) == Profile(sorted(profile.groups), *profile[1:])
    await backends.close()
    again = deployment.connect()
    await again.open()
    try:
        assert await again.relations.profiles([ann]) == [found]
    finally:
        await again.close()


async def test_profiles_of_many(backends: Backends) -> None:
    relations = backends.relations
    players = [unique("p") for _ in range(70)]
    group = await group_of(backends, (players[1], "owner"), (players[69], "member"))
    for player, other in ((players[2], players[4]), (players[4], players[2]), (players[2], players[5])):
        await relations.add_friend(player, other)
    await relations.block(players[7], players[8])
    found = await relations.profiles([*players, players[1]])
    assert {i: one.groups for i, one in enumerate(found) if one.groups} == {
        1: [(group, "owner")],
        69: [(group, "member")],
        70: [(group, "owner")],
    }
    assert {i: one.friends for i, one in enumerate(found) if one.friends} == {2: [players[4]], 4: [players[2]]}
    assert {i: one.blocks for i, one in enumerate(found) if one.blocks} == {7: [players[8]]}
    assert await relations.profiles([]) == []


async def test_many_changes_at_once_each_happen(backends: Backends) -> None:
    ann = unique("a")
    group = await group_of(backends, (ann, "owner"))
    players = [unique("p") for _ in range(60)]
    answers = await asyncio.gather(*(backends.relations.set_role(group, player, "member") for player in players))
    assert answers == [True] * 60
    members = await backends.relations.members(group, 100)
    assert {player for player, _ in members} == {ann, *players}


async def test_a_failure_is_never_an_empty_answer(backends: Backends) -> None:
    relations = backends.relations
    await backends.close()
    for call in (
        relations.profiles([b"ann"]),
        relations.create_group(b"group:g", b"ann"),
        relations.role(b"group:g", b"ann"),
        relations.roles(b"group:g", [b"ann"]),
        relations.members(b"group:g", 1),
        relations.set_role(b"group:g", b"ann", "member"),
        relations.leave(b"group:g", b"ann"),
        relations.block(b"ann", b"bob"),
        relations.unblock(b"ann", b"bob"),
        relations.blocks(b"ann"),
        relations.blocked_between(b"ann", b"bob"),
        relations.add_friend(b"ann", b"bob"),
        relations.remove_friend(b"ann", b"bob"),
        relations.friends(b"ann"),
    ):
        with pytest.raises(BackendUnavailable):
            await call
