"""The command `chatcore`. Each command imports what it needs when it runs, so that `chatcore token` stays fast.

Knows options and texts; what the commands do is in serve.py, authentication.py and the chat modules.
"""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from chatcore.address import ServerAddress
    from chatcore_server.serve import Server
    from chatcore_server.settings import ServerSettings

_CHAT_TOKEN_S = 3600  # made anew at every log-in and before it expires
_HINT_TOKEN_S = 30 * 86_400
_HELLO_SPARE = 128  # bytes of a HELLO beside its token, at a first log-in

app = typer.Typer(
    name="chatcore",
    help="In-game chat: server, client, tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help is plain text: `dm:A:B` is no emoji and `[info]` no style
)


_Config = Annotated[Path | None, typer.Option(help="Configuration file (TOML) [$CHATCORE_CONFIG].")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any setting, as limits.hello_timeout=5s (repeatable)."),
]


@app.command()
def serve(
    config: _Config = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the chat protocol, 0 = any free one [7400].")] = None,
    http_port: Annotated[
        int | None, typer.Option(help="Port of /healthz, /readyz and /metrics, 0 = any free one [7480].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data folder, created if need be [./data].")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info (the default), warning or error.")] = None,
    assignments: _Set = None,
) -> None:
    """Run a chat server. Prints one line on standard output when it accepts connections; logs go to standard error."""
    from chatcore_server.logging import configure_logging
    from chatcore_server.serve import ServeError
    from chatcore_server.serve import serve as run
    from chatcore_server.settings import SettingsError
    from chatcore_server.settings_layers import Given, Sources

    flags = {
        "host": Given(host, "--host"),
        "port": Given(port, "--port"),
        "http_port": Given(http_port, "--http-port"),
        "data": Given(None if data is None else str(data), "--data"),
        "logging.level": Given(log_level, "--log-level"),
    }
    sources = Sources(config, assignments or (), {key: flag for key, flag in flags.items() if flag.value is not None})
    try:
        resolved = sources.resolve()
    except SettingsError as error:
        _fail(str(error))
    settings = resolved.settings
    configure_logging(settings.logging.level, settings.logging.format)
    try:
        raise typer.Exit(
            run(settings, lambda: sources.resolve().settings, lambda server: _tell_ready(server, settings))
        )
    except SettingsError as error:
        _fail(resolved.explained(error))
    except ServeError as error:
        _fail(str(error))


@app.command()
def config(
    config: _Config = None,
    assignments: _Set = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a commented configuration file with all defaults instead.")
    ] = False,
) -> None:
    """Print the effective settings and where each came from. Exit code 1: the configuration is wrong."""
    from chatcore_server.settings import SettingsError
    from chatcore_server.settings_layers import Sources
    from chatcore_server.settings_text import effective, effective_as_json
    from chatcore_server.settings_text import example as example_file

    if example:
        print(example_file(), end="")
        return
    try:
        resolved = Sources(config, assignments or ()).resolve()
    except SettingsError as error:
        _fail(str(error))
    print(effective_as_json(resolved) if json else effective(resolved))


def _tell_ready(server: "Server", settings: "ServerSettings") -> None:
    doors = [f" {name}={_address(settings.host, port)}" for name, port in server.ports.items() if name != "tcp"]
    tcp, http = _address(settings.host, server.port), _address(settings.http_host, server.http_port)
    print(f"chatcore ready tcp={tcp} http={http}{''.join(doors)}", flush=True)
    if sys.stderr.isatty():
        print(_what_next(server.port, settings), file=sys.stderr, flush=True)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"  # an IPv6 address, RFC 3986


def _what_next(port: int, settings: "ServerSettings") -> str:
    """Commands to copy into two other terminals, spelled so that they work there as they stand."""
    from chatcore_server.authentication import data_secret, development_token_key, make_token

    command = sys.argv[0]
    address = _address(settings.host, port)
    lines = [f"The data folder is {Path(settings.data).resolve()}. In two other terminals in this folder type:", ""]
    lines += [f"    {command} chat --as {player} --data {settings.data} {address}" for player in ("alice", "bob")]
    if not settings.authentication.is_configured:
        token = make_token(development_token_key(data_secret(Path(settings.data))), "carol", _HINT_TOKEN_S)
        lines += [
            "",
            "A client of your own can log in as carol with this token, valid for 30 days:",
            "",
            f"    {token}",
        ]
    return "\n".join(["", *lines, "", "Ctrl-C stops the server.", ""])


@app.command()
def token(
    player: Annotated[str, typer.Argument(help="The player's name.")],
    data: Annotated[Path, typer.Option(help="Data folder whose development secret signs.")] = Path("data"),
    secret_file: Annotated[Path | None, typer.Option(help="HS256 secret that signs instead.")] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="Private key (PEM: Ed25519, P-256 or RSA) that signs instead.")
    ] = None,
    kid: Annotated[str | None, typer.Option(help="The key's name in the server's jwks_file.")] = None,
    audience: Annotated[str, typer.Option(help="What the token names in `aud`.")] = "",
    issuer: Annotated[str, typer.Option(help="What the token names in `iss`.")] = "",
    expires: Annotated[str, typer.Option(help="Lifetime: 90s, 30m, 12h or 7d.")] = "30d",
    channel: Annotated[list[str] | None, typer.Option(help="Only these channels may be joined (repeatable).")] = None,
) -> None:
    """Print a token with which PLAYER can log in."""
    from chatcore.errors import BadName
    from chatcore_ext.constants import DEFAULT_MAX_FRAME_SIZE
    from chatcore_server.authentication import (
        MAX_GRANTS,
        SECRET_NAME,
        data_secret,
        development_token_key,
        make_token,
    )
    from chatcore_server.keys import Key, read_private_key, read_secret_file
    from chatcore_server.settings import SettingsError

    if secret_file and key_file:
        _fail("a token has one signature: give --secret-file or --key-file")
    if channel and len(channel) > MAX_GRANTS:
        _fail(f"a token names at most {MAX_GRANTS} channels, not {len(channel)}: use fewer --channel")
    try:
        if key_file:
            key = read_private_key(key_file)
        elif secret_file:
            key = Key("HS256", read_secret_file(secret_file))
        else:
            is_new = not (data / SECRET_NAME).exists()
            key = Key("HS256", development_token_key(data_secret(data)))
            if is_new:
                print(f"chatcore: no server has used {data} so far; its secret was made now", file=sys.stderr)
        key = key._replace(kid=kid)
        made = make_token(key, player, _seconds(expires), channel or None, audience=audience, issuer=issuer)
    except SettingsError as error:
        _fail(str(error))
    except BadName as error:
        _fail(error.message)
    if len(made) > DEFAULT_MAX_FRAME_SIZE - _HELLO_SPARE:
        print(
            f"chatcore: this token has {len(made):,} characters: a server takes it only if its limits.frame_size is"
            f" higher than the default of {DEFAULT_MAX_FRAME_SIZE:,} bytes, or it names fewer --channel",
            file=sys.stderr,
        )
    print(made)


@app.command()
def chat(
    address: Annotated[
        str, typer.Argument(help="HOST:PORT of the server, tls://HOST:PORT, ws://HOST:PORT/ or wss://HOST:PORT/.")
    ] = "127.0.0.1:7400",
    player: Annotated[str, typer.Option("--as", help="The player's name; with --token, the token says it.")] = "",
    token: Annotated[str | None, typer.Option(help="The player's token; without it, --data makes one.")] = None,
    data: Annotated[Path, typer.Option(help="Data folder of a server on this machine.")] = Path("data"),
    audience: Annotated[str, typer.Option(help="What the tokens that --data makes name in `aud`.")] = "",
    issuer: Annotated[str, typer.Option(help="What they name in `iss`.")] = "",
    ca: Annotated[
        Path | None, typer.Option(help="Who signs the server's certificate (PEM), if the system does not know them.")
    ] = None,
) -> None:
    """Chat on a terminal. With standard input from elsewhere: commands in, one line per event out."""
    import asyncio
    import ssl

    from chatcore.errors import ChatError
    from chatcore_ext.error_codes import ErrorCode
    from chatcore_server.authentication import data_secret, development_token_key, make_token
    from chatcore_server.chat import chat as run
    from chatcore_server.settings import SettingsError

    _check_who(address, player, token, data)

    def new_token() -> str:
        if token is not None:
            return token
        key = development_token_key(data_secret(data))
        return make_token(key, player, _CHAT_TOKEN_S, audience=audience, issuer=issuer)

    try:
        encryption = ssl.create_default_context(cafile=ca) if ca else None
    except OSError as error:
        _fail(f"{ca} holds no certificates: {error}")
    try:
        asyncio.run(run(address, new_token, encryption))
    except ChatError as error:
        too_large = token is not None and error.code == ErrorCode.ERROR_FRAME_TOO_LARGE
        _fail(f"{error}: the token has {len(token or ''):,} characters" if too_large else str(error))
    except (SettingsError, ValueError) as error:
        _fail(str(error))


def _check_who(address: str, player: str, token: str | None, data: Path) -> None:
    """Either the token says who it is, or --as does and --data proves it."""
    from chatcore_server.authentication import SECRET_NAME, claimed_player

    if token is None:
        if not player:
            _fail(f"who are you? chatcore chat --as alice {address}")
        if not (data / SECRET_NAME).exists():
            _fail(f"{data} is not a server's data folder. Name it with --data, or give a --token")
        return
    if not token:
        _fail("--token is empty. Give it the player's token, or leave it out for --data to make one")
    claimed = claimed_player(token).decode()
    if player and claimed and claimed != player:
        _fail(f"the token is {ascii(claimed)[1:-1]}'s, not {player}'s. Leave out --as, or give a token of {player}")


def _load_key(data: Path, secret_file: Path | None) -> bytes:
    """What signs the load's tokens. Raises LoadError, SettingsError."""
    from chatcore_server.authentication import SECRET_NAME, data_secret, development_token_key
    from chatcore_server.keys import read_secret_file
    from chatcore_server.load_plan import LoadError

    if secret_file:
        return read_secret_file(secret_file)
    if not (data / SECRET_NAME).exists():
        raise LoadError(f"{data} is not a server's data folder. Name it with --data, or a --secret-file")
    return development_token_key(data_secret(data))


@app.command()
def load(
    address: Annotated[str, typer.Argument(help="HOST:PORT of the server.")] = "127.0.0.1:7400",
    data: Annotated[Path, typer.Option(help="Data folder whose development secret signs the tokens.")] = Path("data"),
    secret_file: Annotated[Path | None, typer.Option(help="HS256 secret that signs instead.")] = None,
    audience: Annotated[str, typer.Option(help="What the tokens name in `aud`.")] = "",
    issuer: Annotated[str, typer.Option(help="What the tokens name in `iss`.")] = "",
    connections: Annotated[int, typer.Option(help="Players, each with one connection.")] = 100,
    rooms: Annotated[
        int | None, typer.Option(help="The players are spread over them. [default: 10, or one for each player]")
    ] = None,
    rate: Annotated[float, typer.Option(help="Messages per second, of all players together.")] = 100.0,
    duration: Annotated[float, typer.Option(help="Seconds of sending.")] = 10.0,
    ramp: Annotated[float, typer.Option(help="Seconds over which the connections are opened, 0 = no waiting.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same players, rooms and senders.")] = 1,
    body_bytes: Annotated[int, typer.Option(help="Size of a message.")] = 64,
    private_share: Annotated[float, typer.Option(help="Part of the messages that is private, 0 to 1.")] = 0.0,
    storm: Annotated[bool, typer.Option("--storm", help="Half-way, all disconnect and return at once.")] = False,
    processes: Annotated[int, typer.Option(help="Processes that play the load.")] = 1,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file, too.")] = None,
) -> None:
    """Load a server and check every delivery. Exit code 1: something was lost, doubled, out of order or changed; 2: the
    load could not be run."""
    from chatcore_server.load import run_load
    from chatcore_server.load_plan import DEFAULT_ROOMS, LoadError, LoadOptions
    from chatcore_server.load_progress import progress_bar
    from chatcore_server.load_report import as_text
    from chatcore_server.settings import SettingsError

    try:
        server = _tcp_door(address)
        if json:
            _check_writable(json)
        options = LoadOptions(
            host=server.host,
            port=server.port,
            connections=connections,
            rooms=min(DEFAULT_ROOMS, max(connections, 1)) if rooms is None else rooms,
            rate=rate,
            duration_s=duration,
            ramp_s=ramp,
            seed=seed,
            body_bytes=body_bytes,
            private_share=private_share,
            storm=storm,
            processes=processes,
            audience=audience,
            issuer=issuer,
        )
        with progress_bar(duration) as show:
            report = run_load(options, _load_key(data, secret_file), show)
    except (LoadError, SettingsError) as error:
        _fail(str(error), 2)
    except OSError as error:
        _fail(error.strerror or str(error), 2)
    print(as_text(report), flush=True)
    if json:
        _write_report(json, report.as_json())
    raise typer.Exit(report.exit_code)


def _write_report(file: Path, report: bytes) -> None:
    try:
        file.write_bytes(report)
    except OSError as error:
        _fail(f"cannot write the report to {file}: {error.strerror}", 2)


def _tcp_door(address: str) -> "ServerAddress":
    """Raises LoadError."""
    from chatcore.address import parse_address
    from chatcore_server.load_plan import LoadError

    try:
        server = parse_address(address)
    except ValueError as error:
        raise LoadError(str(error)) from None
    if server.scheme != "tcp":
        raise LoadError(f"{address}: the load comes in by the TCP door: name its HOST:PORT")
    return server


def _check_writable(report: Path) -> None:
    """Before the load, and not after it. Raises LoadError."""
    from chatcore_server.load_plan import LoadError

    try:
        is_new = not report.exists()
        if is_new or report.is_file():  # a pipe is opened once
            report.open("ab").close()
        elif report.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        if is_new:
            report.unlink()
    except OSError as error:
        raise LoadError(
            f"cannot write the report to {report}: {error.strerror}. Name another file with --json"
        ) from None


_HTTP_ADDRESS = "HOST:PORT of the server's HTTP."
_TOKEN_FILE = "File with the server's admin.token_file token; without it, --data makes the token."


@app.command()
def trace(
    address: Annotated[str, typer.Argument(help=_HTTP_ADDRESS)] = "127.0.0.1:7480",
    player: Annotated[str, typer.Option(help="Follow this player, here or not.")] = "",
    channel: Annotated[str, typer.Option(help="Follow this channel; with --player: that player in it.")] = "",
    message: Annotated[int | None, typer.Option(help="Only what is about the message with this id.", min=1)] = None,
    bodies: Annotated[bool, typer.Option("--bodies", help="Show what players say. The server logs it.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    seconds: Annotated[float, typer.Option(help="End after so many, 0 = at Ctrl-C.", min=0)] = 0.0,
    data: Annotated[Path, typer.Option(help="Data folder of a server on this machine.")] = Path("data"),
    token_file: Annotated[Path | None, typer.Option(help=_TOKEN_FILE)] = None,
) -> None:
    """Follow a player or a channel of a running server: one line for each frame and decision. Exit code 1: the server
    has gone."""
    import asyncio

    from chatcore_server.trace_client import TraceError, follow, readable

    _check_text(player, channel)
    if not player and not channel:
        _fail("whom? chatcore trace --player alice, chatcore trace --channel room:lobby, or both")
    query = {"player": player, "channel": channel, "bodies": str(int(bodies)), "message": str(message or "")}
    token = _admin_token(data, token_file)

    def show(line: dict[str, Any], raw: str) -> None:
        try:
            print(raw if json else readable(line), flush=True)
        except BrokenPipeError:  # whoever read it has seen enough, as `head` has
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its end
            raise KeyboardInterrupt from None

    try:
        asyncio.run(follow(address, token, {key: value for key, value in query.items() if value}, show, seconds))
    except TraceError as error:
        _fail_trace(error, data, token_file)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


@app.command()
def why(
    player: Annotated[str, typer.Argument(help="Who has not seen it.")],
    channel: Annotated[str, typer.Argument(help="room:NAME, group:NAME or dm:A:B.")],
    id: Annotated[int, typer.Argument(help="The message's id.", min=1)],
    address: Annotated[str, typer.Argument(help=_HTTP_ADDRESS)] = "127.0.0.1:7480",
    json: Annotated[bool, typer.Option("--json", help="The answer as JSON.")] = False,
    data: Annotated[Path, typer.Option(help="Data folder of a server on this machine.")] = Path("data"),
    token_file: Annotated[Path | None, typer.Option(help=_TOKEN_FILE)] = None,
) -> None:
    """Say why PLAYER has not seen a message, as far as a running server knows."""
    import asyncio

    import msgspec

    from chatcore_server.trace_client import TraceError, ask_why, readable_answer

    _check_text(player, channel)
    query = {"player": player, "channel": channel, "id": str(id)}
    try:
        answer = asyncio.run(ask_why(address, _admin_token(data, token_file), query))
    except TraceError as error:
        _fail_trace(error, data, token_file)
    print(msgspec.json.encode(answer).decode() if json else readable_answer(answer))


def _admin_token(data: Path, token_file: Path | None) -> str:
    from chatcore_server.authentication import SECRET_NAME, admin_token, data_secret, read_admin_token
    from chatcore_server.settings import SettingsError

    if not token_file and not (data / SECRET_NAME).exists():
        _fail(f"{data} is not a server's data folder. Name it with --data, or give a --token-file")
    try:
        return read_admin_token(token_file) if token_file else admin_token(data_secret(data))
    except SettingsError as error:
        _fail(str(error))


def _check_text(*names: str) -> None:
    """A URL has no place for bytes that are no text."""
    for name in names:
        if not name.isascii():
            _fail(f"{name!a} is nobody's name and no channel's: those are ASCII")


def _fail_trace(error: Exception, data: Path, token_file: Path | None) -> NoReturn:
    from chatcore_server.trace_client import WrongToken

    if not isinstance(error, WrongToken):
        _fail(str(error))
    if token_file:
        _fail(f"{error}: {token_file} does not hold that of the server's admin.token_file")
    _fail(f"{error}: {data} is another server's data folder, or the server has an admin.token_file: give --token-file")


def _seconds(text: str) -> int:
    """Raises typer.BadParameter unless it is a duration of at least a second."""
    from chatcore_server.units import parse_duration

    try:
        seconds = parse_duration(text) // 1000
    except ValueError as problem:
        raise typer.BadParameter(f"a lifetime {problem}", param_hint="--expires") from None
    if seconds == 0:
        raise typer.BadParameter("a lifetime must be at least a second", param_hint="--expires")
    return seconds


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"chatcore: {message}", file=sys.stderr)
    raise typer.Exit(code)


def _complete_streams() -> None:
    """One that was closed by who started this is as /dev/null is. A character of somebody's message that the locale's
    encoding lacks is escaped, not an error."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # until the process ends
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Commands name their own troubles; what is left is a path that cannot be looked at, or an output that cannot be
    written, as on a full disk."""
    _complete_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains of what is still in its buffer
        what = f"use {error.filename}" if error.filename else "write to standard output"
        print(f"chatcore: cannot {what}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
