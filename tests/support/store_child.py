"""A process that writes to an embedded store as fast as it can and reports what became durable, until it is killed.

Lines on standard output, each in one write: `sent CHANNEL ID BODY`, `marked ID`, `blocked PLAYER`. Run with the store's
folder as the only argument.
"""

import asyncio
import itertools
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from chatcore_ext.record import encode_record
from chatcore_server.backends import Outcome
from chatcore_server.embedded import EmbeddedStore

CHANNELS = [b"room:one", b"room:two", b"room:three", b"room:four", b"room:five", b"dm:ann:bob"]
BURST = 20


def report(*lines: str) -> None:
    os.write(1, "".join(line + "\n" for line in lines).encode())


async def write(folder: Path) -> None:
    store = EmbeddedStore(folder)
    await store.open()
    room = asyncio.Semaphore(0)
    last_direct = 0

    def on_outcomes(outcomes: list[Outcome]) -> None:
        nonlocal last_direct
        lines = []
        for outcome in outcomes:
            assert outcome.code == 0
            assert isinstance(outcome.token, tuple)
            channel, body = outcome.token
            if channel == CHANNELS[-1]:
                last_direct = outcome.offset
            lines.append(f"sent {channel.decode()} {outcome.offset} {body.decode()}")
            room.release()
        report(*lines)

    store.log.on_outcomes(on_outcomes)
    changes = asyncio.create_task(change(store, lambda: last_direct))
    session, run = secrets.randbits(64), secrets.token_hex(4)
    for _ in range(BURST):
        room.release()
    for seq in itertools.count(1):
        await room.acquire()
        channel, body = CHANNELS[seq % len(CHANNELS)], f"{run}-{seq}".encode()
        value = encode_record(1, session, seq, 0, b"ann", body)
        store.log.append(channel, value, (channel, body))
        assert not changes.done()


async def change(store: EmbeddedStore, last_direct: Callable[[], int]) -> None:
    """Changes other than appends share the batches."""
    for number in itertools.count(1):
        player = f"{secrets.token_hex(4)}-{number}"
        await store.relations.block(b"ann", player.encode())
        report(f"blocked {player}")
        id = last_direct()
        if id:
            await store.sessions.mark_read(b"bob", CHANNELS[-1], id)
            report(f"marked {id}")


if __name__ == "__main__":
    uvloop.run(write(Path(sys.argv[1])))
