"""Groups: who may join, read, send, and change whose membership."""

import pytest

from chatcore import operations
from chatcore.errors import AlreadyExists, NoSuchChannel, NoSuchMember, NotAllowed
from chatcore_ext.error_codes import ErrorCode
from support.players import Player
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

GUILD = "group:guild"


async def guild(server: LocalServer) -> tuple[Player, Player, Player, Player]:
    """An owner, an officer and a member, who are all in the channel, and a stranger."""
    owner, officer, member, stranger = [await server.login(name) for name in ("owner", "officer", "member", "stranger")]
    assert await owner.client.create_group(GUILD) == "owner"
    await owner.client.add_member(GUILD, "officer", "officer")
    await officer.client.add_member(GUILD, "member")
    for player in (owner, officer, member):
        joined = await player.client.join(GUILD)
        assert joined.role == player.name
    return owner, officer, member, stranger


async def roles(player: Player) -> dict[str, str]:
    return {member.player: member.role for member in await player.client.members(GUILD)}


async def test_members_talk_and_strangers_do_not_listen(server: LocalServer) -> None:
    owner, officer, member, stranger = await guild(server)
    await member.client.send(GUILD, "hello")
    for player in (owner, officer, member):
        await player.hears(GUILD, "hello")
    with pytest.raises(NotAllowed):
        await stranger.client.join(GUILD)
    with pytest.raises(NotAllowed):
        await stranger.client.history(GUILD)
    with pytest.raises(NotAllowed):
        await stranger.client.members(GUILD)
    assert [message.text for message in await owner.client.history(GUILD)] == ["hello"]
    assert await roles(member) == {"owner": "owner", "officer": "officer", "member": "member"}


async def test_founding(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    with pytest.raises(NoSuchChannel):
        await ann.client.join(GUILD)
    assert await ann.client.create_group(GUILD) == "owner"
    assert await ann.client.create_group(GUILD) == "owner"
    with pytest.raises(AlreadyExists):
        await bob.client.create_group(GUILD)
    with pytest.raises(NoSuchChannel):
        await bob.client.create_group("room:guild")


async def test_what_each_role_may_not(server: LocalServer) -> None:
    owner, officer, member, stranger = await guild(server)
    with pytest.raises(NotAllowed):
        await member.client.add_member(GUILD, "stranger")
    with pytest.raises(NotAllowed):
        await officer.client.add_member(GUILD, "stranger", "officer")
    with pytest.raises(NotAllowed):
        await owner.client.add_member(GUILD, "stranger", "owner")
    with pytest.raises(AlreadyExists):
        await owner.client.add_member(GUILD, "officer", "member")
    with pytest.raises(NotAllowed):
        await stranger.client.add_member(GUILD, "stranger")
    with pytest.raises(NotAllowed):
        await member.client.remove_member(GUILD, "officer")
    with pytest.raises(NotAllowed):
        await officer.client.remove_member(GUILD, "owner")
    with pytest.raises(NotAllowed):
        await officer.client.remove_member(GUILD, "officer")
    with pytest.raises(NoSuchMember):
        await officer.client.remove_member(GUILD, "stranger")
    with pytest.raises(NotAllowed):
        await officer.client.set_role(GUILD, "member", "officer")
    with pytest.raises(NoSuchMember):
        await owner.client.set_role(GUILD, "stranger", "officer")
    with pytest.raises(NotAllowed):
        await owner.client.set_role(GUILD, "owner", "member")
    with pytest.raises(NoSuchMember):
        await stranger.client.leave_group(GUILD)
    assert await roles(owner) == {"owner": "owner", "officer": "officer", "member": "member"}


async def test_a_kick_ends_it_at_once(server: LocalServer) -> None:
    owner, officer, member, _ = await guild(server)
    await officer.client.remove_member(GUILD, "member")
    # The answer comes when the kick is in effect: what is said now is not heard any more.
    await owner.client.send(GUILD, "without them")
    await officer.hears(GUILD, "without them")
    closed = await member.is_told(operations.ClosedEvent, channel=GUILD)
    assert closed.code == ErrorCode.ERROR_NOT_ALLOWED
    for player in (owner, officer, member):
        await player.is_told(operations.MemberEvent, player="member", role="", by="officer")
    with pytest.raises(NotAllowed):
        await member.client.join(GUILD)
    assert member.texts(GUILD) == []
    await owner.client.add_member(GUILD, "member")
    await member.client.join(GUILD)
    await member.client.send(GUILD, "back")
    await owner.hears(GUILD, "without them", "back")
    await member.hears(GUILD, "back")
    assert member.texts(GUILD) == ["back"]


async def test_promotion_and_hand_over(server: LocalServer) -> None:
    owner, officer, member, _ = await guild(server)
    await owner.client.set_role(GUILD, "member", "officer")
    await officer.is_told(operations.MemberEvent, player="member", role="officer", by="owner")
    await owner.client.set_role(GUILD, "member", "owner")
    await officer.is_told(operations.MemberEvent, player="owner", role="officer", by="owner")
    assert await roles(officer) == {"owner": "officer", "officer": "officer", "member": "owner"}
    with pytest.raises(NotAllowed):
        await owner.client.set_role(GUILD, "officer", "member")
    await member.client.remove_member(GUILD, "owner")
    await owner.is_told(operations.ClosedEvent, channel=GUILD)


async def test_leaving_hands_over_until_the_last_ends_it(server: LocalServer) -> None:
    owner, officer, member, stranger = await guild(server)
    await owner.client.leave_group(GUILD)
    await owner.is_told(operations.ClosedEvent, channel=GUILD, code=int(ErrorCode.ERROR_NO_SUCH_MEMBER))
    await member.is_told(operations.MemberEvent, player="officer", role="owner", by="owner")
    assert await roles(member) == {"officer": "owner", "member": "member"}
    await member.client.leave_group(GUILD)
    await officer.client.leave_group(GUILD)
    await officer.is_told(operations.ClosedEvent, channel=GUILD, code=int(ErrorCode.ERROR_NO_SUCH_CHANNEL))
    with pytest.raises(NoSuchChannel):
        await officer.client.join(GUILD)
    with pytest.raises(AlreadyExists):  # whoever could take its name would read its history
        await stranger.client.create_group(GUILD)


async def test_who_is_added_is_told(server: LocalServer) -> None:
    ann, bob = await server.login("ann"), await server.login("bob")
    await ann.client.create_group(GUILD)
    await ann.client.add_member(GUILD, "bob")
    await bob.is_told(operations.MemberEvent, channel=GUILD, player="bob", role="member", by="ann")
    assert list(await bob.client.conversations()) == [GUILD]


async def test_unread_messages_of_groups(server: LocalServer) -> None:
    _, officer, member, _ = await guild(server)
    await officer.client.send(GUILD, "one")
    receipt = await officer.client.send(GUILD, "two")
    await member.client.send(GUILD, "my own")
    state = (await member.client.conversations())[GUILD]
    assert (state.read, state.unread) == (0, 2)
    second = await server.login("member")
    await member.client.mark_read(GUILD, receipt.id)
    assert (await second.is_told(operations.ReadEvent, channel=GUILD)).id == receipt.id
    state = (await member.client.conversations())[GUILD]
    assert (state.read, state.unread) == (receipt.id, 0)
    await member.client.mark_read(GUILD, 2**62)  # as far as there is something to read
    assert (await member.client.conversations())[GUILD].read == state.head
