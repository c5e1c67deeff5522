"""How much may come from one address, one player, and from those who have not said who they are."""

from collections.abc import Iterator
from typing import Any

import pytest

from chatcore_ext.constants import LINGER_MS, FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import encode_request, encode_send, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED, EVENT_REQUEST, EVENT_SEND
from chatcore_ext.transport_link import TransportLink
from support.hub_world import MemoryTransport, Peer, SocketPeer, TransportPeer, World, encode_ping, error_of

ROOM = b"room:hall"


@pytest.fixture(params=["socket", "transport"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def closed_by(world: World, peer: Peer) -> tuple[int, int]:
    """Code and retry-after of the CLOSE that is the last that a peer has got."""
    *_, (kind, body) = world.frames(peer)
    assert kind == FrameType.FRAME_CLOSE
    code, _, wait = error_of(body)
    return code, wait


# ---- Half-open connections -------------------------------------------------------------------------------------------


def test_the_oldest_without_hello_gives_way(kind: str) -> None:
    with World(kind, max_half_open=3) as world:
        first, greeting, third = world.open(), world.greet(), world.open()
        fourth = world.open()
        assert closed_by(world, first)[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        assert world.hub.counters()["half_open_gave_way"] == 1
        assert world.hub.counters()["connections_refused"] == 0
        assert world.hub.attach(greeting.handle, 1, b"ann") == 1  # it waits for us: it does not give way
        for peer in (third, fourth):
            assert world.frames(peer) == []
            assert not peer.closed
        assert world.hub.counters()["connections_half_open"] == 2


def test_with_nobody_to_give_way_the_newest_is_refused(kind: str) -> None:
    with World(kind, max_half_open=2) as world:
        waiting = [world.greet(), world.greet()]
        assert closed_by(world, world.open())[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        assert world.hub.counters()["connections_refused"] == 1
        assert world.hub.attach(waiting[0].handle, 1, b"ann") == 1
        assert world.frames(world.open()) == []


def test_players_are_not_kept_out_by_those_who_say_nothing(kind: str) -> None:
    with World(kind, max_connections=4) as world:
        silent = [world.open() for _ in range(4)]
        players = [world.login(b"player%d" % i, i + 1) for i in range(4)]
        assert [closed_by(world, peer)[0] for peer in silent] == [ErrorCode.ERROR_TOO_MANY_CONNECTIONS] * 4
        assert closed_by(world, world.open())[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS, "full of players"
        assert [peer.closed for peer in players] == [False] * 4


def test_those_who_end_linger_no_longer_than_there_is_room(kind: str) -> None:
    """Each is told why, and those who never hang up hold no place that a new one needs."""
    with World(kind, max_connections=4, max_closing=3) as world:
        silent = [world.open() for _ in range(20)]
        assert {closed_by(world, peer)[0] for peer in silent[:16]} == {ErrorCode.ERROR_TOO_MANY_CONNECTIONS}
        assert [world.frames(peer) for peer in silent[16:]] == [[]] * 4
        counters = world.hub.counters()
        assert (counters["connections"], counters["connections_closing"]) == (4, 3)
        assert counters["half_open_gave_way"] == 16


def test_where_there_is_room_all_linger(kind: str) -> None:
    with World(kind, max_connections=20, max_closing=3) as world:
        peers = [world.open() for _ in range(10)]
        world.hub.close_connections(ErrorCode.ERROR_SHUTTING_DOWN)
        assert {closed_by(world, peer)[0] for peer in peers} == {ErrorCode.ERROR_SHUTTING_DOWN}
        assert world.hub.counters()["connections_closing"] == 10


def test_many_come_and_go_before_one_gives_way() -> None:
    with World(max_half_open=150) as world:
        stays = [world.open()]
        for _ in range(500):
            peer = world.open()
            peer.close()
            world.pump()
        stays += [world.open() for _ in range(149)]
        assert world.hub.counters()["half_open_gave_way"] == 0
        newest = world.open()
        assert closed_by(world, stays[0])[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        assert world.frames(newest) == []


# ---- Addresses -------------------------------------------------------------------------------------------------------


def come_from(world: World, address: str) -> Peer:
    """A connection that a door says to come from there."""
    if world.peer_kind is SocketPeer:
        peer: Peer = SocketPeer(world.hub, address=address)
    else:
        peer = TransportPeer(world.hub, address=address)
    world.peers.append(peer)
    return peer


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
    ],
)
def test_addresses_are_told_as_limits_know_them(kind: str, text: str, shown: str) -> None:
    with World(kind) as world:
        peer = come_from(world, text)
        assert world.hub.address(peer.handle) == shown
        assert (world.hub.limited_address(peer.handle) is None) == (text == "")
        assert world.hub.address(peer.handle + 2**32) == ""


def test_what_is_no_address_is_refused() -> None:
    with World() as world, pytest.raises(ValueError, match="somewhere"):
        world.hub.open_transport(MemoryTransport(), "somewhere")


@pytest.mark.parametrize("networks", [["10.0.0.0/33"], ["10.0.0.1/8"], ["host"], ["10.0.0.0/8"] * 65])
def test_networks_that_are_none(networks: list[str]) -> None:
    with pytest.raises(ValueError):
        World(unlimited_addresses=networks)


def test_connections_of_one_address(kind: str) -> None:
    with World(kind, max_connections_per_address=2) as world:
        here = [come_from(world, "192.0.2.1"), come_from(world, "::ffff:192.0.2.1")]
        code, wait = closed_by(world, come_from(world, "192.0.2.1"))
        assert code == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        assert wait > 0
        assert world.frames(come_from(world, "192.0.2.2")) == []
        counters = world.hub.counters()
        assert (counters["connections_refused_by_address"], counters["connections_refused"]) == (1, 1)
        here[0].close()
        world.pump()
        world.pass_time(LINGER_MS + 100)  # the refused one is gone, too
        assert world.frames(come_from(world, "192.0.2.1")) == []


def test_one_customer_of_ipv6_is_one_address(kind: str) -> None:
    with World(kind, max_connections_per_address=1) as world:
        come_from(world, "2001:db8:0:1::1")
        assert closed_by(world, come_from(world, "2001:db8:0:1:ffff::"))[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        assert world.frames(come_from(world, "2001:db8:0:2::1")) == []


def test_how_fast_an_address_may_connect(kind: str) -> None:
    with World(kind, accepts_per_second=2, accept_burst=3) as world:
        for _ in range(3):
            come_from(world, "192.0.2.1").close()
            world.pump()
        code, wait = closed_by(world, come_from(world, "192.0.2.1"))
        assert code == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        assert 0 < wait <= 500, "one every half second"
        assert world.frames(come_from(world, "192.0.2.9")) == []
        world.pass_time(wait)
        assert world.frames(come_from(world, "192.0.2.1")) == []


def test_an_address_is_remembered_until_its_bucket_is_full() -> None:
    with World(accepts_per_second=1, accept_burst=10) as world:
        for i in range(100):
            come_from(world, f"192.0.2.{i}").close()
        world.pump()
        assert world.hub.counters()["addresses"] == 100
        world.pass_time(9_000)
        assert world.hub.counters()["addresses"] == 100
        stays = come_from(world, "192.0.2.7")
        world.pass_time(2_000)
        assert world.hub.counters()["addresses"] == 1
        assert world.hub.address(stays.handle) == "192.0.2.7"


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("192.0.2.0/24", "192.0.2.200", "192.0.3.1"),
        ("0.0.0.0/0", "8.8.8.8", "2001:db8::1"),
        ("::/0", "2001:db8::1", None),
        ("2001:db8::/32", "2001:db8:9::1", "2001:db9::1"),
        ("::1/128", "::1", "1::1"),
    ],
)
def test_networks_without_limits(kind: str, network: str, inside: str, outside: str | None) -> None:
    with World(kind, max_connections_per_address=1, unlimited_addresses=[network]) as world:
        for _ in range(5):
            peer = come_from(world, inside)
            assert world.frames(peer) == []
            assert world.hub.limited_address(peer.handle) is None
        if outside is not None:
            come_from(world, outside)
            assert closed_by(world, come_from(world, outside))[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS


def test_networks_without_limits_change_for_those_who_are_here(kind: str) -> None:
    with World(kind, max_connections_per_address=1) as world:
        first = come_from(world, "192.0.2.1")
        assert world.hub.limited_address(first.handle) is not None
        world.hub.set_limits(max_connections_per_address=1, unlimited_addresses=["192.0.2.0/24"])
        assert world.hub.limited_address(first.handle) is None
        second = come_from(world, "192.0.2.1")
        assert world.frames(second) == []
        world.hub.set_limits(max_connections_per_address=1)
        assert world.hub.limited_address(second.handle) is not None
        assert closed_by(world, come_from(world, "192.0.2.1"))[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        assert not first.closed


def test_too_many_refused_at_once_are_closed_without_a_word() -> None:
    with World(max_connections_per_address=1) as world:
        transports = [MemoryTransport() for _ in range(1200)]
        links = [TransportLink(world.hub, lambda: None, "192.0.2.1") for _ in transports]
        for link, transport in zip(links, transports, strict=True):
            link.connection_made(transport)
            if link.connection == 0:
                assert transport.ending
                assert not transport.written
        world.pump()
        n_told = sum(bool(transport.written) for transport in transports)
        assert 1000 < n_told < 1100
        assert world.hub.counters()["connections_refused"] == 1199


# ---- What a player may send ------------------------------------------------------------------------------------------


@pytest.fixture
def world(kind: str) -> Iterator[World]:
    limits = {"frames_per_second": 10, "frame_burst": 20, "player_frames_per_second": 10, "player_frame_burst": 30}
    with World(kind, **limits) as made:
        yield made


def codes(world: World, peer: Peer) -> list[int]:
    """Of the REFUSED, FAILED and CLOSE frames that a peer has got."""
    start = {FrameType.FRAME_REFUSED: 8, FrameType.FRAME_FAILED: 4, FrameType.FRAME_CLOSE: 0}
    return [error_of(body[start[FrameType(kind)] :])[0] for kind, body in world.frames(peer)]


def test_the_connections_of_a_player_share_a_limit(world: World) -> None:
    phone, desk = world.login(b"ann", 1), world.login(b"ann", 2)
    bob = world.login(b"bob", 3)
    numbers = {peer.handle: world.join(peer, ROOM) for peer in (phone, desk, bob)}
    for peer in (phone, desk, bob):
        peer.send(b"".join(encode_send(seq, numbers[peer.handle], 0, b"x") for seq in range(1, 19)))
        world.pump()
    assert codes(world, phone) == []
    assert codes(world, desk) == [ErrorCode.ERROR_RATE_LIMITED] * 6, "30 in all"
    assert codes(world, bob) == []
    assert len(world.take(EVENT_SEND)) == 18 + 12 + 18
    world.pass_time(1000)
    desk.send(b"".join(encode_send(seq, numbers[desk.handle], 0, b"x") for seq in range(19, 31)))
    assert codes(world, desk) == [ErrorCode.ERROR_RATE_LIMITED] * 2, "a second gives back 10"


def test_a_player_who_comes_back_finds_the_limit_as_it_was(world: World) -> None:
    keeps = world.login(b"ann", 1)
    for session in (2, 3):
        peer = world.login(b"ann", session)
        peer.send(b"".join(encode_request(i, 1, b"") for i in range(15)))
        world.pump()
        peer.close()
    assert len(world.take(EVENT_REQUEST)) == 30
    keeps.send(encode_request(1, 1, b""))
    assert codes(world, keeps) == [ErrorCode.ERROR_RATE_LIMITED]


def test_bytes_of_a_player(kind: str) -> None:
    with World(kind, player_bytes_per_second=1000, player_byte_burst=5000) as world:
        peer = world.login(b"ann", 1)
        number = world.join(peer, ROOM)
        peer.send(b"".join(encode_send(seq, number, 0, bytes(983)) for seq in range(1, 8)))  # 1,000 bytes each
        [(_, first), (_, second)] = world.frames(peer)
        code, flags, wait = error_of(first[8:])
        assert (code, flags) == (ErrorCode.ERROR_RATE_LIMITED, 1)
        assert 900 < wait <= 1000
        assert error_of(second[8:])[0] == ErrorCode.ERROR_RATE_LIMITED
        assert len(world.take(EVENT_SEND)) == 5
        peer.send(encode_ping() + encode_send(9, number, 0, b""))
        [(pong, _), (refused, _)] = world.frames(peer)
        assert (pong, refused) == (FrameType.FRAME_PONG, FrameType.FRAME_REFUSED)
        world.pass_time(wait)
        peer.send(encode_send(9, number, 0, bytes(983)))
        assert codes(world, peer) == []


def test_the_largest_frame_always_gets_through_some_time() -> None:
    with World(player_bytes_per_second=1, player_byte_burst=1) as world:
        peer = world.login(b"ann", 1)
        peer.send(encode_request(1, 1, bytes(4091)))
        assert codes(world, peer) == []
        assert len(world.take(EVENT_REQUEST)) == 1


# ---- Floods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [encode_ping(), encode_signal(1, 1, b"", b""), encode_request(1, 1, b""), encode_send(1, 77, 0, b"")],
    ids=["ping", "signal", "request", "send"],
)
def test_a_flood_is_closed(world: World, frame: bytes) -> None:
    peer = world.login(b"ann", 1)
    neighbour = world.login(b"bob", 2)
    peer.send(frame * 99)
    world.frames(peer)
    assert not peer.closed, "over the limit, but not by four times as much"
    peer.send(frame * 20)  # 2 are enough, unless the machine is so busy that the buckets refill meanwhile
    *_, (kind, body) = world.frames(peer)
    assert kind == FrameType.FRAME_CLOSE
    code, flags, wait = error_of(body)
    assert (code, flags) == (ErrorCode.ERROR_RATE_LIMITED, 1)
    assert 0 < wait <= 100
    assert world.take(EVENT_DISCONNECTED)[0][0] == peer.handle
    assert world.hub.counters()["closed_rate_limited"] == 1
    assert not neighbour.closed


def test_a_flood_in_one_piece_ends_with_its_close(world: World) -> None:
    peer = world.login(b"ann", 1)
    number = world.join(peer, ROOM)
    peer.send(b"".join(encode_send(seq, number, 0, b"") for seq in range(1, 1000)))
    assert codes(world, peer) == [ErrorCode.ERROR_RATE_LIMITED] * 81, "80 refused, then closed"
    assert len(world.take(EVENT_SEND)) == 20


def test_who_is_a_little_too_fast_for_long_is_refused_and_stays(world: World) -> None:
    peer = world.login(b"ann", 1)
    n_refused = 0
    for i in range(100):
        world.pass_time(100)
        peer.send(encode_request(2 * i, 1, b"") + encode_request(2 * i + 1, 1, b""))
        n_refused += len(codes(world, peer))
    assert 50 < n_refused <= 100
    assert not peer.closed


def test_bytes_alone_are_no_sign_of_life(kind: str) -> None:
    with World(kind, hello_timeout_ms=1000, heartbeat_timeout_ms=1000) as world:
        slow, alive = world.login(b"ann", 1), world.login(b"bob", 2)
        for byte in encode_ping()[:11]:
            slow.send(bytes([byte]))
            alive.send(encode_ping())
            world.pump()
            world.pass_time(100)
        assert closed_by(world, slow)[0] == ErrorCode.ERROR_HEARTBEAT_TIMEOUT
        world.frames(alive)
        assert not alive.closed


# ---- Other limits while they are connected ---------------------------------------------------------------------------


def test_lower_limits_hold_at_once_and_put_nobody_out(kind: str) -> None:
    with World(kind, frame_burst=1_000) as world:
        ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
        for i in range(3):
            world.join(ann, b"room:%d" % i)
        world.hub.set_limits(max_connections=1, max_channels_per_connection=2, frames_per_second=1, frame_burst=5)
        assert world.hub.is_known(ann.handle) and world.hub.is_known(bob.handle)
        assert closed_by(world, world.open())[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        assert len(world.hub.channels_of(ann.handle)) == 3
        for i in range(10):  # its bucket held a thousand
            ann.send(encode_request(i, 1, b""))
        world.pump()
        assert len(world.take(EVENT_REQUEST)) == 5
        world.hub.check_invariants()


def test_limits_that_are_wrong_change_none() -> None:
    with World(max_connections=2, unlimited_addresses=["10.0.0.0/8"]) as world:
        for wrong in ({"frame_burst": 0}, {"unlimited_addresses": ["nowhere"]}, {"max_total_pending_size": 0}):
            options: dict[str, Any] = {"max_connections": 1, **wrong}
            with pytest.raises(ValueError, match=r"frame_burst|nowhere|max_total_pending_size"):
                world.hub.set_limits(**options)
        ann, bob = world.login(b"ann", 1), world.login(b"bob", 2)
        assert not ann.closed
        assert not bob.closed
        assert closed_by(world, world.open())[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
        unlimited = SocketPeer(world.hub, address="10.0.0.1")
        world.peers.append(unlimited)
        assert world.hub.limited_address(unlimited.handle) is None
