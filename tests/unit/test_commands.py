"""The command line without a server: help that is shown as it is written, and wrong input that is told by a plain word
before anything begins."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner, Result

from chatcore_server.authentication import MAX_GRANTS, data_secret, development_token_key, make_token
from chatcore_server.cli import app


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def words(text: str) -> str:
    return " ".join(text.split())


def help_texts() -> Iterator[tuple[str, str]]:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        yield name, command.help
        yield from ((name, parameter.help) for parameter in command.params if parameter.name != "help")


@pytest.mark.parametrize(("name", "text"), list(help_texts()))
def test_help_is_shown_as_it_is_written(name: str, text: str) -> None:
    assert words(text) in words(run(name, "--help").stdout)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A server's data folder."""
    data_secret(tmp_path / "data")
    return tmp_path / "data"


CHANNELS = [word for i in range(MAX_GRANTS + 1) for word in ("--channel", f"room:{i}")]
WRONG: list[tuple[list[object], int, str]] = [
    (["chat", "127.0.0.1:5"], 1, "chatcore chat --as alice 127.0.0.1:5"),
    (["chat", "--as", "al", "--token", ""], 1, "--token is empty"),
    (["chat", "--as", "al", "127.0.0.1:abc"], 1, "127.0.0.1:abc is no address of a server: it is HOST:PORT"),
    (["chat", "--as", "al", "[::1:7400"], 1, "[::1:7400 is no address of a server: it is HOST:PORT"),
    (["token", "al", *CHANNELS], 1, f"a token names at most {MAX_GRANTS} channels, not {MAX_GRANTS + 1}"),
    (["trace", "--player", "\udcff"], 1, r"'\udcff' is nobody's name"),
    (["trace", "--channel", "room:\xfc"], 1, r"'room:\xfc' is nobody's name and no channel's"),
    (["why", "\udcff", "room:x", 1], 1, r"'\udcff' is nobody's name"),
    (["trace", "--player", "al", "127.0.0.1:99999"], 1, "127.0.0.1:99999 is no address"),
    (["trace", "--player", "al", "http://127.0.0.1:7480"], 1, "named by HOST:PORT alone"),
    (["trace", "--player", "al", "\udcff:80"], 1, "there can be no host of this name"),
    (["why", "al", "room:x", 1, "\udcff:80"], 1, "there can be no host of this name"),
    (["load", "--duration", "inf"], 2, "--duration is a finite number of seconds above 0"),
    (["load", "--ramp", "nan"], 2, "--ramp is a finite number of seconds, 0 or more"),
    (["load", "--rate", "inf"], 2, "--rate is a finite number above 0"),
    (["load", "--connections", "0"], 2, "--connections is 1 to"),
    (["load", "--connections", "5", "--processes", 6], 2, "--processes is 1 to --rooms, which is 5"),
    (["load", "--json", "/"], 2, "cannot write the report to /: it is a folder"),
    (["load", "--json", "/proc/nowhere/report"], 2, "cannot write the report to /proc/nowhere/report: No such file"),
    (["load", "--json", "x" * 300], 2, ": File name too long. Name another file"),
    (["load", "127.0.0.1:abc"], 2, "127.0.0.1:abc is no address of a server"),
    (["load", "wss://127.0.0.1:1"], 2, "by the TCP door"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), WRONG)
def test_wrong_input_is_one_line_that_says_what_to_do(
    arguments: list[object], code: int, text: str, data: Path
) -> None:
    result = run(*arguments, "--data", data)
    assert (result.exit_code, result.stdout) == (code, "")
    assert re.fullmatch(r"chatcore: [^\n]+\n", result.stderr)
    assert text in result.stderr


def test_the_token_says_who_it_is_and_nobody_else_does(data: Path) -> None:
    token = make_token(development_token_key(data_secret(data)), "alice", 60)
    result = run("chat", "--as", "bob", "--token", token)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "chatcore: the token is alice's, not bob's. Leave out --as, or give a token of bob\n"


def test_a_token_that_only_some_servers_take_is_made_with_a_warning(data: Path) -> None:
    channels = [word for i in range(MAX_GRANTS) for word in ("--channel", f"room:{'x' * 50}{i}")]
    result = run("token", "al", "--data", data, *channels)
    assert result.exit_code == 0
    assert "limits.frame_size" in result.stderr
    assert run("token", "al", "--data", data, "--channel", "room:x").stderr == ""


def test_a_secret_that_cannot_be_made_was_not_made() -> None:
    result = run("token", "al", "--data", "/proc/nowhere")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("chatcore: cannot use the secret /proc/nowhere/secret: ")
