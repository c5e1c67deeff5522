"""Connections that never log in, opened and held by a process that cares for nothing.

Its own process, which runs this file: ten thousand of its descriptors and as many of the server's are more than one may
have.
"""

import asyncio
import resource
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

FIRST_BYTES = (b"", b"\0", b"\0\0\x10\x01", b"\0\0\x10\x01chat")  # of a HELLO; that is all that ever comes


@asynccontextmanager
async def half_open_connections(port: int, n: int) -> AsyncIterator[None]:
    """They come one after the other, as fast as the process can; within, all have come."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, str(port), str(n)), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    async with asyncio.timeout(60):
        assert await process.stdout.readline() == b"open\n"
    yield
    process.stdin.close()
    async with asyncio.timeout(30):
        await process.wait()


def main(port: int, n: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held = []
    for i in range(n):
        held.append(socket.create_connection(("127.0.0.1", port)))
        try:
            held[-1].sendall(FIRST_BYTES[i % len(FIRST_BYTES)])
        except OSError:  # it has given way already
            pass
    print("open", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
