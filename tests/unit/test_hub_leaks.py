"""Nothing stays behind: memory, descriptors and references over many connects and disconnects."""

import ctypes
import gc
import os
import sys
import weakref

import pytest

from chatcore_ext.constants import LINGER_MS
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import encode_hello, encode_send, encode_signal
from support.hub_world import SocketPeer, TransportPeer, World, encode_ping


class Mallinfo2(ctypes.Structure):
    """What glibc's mallinfo2(3) returns, in its order."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def allocated() -> tuple[int, int]:
    """(bytes by malloc, Python's own blocks)."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    info = mallinfo2()
    return info.uordblks + info.hblkhd, sys.getallocatedblocks()


def live_a_life(world: World, round_number: int) -> None:
    world.hub.trace([b"player-%d" % (round_number % 5)], [b"room:everybody"], with_bodies=True)
    peers = [world.login(b"player-%d" % i, round_number * 10 + i + 1) for i in range(4)]
    for peer in peers:
        for channel in (b"room:everybody", b"room:%d" % (round_number % 3)):
            number = world.join(peer, channel)
    world.hub.hide(b"player-0", b"player-1")
    world.hub.begin_join(peers[1].handle, b"room:pending")
    peers[0].send(encode_send(1, number, 0, b"x" * 100) + encode_signal(number, 1, b"", b"") + encode_ping())
    world.say(b"room:everybody", b"player-1", b"hello")
    peers[1].send(encode_send(1, number, 0, b"x")[:9])  # an unfinished frame
    world.pump()
    for peer in peers:
        peer.receive()
    world.hub.close_connection(peers[0].handle, ErrorCode.ERROR_INTERNAL, b"enough")
    world.hub.end_session(round_number * 10 + 2, ErrorCode.ERROR_LOGGED_OUT)
    world.pump()
    for peer in peers:
        peer.close()
    world.pump()
    world.pass_time(20_000)
    if round_number % 2:
        world.hub.take_trace()
    world.hub.trace([], [])
    world.events.clear()
    world.peers.clear()
    world.parsers.clear()


@pytest.mark.resident_memory
@pytest.mark.parametrize("kind", ["socket", "transport"])
def test_memory_and_descriptors_are_given_back(kind: str) -> None:
    with World(kind) as world:
        gc.collect()  # what earlier tests have left to it must not go in the middle of this one
        descriptors = len(os.listdir("/proc/self/fd"))
        for round_number in range(50):
            live_a_life(world, round_number)
        before_bytes, before_blocks = allocated()
        for round_number in range(50, 350):
            live_a_life(world, round_number)
        after_bytes, after_blocks = allocated()
        assert after_bytes - before_bytes < 300 * 32, "less than one small allocation per round"
        assert after_blocks - before_blocks < 300
        assert len(os.listdir("/proc/self/fd")) == descriptors
        counters = world.hub.counters()
        for gauge in ("connections", "sessions", "players", "channels", "subscriptions"):
            assert counters[gauge] == 0


def test_names_are_given_back() -> None:
    player, channel, sender = (bytes(bytearray(name)) for name in (b"some player", b"room:somewhere", b"some sender"))

    def references() -> list[int]:
        return [sys.getrefcount(player), sys.getrefcount(channel), sys.getrefcount(sender)]

    before = references()
    with World(resume_grace_ms=0) as world:
        peer = world.greet()
        world.hub.attach(peer.handle, 1, player)
        world.join(peer, channel)
        world.hub.hide(player, sender)
        assert all(now > then for now, then in zip(references(), before, strict=True))
        peer.close()
        world.pump()
        world.pass_time(1000)
        world.events.clear()
        assert references() == before
        peer = world.greet()  # and again, with the hub's end coming first
        world.hub.attach(peer.handle, 1, player)
        world.join(peer, channel)
        world.hub.hide(player, sender)
    del world
    gc.collect()
    assert references() == before


def test_transports_are_let_go() -> None:
    with World("transport") as world:
        closed, lost, alive = (TransportPeer(world.hub) for _ in range(3))
        gone = [weakref.ref(peer.transport) for peer in (closed, lost)]
        world.hub.receive(closed.handle, b"\xff\xff\xff\xff")
        world.pump()
        lost.close()
        world.pump()
        assert closed.closed  # and its peer never hangs up
        del closed, lost
        gc.collect()
        assert [ref() is None for ref in gone] == [False, True]
        world.pass_time(LINGER_MS + 100)
        gc.collect()
        assert [ref() for ref in gone] == [None, None]
        assert alive.transport is not None


def test_a_hub_that_is_not_closed_lets_go_of_its_sockets() -> None:
    world = World()
    peer = SocketPeer(world.hub)
    peer.send(encode_hello(1, b"\x80")[:5])
    del world.hub
    del world
    gc.collect()
    peer.receive()
    assert peer.closed
    peer.close()
