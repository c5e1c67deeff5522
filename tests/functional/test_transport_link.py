"""The hub on real transports: asyncio's and uvloop's, plain and under TLS."""

import asyncio
import datetime
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chatcore_ext.constants import FrameType
from chatcore_ext.error_codes import ErrorCode
from chatcore_ext.frame import FrameParser, encode_hello, encode_signal
from chatcore_ext.hub import EVENT_DISCONNECTED, EVENT_HELLO, Event, Hub
from chatcore_ext.log_view import LogView
from chatcore_ext.transport_link import TransportLink
from support.eventually import eventually
from support.hub_world import MAX_SERVER_BODY, encode_ping, error_of

DEADLINE = 10.0  # seconds, for what takes milliseconds
HOST = "127.0.0.1"
BIG = bytes(range(256)) * 800  # more than a TLS record, a read and a transport's high-water mark


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for HOST with its key, as one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(
        signed.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return file


class Shell:
    """The least that drives a hub on transports: one take_events and flush for all that a turn of the loop brought."""

    def __init__(self) -> None:
        self.hub = Hub(
            LogView(), on_direct=lambda *direct: None, on_control=lambda *control: None, max_pending_size=1 << 24
        )
        self.events: list[Event] = []
        self.turn_is_due = False

    def wake(self) -> None:
        if not self.turn_is_due:
            self.turn_is_due = True
            asyncio.get_running_loop().call_soon(self.turn)

    def turn(self) -> None:
        self.turn_is_due = False
        for event in self.hub.take_events():
            self.events.append(event)
            if event[0] == EVENT_HELLO:
                _, handle, _, body = event
                assert isinstance(handle, int)
                assert isinstance(body, bytes)
                assert self.hub.attach(handle, int(body) + 1, b"player-" + body) == 1
                generation = self.hub.begin_join(handle, b"room:x")
                number = self.hub.complete_join(handle, b"room:x", generation, True)
                assert self.hub.welcome(handle, b"%d" % number)
        self.hub.flush()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.parser = FrameParser(MAX_SERVER_BODY)
        self.frames: list[tuple[int, bytes]] = []

    async def next_frame(self) -> tuple[int, bytes]:
        while not self.frames:
            data = await self.reader.read(65536)
            assert data, "closed too early"
            self.frames += self.parser.feed(data)
        return self.frames.pop(0)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


def contexts(certificate: Path | None) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """The server's and the client's."""
    if certificate is None:
        return None, None
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(certificate)
    client_side = ssl.create_default_context(cafile=certificate)
    client_side.check_hostname = False
    return server_side, client_side


async def log_in(clients: list[Client]) -> int:
    """They are all in room:x. Returns its number."""
    numbers = set()
    for i, client in enumerate(clients):
        client.writer.write(encode_hello(1, b"%d" % i))
        kind, body = await client.next_frame()
        assert kind == FrameType.FRAME_WELCOME
        numbers.add(int(body))
    [number] = numbers
    return number


async def pings_in_pieces(client: Client) -> None:
    pings = [b"%08d" % i for i in range(350)]  # within the burst, in pieces of any size
    data = b"".join(map(encode_ping, pings))
    for start in range(0, len(data), 1000):
        client.writer.write(data[start : start + 1000])
        await client.writer.drain()
    assert [await client.next_frame() for _ in pings] == [(FrameType.FRAME_PONG, payload) for payload in pings]


async def signal_to_the_others(clients: list[Client], number: int) -> None:
    clients[1].writer.write(encode_signal(number, 1, b"", b"x"))
    for client in (clients[0], clients[2]):
        kind, body = await client.next_frame()
        assert kind == FrameType.FRAME_SIGNAL
        assert body.endswith(b"player-1x")


async def more_than_a_transport_takes_at_once(shell: Shell, clients: list[Client]) -> None:
    """It pauses, the hub keeps the rest, and all of it arrives."""
    for n in range(40):
        assert shell.hub.event_to_channel(b"room:x", b"%d" % n + BIG) == 3
        shell.hub.flush()
    assert shell.hub.pending_output > 0
    for client in clients:
        for n in range(40):
            assert await client.next_frame() == (FrameType.FRAME_EVENT, b"%d" % n + BIG)
    assert shell.hub.pending_output == 0


async def closed_by_name(client: Client) -> None:
    client.writer.write(b"\xff\xff\xff\xff")
    kind, body = await client.next_frame()
    assert kind == FrameType.FRAME_CLOSE
    assert error_of(body)[0] == ErrorCode.ERROR_FRAME_TOO_LARGE
    assert await client.reader.read() == b""


async def converse(certificate: Path | None) -> None:
    shell = Shell()
    server_side, client_side = contexts(certificate)
    listener = socket.create_server((HOST, 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # so that a transport has to pause
    port = listener.getsockname()[1]
    server = await asyncio.get_running_loop().create_server(
        lambda: cast(asyncio.BaseProtocol, TransportLink(shell.hub, shell.wake)), sock=listener, ssl=server_side
    )
    clients = [Client(*await asyncio.open_connection(HOST, port, ssl=client_side)) for _ in range(3)]
    number = await log_in(clients)
    await pings_in_pieces(clients[0])
    await signal_to_the_others(clients, number)
    await more_than_a_transport_takes_at_once(shell, clients)
    await closed_by_name(clients[2])
    for client in clients:
        await client.close()
    await eventually(lambda: shell.hub.counters()["connections"] == 0)
    shell.turn()
    ends = [event[4] for event in shell.events if event[0] == EVENT_DISCONNECTED]
    assert sorted(ends, key=str) == sorted([0, 0, ErrorCode.ERROR_FRAME_TOO_LARGE], key=str)
    shell.hub.check_invariants()
    server.close()
    await server.wait_closed()
    shell.hub.close()


@pytest.mark.parametrize("new_event_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "tls"])
def test_a_conversation(
    new_event_loop: Callable[[], asyncio.AbstractEventLoop], is_encrypted: bool, certificate: Path
) -> None:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(asyncio.wait_for(converse(certificate if is_encrypted else None), DEADLINE))
