"""Starts `chatcore serve` for a measurement: embedded backends in a fresh data folder, limits that no load reaches.

Everything else is as it ships: durable sends wait for the disk (`synchronous=FULL`), heartbeats run, counters count.
"""

import contextlib
import secrets
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jwt

from native import BUILD_FOLDER
from processes import Server, listening

MOST_CONNECTIONS = 100_000
KEPT_DESCRIPTORS = 1_200  # that the server has no connections for: 128 of its own, and limits.closing
TOKEN_SECONDS = 3600
START = "from chatcore_server.cli import main; main()"  # as the command `chatcore`, which a checkout does not have

CONFIGURATION = f"""
[authentication]
secret_file = "{{secret}}"

[limits]
connections = {MOST_CONNECTIONS}
frames_per_second = 1000000
frame_burst = 1000000
"""


def write_tokens(file: Path, secret: bytes, n: int) -> None:
    expiry = int(time.time()) + TOKEN_SECONDS
    tokens = (jwt.encode({"sub": f"p{i:06}", "exp": expiry}, secret, algorithm="HS256") for i in range(n))
    file.write_text("".join(f"{token}\n" for token in tokens))


@contextlib.contextmanager
def chatcore_server(connections: int, limits: str = "") -> Iterator[Server]:
    """A fresh server on a free port, with tokens for so many connections. `limits`: further lines of that table."""
    BUILD_FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD_FOLDER) as name:
        folder = Path(name)
        secret = secrets.token_hex(32).encode()
        (folder / "secret").write_bytes(secret)
        (folder / "configuration.toml").write_text(CONFIGURATION.format(secret=folder / "secret") + limits)
        write_tokens(folder / "tokens", secret, connections)
        command: list[str | Path] = [sys.executable, "-c", START, "serve", "--port=0", "--http-port=0"]
        command += [f"--config={folder / 'configuration.toml'}", f"--data={folder / 'data'}"]
        with listening("chatcore", command, folder / "tokens") as server:
            yield server
