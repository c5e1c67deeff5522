"""`chatcore COMMAND` as a process that ends by itself."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

DEADLINE_S = 30.0


class Ended(NamedTuple):
    code: int
    out: str
    error: str


async def command(
    *arguments: object, input: bytes = b"", out: Path | None = None, environment: Mapping[str, str] | None = None
) -> Ended:
    """`input`: its standard input, from a pipe; `out`: a file that gets its standard output; `environment`: what is
    added to ours."""
    with out.open("wb", buffering=0) if out else contextlib.nullcontext(asyncio.subprocess.PIPE) as stdout:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chatcore_server.cli", *map(str, arguments)),
            stdin=asyncio.subprocess.PIPE,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
    async with asyncio.timeout(DEADLINE_S):
        printed, error = await process.communicate(input)
    return Ended(process.returncode or 0, (printed or b"").decode(), error.decode())
