"""The commands against a real server, and against what is none: what goes wrong is told in a line, and nothing is lost
silently."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from support.commands import command
from support.servers import LocalServer

pytestmark = pytest.mark.asyncio

FULL = Path("/dev/full")


@pytest.fixture
def door() -> str:
    """The commands are the same by all doors."""
    return "tcp"


def address(server: LocalServer) -> str:
    return f"127.0.0.1:{server.port}"


# ---- chat ------------------------------------------------------------------------------------------------------------


async def test_a_line_that_is_not_utf_8_is_refused_and_the_others_are_said(server: LocalServer) -> None:
    lines = b"/join lobby\n\xff\xfe\nsm\xc3\xb8rrebr\xc3\xb8d\n/msg bob \xff\n"
    ended = await command("chat", "--as", "al", "--data", server.folder, address(server), input=lines)
    assert (ended.code, ended.error) == (0, "")
    said = [line for line in ended.out.splitlines() if line.startswith(("error", "sent"))]
    assert said == ["error input bad_command the line is not UTF-8"] * 2 + ["sent room:lobby 1"]


async def test_a_text_that_the_locale_cannot_show(server: LocalServer) -> None:
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    chat = ("chat", "--as", "al", "--data", server.folder, address(server))
    ended = await command(*chat, input="/\N{RIGHTWARDS ARROW}\n".encode(), environment=ascii_only)
    assert (ended.code, ended.error) == (0, "")
    assert "error input bad_command no command /\\u2192" in ended.out


async def test_streams_that_are_closed(server: LocalServer) -> None:
    chat = f"{sys.executable} -m chatcore_server.cli chat --as al --data {server.folder} {address(server)}"
    process = await asyncio.create_subprocess_shell(f"exec {chat} <&- >&-", stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(20):
        _, error = await process.communicate()
    assert (process.returncode, error) == (0, b"")


async def test_the_token_alone_says_who_chats(server: LocalServer) -> None:
    ended = await command("chat", "--token", server.token("al"), address(server), input=b"/msg al hi\n/msg bob hi\n")
    assert (ended.code, ended.error) == (0, "")
    assert ended.out.startswith("connected al ")
    assert "error input bad_command that is you" in ended.out
    assert "sent dm:al:bob 1" in ended.out


@pytest.mark.parametrize(
    ("token", "error"),
    [
        ("no-token", "chatcore: bad_token: "),
        ("x" * 5000, "chatcore: frame_too_large: the token has 5,000 characters\n"),
    ],
)
async def test_a_token_that_the_server_refuses(server: LocalServer, token: str, error: str) -> None:
    ended = await command("chat", "--token", token, address(server))
    assert (ended.code, ended.out) == (1, "")
    assert ended.error.startswith(error)
    assert ended.error.count("\n") == 1


async def test_a_host_that_can_be_none(server: LocalServer) -> None:
    ended = await command("chat", "--as", "al", "--data", server.folder, "a" * 70)
    assert (ended.code, ended.out) == (1, "")
    assert ended.error.startswith(f"chatcore: connection_lost: cannot connect to tcp://{'a' * 70}:7400: ")
    assert ended.error.count("\n") == 1


# ---- Full disks ------------------------------------------------------------------------------------------------------

NO_ROOM = (1, "", "chatcore: cannot write to standard output: No space left on device\n")


@pytest.mark.parametrize("arguments", [["--help"], ["chat", "--help"], ["config"], ["config", "--example"]])
async def test_an_output_that_takes_nothing(arguments: list[str]) -> None:
    assert await command(*arguments, out=FULL) == NO_ROOM


async def test_an_output_that_takes_nothing_of_a_chat(server: LocalServer) -> None:
    common = ("--data", server.folder, address(server))
    assert await command("chat", "--as", "al", *common, out=FULL, input=b"/join lobby\nhi\n") == NO_ROOM
    assert await command("token", "al", "--data", server.folder, out=FULL) == NO_ROOM


async def test_a_path_that_cannot_be_looked_at() -> None:
    ended = await command("chat", "--as", "al", "--data", "x" * 300)
    assert ended == (1, "", f"chatcore: cannot use {'x' * 300}/secret: File name too long\n")


# ---- load ------------------------------------------------------------------------------------------------------------


async def test_a_load_of_few_players_has_as_many_rooms(server: LocalServer) -> None:
    ended = await command(
        *("load", "--connections", 3, "--rate", 30, "--duration", 0.2, "--data", server.folder, address(server))
    )
    assert (ended.code, ended.error) == (0, "")


async def test_a_report_is_told_even_if_its_file_takes_nothing(server: LocalServer) -> None:
    few = ("--connections", 3, "--rate", 30, "--duration", 0.2, "--json", FULL)
    ended = await command("load", *few, "--data", server.folder, address(server))
    assert "every delivery was right" in ended.out
    assert ended.code == 2
    assert ended.error == "chatcore: cannot write the report to /dev/full: No space left on device\n"


async def test_a_report_that_is_there_outlives_a_load_that_does_not_begin(server: LocalServer, tmp_path: Path) -> None:
    there, new = tmp_path / "there.json", tmp_path / "new.json"
    there.write_text("the last one")
    for report in (there, new):
        ended = await command("load", "--json", report, "--data", server.folder, "127.0.0.1:1")
        assert (ended.code, ended.out) == (2, "")
        assert "no server at 127.0.0.1:1" in ended.error
    assert there.read_text() == "the last one"
    assert not new.exists()


async def test_a_load_on_the_http_port_says_so_soon(server: LocalServer) -> None:
    begin = time.monotonic()
    wrong = f"127.0.0.1:{server.server.http_port}"
    ended = await command("load", "--connections", 2, "--duration", 1, "--data", server.folder, wrong)
    assert time.monotonic() - begin < 15
    assert (ended.code, ended.out) == (2, "")
    assert f"what is at {wrong} does not speak chatcore's protocol" in ended.error
    assert "tcp= of its ready line" in ended.error


# ---- trace and why ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"", "the server at {} has gone: the connection ended before its answer did"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "the server at {} has gone: the connection"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nnot JSON\n", "is not a chatcore server's HTTP port"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "what answers at {} is not a chatcore server's"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what answers at {} is not a chatcore server's HTTP port"),
    ],
)
async def test_what_a_trace_may_meet(server: LocalServer, answer: bytes, text: str) -> None:
    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(meet, "127.0.0.1", 0) as other:
        where = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
        for question in (("trace", "--player", "al"), ("why", "al", "room:x", 1)):
            ended = await command(*question, where, "--data", server.folder)
            assert (ended.code, ended.out) == (1, "")
            assert text.format(where) in ended.error
            assert ended.error.count("\n") == 1
