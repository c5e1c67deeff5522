"""kill -9 of a process that writes to the embedded store: nothing whose outcome was reported is lost.

The child (support/store_child.py) reports each outcome on a pipe; what the pipe holds when it is dead was reported.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from chatcore_ext.chain_hash import chain_hash
from chatcore_server.backends import HistoryEntry
from chatcore_server.embedded import EmbeddedStore
from support import store_child
from support.backends import entries_after

KILLS = 6
SEED = 20_261_124


def run_and_kill(folder: Path, after_s: float, after_lines: int) -> list[list[str]]:
    """Starts a child, kills it, and returns the reports that were whole."""
    child = subprocess.Popen(
        [sys.executable, "-P", store_child.__file__, str(folder)], stdout=subprocess.PIPE, env={**os.environ}
    )
    assert child.stdout is not None
    lines = [child.stdout.readline() for _ in range(after_lines)]
    assert all(lines), "the child ended by itself"
    time.sleep(after_s)  # the moment of the kill is what this test varies; nothing is waited for
    child.send_signal(signal.SIGKILL)
    lines += child.stdout.read().splitlines(keepends=True)
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    return [line.decode().split() for line in lines if line.endswith(b"\n")]


def test_nothing_reported_is_lost(tmp_path: Path) -> None:
    moments = random.Random(SEED)
    reported: list[list[str]] = []
    for _ in range(KILLS):
        reported += run_and_kill(tmp_path, moments.uniform(0, 0.02), moments.randint(1, 60))
    asyncio.run(check(tmp_path, reported))


async def check(folder: Path, reported: list[list[str]]) -> None:
    sent = [line for line in reported if line[0] == "sent"]
    marked = [line for line in reported if line[0] == "marked"]
    blocked = [line for line in reported if line[0] == "blocked"]
    assert len(sent) > KILLS
    assert marked
    assert blocked
    store = EmbeddedStore(folder)
    await store.open()
    by_channel: dict[bytes, dict[int, bytes]] = {}
    for channel in store_child.CHANNELS:
        entries = await entries_after(store.history, channel, 0, 1_000_000)
        check_chain(entries)
        by_channel[channel] = {entry.id: entry.body for entry in entries}
    for _, name, id, body in sent:
        assert by_channel[name.encode()].get(int(id)) == body.encode(), f"lost: {name} {id}"
    [found] = await store.sessions.conversations([(b"bob", [])], 9)
    assert found[0].read >= max(int(line[1]) for line in marked)
    blocks = await store.relations.blocks(b"ann")
    assert {line[1].encode() for line in blocked} <= set(blocks)
    await store.close()


def check_chain(entries: list[HistoryEntry]) -> None:
    """Whole and in order, through every kill."""
    prev = hash = 0
    for entry in entries:
        hash = chain_hash(hash, entry.id, entry.sender, entry.body)
        assert (entry.prev, entry.hash) == (prev, hash)
        prev = entry.id
    bodies = [entry.body for entry in entries]
    assert len(set(bodies)) == len(bodies), "shown twice"
