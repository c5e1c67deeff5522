"""A disk that fails in the middle and comes back: what was reported durable is there, what was refused is not."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from chatcore_server.backends import HistoryEntry
from chatcore_server.embedded import EmbeddedStore
from support import store_disk_child
from support.backends import entries_after


async def read(folder: Path) -> list[HistoryEntry]:
    store = EmbeddedStore(folder)
    await store.open()
    entries = await entries_after(store.history, store_disk_child.CHANNEL, 0, 10_000)
    await store.close()
    return entries


def test_a_failing_disk(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-P", store_disk_child.__file__, str(tmp_path)], stdout=subprocess.PIPE, timeout=30, check=True
    )
    outcomes = json.loads(child.stdout)
    durable = {id: token for token, code, _, id in outcomes if code == 0}
    refused = {token for token, code, uncertain, _ in outcomes if code != 0 and not uncertain}
    assert len(durable) >= 7
    assert len(refused) >= 1, "while it waits for the next try, the writer refuses with certainty"
    entries = asyncio.run(read(tmp_path))
    found = {entry.id: entry.body.split(b"-")[0].decode() for entry in entries}
    assert durable.items() <= found.items()
    assert not refused & set(found.values())
    assert [entry.prev for entry in entries] == [0, *(entry.id for entry in entries[:-1])]
