"""The hub on real TCP sockets: listening, a crowd that arrives at once, running out of descriptors."""

import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import FrameParser, encode_hello, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED, EVENT_HELLO, Event, Hub
from chatcore_ext.log_view import LogView
from support.hub_world import MAX_SERVER_BODY, error_of

DEADLINE = 10.0  # seconds, for what takes milliseconds


class Server:
    def __init__(self, **limits: Any) -> None:
        self.hub = Hub(LogView(), on_direct=lambda *direct: None, on_control=lambda *control: None, **limits)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.listener.setblocking(False)
        self.hub.listen(self.listener.fileno())
        self.address = self.listener.getsockname()
        self.events: list[Event] = []

    def run_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE
        poll = select.poll()
        poll.register(self.hub.fileno(), select.POLLIN)
        while not done():
            assert time.monotonic() < deadline
            if poll.poll(10):
                self.events += self.hub.run_burst()
            self.events += self.hub.tick()

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=DEADLINE)

    def close(self) -> None:
        self.hub.close()
        self.listener.close()


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server()) as made:
        yield made


def read_frames(client: socket.socket, n_frames: int) -> list[tuple[int, bytes]]:
    parser = FrameParser(MAX_SERVER_BODY)
    frames: list[tuple[int, bytes]] = []
    while len(frames) < n_frames:
        data = client.recv(65536)
        assert data, "closed too early"
        frames += parser.feed(data)
    return frames


def test_a_crowd_that_arrives_at_once(server: Server) -> None:
    clients = [server.connect() for _ in range(200)]  # more than are accepted in one turn
    for i, client in enumerate(clients):
        client.sendall(encode_hello(1, b"%d" % i))
    server.run_until(lambda: len(server.events) == 200)
    numbers = set()
    for _, handle, _, body in server.events:
        assert isinstance(handle, int)
        assert isinstance(body, bytes)
        server.hub.attach(handle, int(body) + 1, b"player-" + body)
        generation = server.hub.begin_join(handle, b"room:x")
        numbers.add(server.hub.complete_join(handle, b"room:x", generation, True))
    [number] = numbers
    clients[7].sendall(encode_signal(number, 1, b"", b""))
    server.run_until(lambda: server.hub.counters()["signal_deliveries"] == 199)
    for i, client in enumerate(clients):
        if i != 7:
            [(kind, body)] = read_frames(client, 1)
            assert kind == FrameType.FRAME_SIGNAL
            assert body.endswith(b"player-7")
    for client in clients:
        client.close()
    server.events.clear()
    server.run_until(lambda: len(server.events) == 200)
    assert {event[0] for event in server.events} == {EVENT_DISCONNECTED}


def test_stop_accepting_keeps_those_that_are_here(server: Server) -> None:
    with server.connect() as client:
        client.sendall(encode_hello(1, b""))
        server.run_until(lambda: len(server.events) == 1)
        server.hub.stop_accepting()
        with server.connect() as waiting:
            waiting.sendall(encode_hello(1, b""))
            assert server.events[0][0] == EVENT_HELLO
            handle = server.events[0][1]
            assert isinstance(handle, int)
            server.hub.attach(handle, 1, b"ann")
            server.hub.event(handle, b"\x80")
            server.hub.flush()
            assert read_frames(client, 1) == [(FrameType.FRAME_EVENT, b"\x80")]
            assert server.hub.run_burst() == []
            assert server.hub.counters()["connections_accepted"] == 1


def test_connections_over_the_limit_are_told() -> None:
    with closing(Server(max_connections=1)) as full, full.connect() as first:
        first.sendall(encode_hello(1, b""))
        full.run_until(lambda: len(full.events) == 1)
        with full.connect() as second:
            second.sendall(encode_hello(1, b""))  # unread input must not cost it the CLOSE
            full.run_until(lambda: full.hub.counters()["connections_refused"] == 1)
            [(kind, body)] = read_frames(second, 1)
            assert kind == FrameType.FRAME_CLOSE
            assert error_of(body)[0] == ErrorCode.ERROR_TOO_MANY_CONNECTIONS
            assert second.recv(1) == b""


def test_running_out_of_descriptors_pauses_and_resumes(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with server.connect() as client:
        client.sendall(encode_hello(1, b"late"))
        with closing(socket.socket()) as probe:
            lowest = probe.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            server.events += server.hub.run_burst()
            assert server.hub.counters()["accept_pauses"] == 1
            for _ in range(5):
                server.hub.run_burst()
            assert server.hub.counters()["accept_pauses"] == 1, "it does not spin"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        server.run_until(lambda: len(server.events) == 1)
        assert server.events[0][0] == EVENT_HELLO
