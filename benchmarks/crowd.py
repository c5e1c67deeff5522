"""A hub with many ready connections on loopback TCP, whose other ends a second process (drain.c) reads. No server.

Not UNIX socket pairs: with thousands of them the kernel mostly wakes writers, which TCP does not.
"""

import resource
import select
import socket
import struct
import subprocess
from types import TracebackType
from typing import Self

from chatcore_ext.frame import encode_hello
from chatcore_ext.hub import EVENT_HELLO, Hub
from chatcore_ext.log_view import LogView
from native import build
from processes import GENERATOR_CORE, pinned

CHANNEL = b"room:crowd"
EMPTY_MAP = b"\x80"  # MessagePack
PASSED_AT_ONCE = 250  # descriptors in one SCM_RIGHTS message; Linux takes 253
OWN_DESCRIPTORS = 100  # of the process itself
WAIT_SECONDS = 10.0


class Crowd:
    """`connections`: handles of n players ("p0", "p1" ...), one session each, all in CHANNEL."""

    def __init__(self, n: int) -> None:
        raise_descriptor_limit(n + OWN_DESCRIPTORS)
        view = LogView()
        self.hub = Hub(view, on_direct=lambda *_: None, on_control=lambda *_: None, heartbeat_timeout_ms=1 << 30)
        self.connections: list[int] = []
        own, its = socket.socketpair()
        self._drain = own
        self._process = subprocess.Popen(pinned([build("drain")], GENERATOR_CORE), stdin=its.fileno())
        its.close()
        for first in range(0, n, PASSED_AT_ONCE):
            self._adopt(min(PASSED_AT_ONCE, n - first))
            self._greet()
        for connection in self.connections:
            generation = self.hub.begin_join(connection, CHANNEL)
            assert self.hub.complete_join(connection, CHANNEL, generation, True)
        self.hub.flush()

    def _adopt(self, n: int) -> None:
        theirs: list[socket.socket] = []
        with socket.create_server(("127.0.0.1", 0), backlog=n) as listener:
            for _ in range(n):
                other = socket.create_connection(listener.getsockname())
                other.sendall(encode_hello(1, EMPTY_MAP))
                theirs.append(other)
                ours, _ = listener.accept()
                ours.setblocking(False)
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.hub.adopt(ours.detach())
        socket.send_fds(self._drain, [b"a"], [other.fileno() for other in theirs])
        for other in theirs:
            other.close()

    def _greet(self) -> None:
        while select.select([self.hub.fileno()], [], [], 0)[0]:
            for event in self.hub.run_burst():
                kind, connection = event[0], event[1]
                assert kind == EVENT_HELLO, event
                assert isinstance(connection, int)
                number = len(self.connections)
                assert self.hub.attach(connection, number + 1, b"p%d" % number) == 1
                self.connections.append(connection)

    def wait_until_read(self, size: int) -> None:
        """Until the receivers have read so many bytes; flushes what the sockets had no room for."""
        self._drain.sendall(b"q" + struct.pack("=Q", size))
        while self.hub.pending_output:
            select.select([self.hub.fileno()], [], [], WAIT_SECONDS)
            self.hub.run_burst()
        assert self._drain.recv(1) == b"k", "the receivers have read more bytes than they should"

    def __enter__(self) -> Self:
        self._drain.settimeout(WAIT_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hub.close()
        self._drain.close()
        self._process.wait(WAIT_SECONDS)


def raise_descriptor_limit(needed: int) -> None:
    """For this process and those that it starts. Root raises the hard limit too (up to fs.nr_open).

    Raises RuntimeError with what to do if it may not have so many descriptors.
    """
    _, highest = resource.getrlimit(resource.RLIMIT_NOFILE)
    if highest != resource.RLIM_INFINITY:
        highest = max(highest, needed)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest, highest))
    except (ValueError, OSError):
        raise RuntimeError(
            f"this benchmark needs {needed} descriptors, the limit is lower: raise it (ulimit -Hn)"
        ) from None
