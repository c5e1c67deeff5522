"""Who may ask /admin, what a trace may cost, and the commands `chatcore trace` and `chatcore why`."""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from chatcore_ext.constants import MAX_TRACES
from chatcore_server.authentication import data_secret
from support.following import Follower, admin_header, ask
from support.players import until
from support.servers import LocalServer, ServerProcess

pytestmark = pytest.mark.asyncio

StartServer = Callable[..., LocalServer]
MakeServer = Callable[..., ServerProcess]
ROOM = "room:lobby"


@pytest.fixture
def door() -> str:
    """HTTP is beside the doors, so one of them does."""
    return "tcp"


def follow(server: LocalServer, **query: object) -> Follower:
    return Follower(server.server.http_port, server.folder, **query)


async def refused(server: LocalServer, path: str, token: str | None, **query: object) -> tuple[int, str]:
    headers = {} if token is None else {"Authorization": token}
    status, answer = await ask(server.server.http_port, path, headers, **query)
    assert answer["message"]
    return status, answer["error"]


# ---- The token -------------------------------------------------------------------------------------------------------


async def test_only_the_token_opens(server: LocalServer) -> None:
    right = admin_header(server.folder)["Authorization"]
    for path in ("trace", "why"):
        assert await refused(server, path, None, player="a") == (401, "unauthorized")
        for wrong in ("Bearer", "Bearer ", "Basic abc", "Bearer abc", right[:-1], right + "x", right.upper()):
            status, name = await refused(server, path, wrong, player="a")
            assert (status, name) in [(401, "unauthorized"), (403, "forbidden"), (429, "too_many_failures")], wrong
    assert server.counted("admin_requests_refused") == 16
    for _ in range(10):
        status, name = await refused(server, "why", "Bearer abc")
    assert (status, name) == (429, "too_many_failures")
    assert await refused(server, "why", right) == (400, "bad_request")  # still in: nobody locks the operator out
    assert server.counted("admin_requests") == 1


async def test_a_token_that_is_no_text(server: LocalServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.server.http_port)
    writer.write(b"GET /admin/why HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xe9\xff\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 403 Forbidden\r\n"
    writer.close()
    await writer.wait_closed()


async def test_a_token_of_ones_own(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "admin-token"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    server = start_server(admin={"token_file": str(file)})
    status, _ = await refused(server, "why", "Bearer 0123456789abcdef0123456789abcdef")
    assert status == 400
    assert (await refused(server, "why", admin_header(server.folder)["Authorization"]))[0] == 403


@pytest.mark.parametrize(
    ("path", "query", "error"),
    [
        ("trace", {}, "bad_request"),
        ("trace", {"player": "x" * 65}, "bad_name"),
        ("trace", {"player": "\N{CYRILLIC SMALL LETTER A}lice"}, "bad_name"),
        ("trace", {"channel": "nowhere"}, "bad_name"),
        ("trace", {"player": "a", "bodies": "yes"}, "bad_request"),
        ("trace", {"player": "a", "message": "-1"}, "bad_request"),
        ("trace", {"player": "a", "message": "9" * 400}, "bad_request"),
        ("why", {"player": "a", "channel": ROOM}, "bad_request"),
        ("why", {"player": "a", "id": "5"}, "bad_request"),
        ("why", {"player": "a", "channel": ROOM, "id": "0"}, "bad_request"),
        ("why", {"player": "a", "channel": ROOM, "id": "\N{SUPERSCRIPT TWO}"}, "bad_request"),
        ("why", {"player": "a", "channel": ROOM, "id": str(1 << 63)}, "bad_request"),
    ],
)
async def test_bad_questions(server: LocalServer, path: str, query: dict[str, str], error: str) -> None:
    right = admin_header(server.folder)["Authorization"]
    assert await refused(server, path, right, **query) == (400, error)


# ---- Bounds ----------------------------------------------------------------------------------------------------------


async def test_so_many_traces_at_once_and_then_another_after_one_has_ended(server: LocalServer) -> None:
    right = admin_header(server.folder)["Authorization"]
    async with AsyncExitStack() as others, follow(server, player="nobody") as last:
        for i in range(MAX_TRACES - 1):
            await others.enter_async_context(follow(server, channel=f"room:{i}", player=f"player-{i}"))
        assert await refused(server, "trace", right, player="one-more") == (503, "too_many_traces")
        alice = await server.login("alice")
        await alice.client.join("room:0")
        await alice.client.send("room:0", "hello")
        assert last.lines == []
        await last.close()
        await until(lambda: server.do(lambda worker: len(worker.context.tracer._traces)) == MAX_TRACES - 1)
        async with follow(server, player="alice") as another:
            id = (await alice.client.send("room:0", "again")).id
            await another.sees("deliver", id=id)


async def test_a_follower_that_does_not_read_loses_lines_and_slows_nobody(start_server: StartServer) -> None:
    many = {"frames_per_second": 1_000_000, "frame_burst": 1_000_000}
    server = start_server(limits=many | {"player_bytes_per_second": "1GiB", "player_byte_burst": "2MiB"})
    alice = await server.login("alice")
    await alice.client.join(ROOM)
    token = admin_header(server.folder)["Authorization"]
    query = f"GET /admin/trace?channel={ROOM}&bodies=1 HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n"
    stalled = socket.socket()
    stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stalled.connect(("127.0.0.1", server.server.http_port))
    stalled.sendall(query.encode())
    await until(lambda: server.do(lambda worker: worker.context.tracer.is_on))

    def n_lost() -> int:
        return server.do(lambda worker: max(trace._n_lost for trace in worker.context.tracer._traces))

    async with follow(server, player="alice") as healthy:
        last = 0
        while n_lost() == 0:
            assert last < 50_000
            sent = await asyncio.gather(*(alice.client.send(ROOM, "x" * 3_500) for _ in range(40)))
            last = max(receipt.id for receipt in sent)
        await healthy.sees("deliver", id=last)
        assert not healthy.told("lost")
    stalled.settimeout(10)
    received = b""
    while b'"event":"lost"' not in received:
        data = stalled.recv(1 << 20)
        assert data
        received = received[-100:] + data
    stalled.close()
    await until(lambda: not server.do(lambda worker: worker.context.tracer.is_on))


# ---- The commands ----------------------------------------------------------------------------------------------------


async def start(*arguments: object) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore_server.cli", *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def end_of(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(20):
        out, error = await process.communicate()
    return process.returncode, out.decode(), error.decode()


async def test_the_command_follows_until_it_is_stopped_or_the_server_goes(make_server: MakeServer) -> None:
    server = make_server()
    await server.start()
    address = f"127.0.0.1:{server.http_port}"
    common = (address, "--data", server.folder)
    interrupted = await start("trace", "--player", "alice", *common)
    outlived = await start("trace", "--channel", ROOM, "--json", "--bodies", *common)
    await until(lambda: server.log.read_bytes().count(b"trace_started") == 2)
    assert b'"bodies":true' in server.log.read_bytes()
    chat = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "chatcore_server.cli", "chat", "--as", "alice", "--data", str(server.folder),
        f"127.0.0.1:{server.port}", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await chat.communicate(b"/join lobby\nhello\n")
    assert b"hello" in out
    assert interrupted.stdout is not None
    lines = [(await asyncio.wait_for(interrupted.stdout.readline(), 10)).decode() for _ in range(5)]
    assert "* alice#" in lines[0]
    assert "logged_in" in lines[0]
    interrupted.send_signal(signal.SIGINT)
    code, out_text, error = await end_of(interrupted)
    assert (code, error) == (0, "")
    assert "send room:lobby seq=1 5 bytes" in "".join(lines) + out_text
    code, answer, _ = await end_of(await start("why", "bob", ROOM, 1, *common))
    assert code == 0
    assert answer.startswith("not_here: bob has no session here now.")
    code, answer, _ = await end_of(await start("why", "bob", ROOM, 1, "--json", *common))
    assert json.loads(answer)["verdict"] == "not_here"
    await server.kill()
    code, out_text, error = await end_of(outlived)
    assert code == 1
    assert f"the server at {address} has" in error
    events = [json.loads(line) for line in out_text.splitlines()]
    assert [event["body"] for event in events if event["event"] == "recorded"] == ["hello"]


async def test_the_command_ends_after_seconds_and_says_what_is_wrong(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server()
    await server.start()
    address = f"127.0.0.1:{server.http_port}"
    ended = await start("trace", "--player", "alice", "--seconds", "0.2", address, "--data", server.folder)
    assert await end_of(ended) == (0, "", "")
    file = tmp_path / "token"
    file.write_text("x" * 40)
    other = tmp_path / "other"
    data_secret(other)
    wrong = [
        (("trace", address, "--data", server.folder), "whom?"),
        (("trace", "--player", "alice", "--data", tmp_path / "nowhere"), "is not a server's data folder"),
        (("trace", "--player", "alice", address, "--token-file", file), f"the token is wrong: {file} does not hold"),
        (("trace", "--player", "alice", address, "--data", other), f"wrong: {other} is another server's data folder"),
        (("why", "bob", ROOM, 1, address, "--data", other), "has an admin.token_file: give --token-file"),
        (("trace", "--player", "a b", address, "--data", server.folder), "a name is 1 to 64"),
        (("trace", "--player", "alice", "127.0.0.1:1", "--data", server.folder), "no server answers at 127.0.0.1:1"),
        (("trace", "--player", "a", ":7480", "--data", server.folder), ":7480 is no address"),
        (("trace", "--player", "a", f"127.0.0.1:{server.port}", "--data", server.folder), f":{server.port}"),
        (("why", "bob", "lobby", 1, address, "--data", server.folder), "a channel is room:NAME"),
        (("why", "bob", ROOM, 1, "127.0.0.1:1", "--data", server.folder), "no server answers"),
    ]
    for arguments, text in wrong:
        code, out, error = await end_of(await start(*arguments))
        assert (code, out) == (1, ""), arguments
        assert text in error, arguments
        assert error.count("\n") == 1
    trace = await start("trace", "--channel", ROOM, address, "--data", server.folder)
    await until(lambda: server.log.read_bytes().count(b"trace_started") == 2)
    server.send_signal(signal.SIGTERM)
    assert await server.ended() == (0, b"")
    assert await end_of(trace) == (1, "", f"chatcore: the server at {address} has ended the trace\n")
    assert '"clean":true' in server.log.read_text()
