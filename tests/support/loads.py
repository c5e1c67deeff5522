"""Loads for tests: in a thread of the test's process, where no signal and no other process is needed."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from chatcore_server.load_plan import LoadOptions, plan_shares
from chatcore_server.load_process import LoadProcess, Progress
from chatcore_server.load_report import LoadReport, merge_results


class StartsAtOnce:
    """Control of a load that nobody stops."""

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show

    def tell_ready(self) -> None:
        pass

    def start_ns(self) -> int | None:
        return time.monotonic_ns()

    def tell_progress(self, progress: Progress) -> bool:
        self._show(progress)
        return True


async def play(
    port: int, key: bytes, show: Callable[[Progress], None] = lambda progress: None, **options: Any
) -> LoadReport:
    """A load against a server on this machine, from its first connection to its report."""
    chosen = LoadOptions(port=port, **options)
    (share,) = plan_shares(chosen, run=7)
    result = await asyncio.to_thread(LoadProcess(share, chosen, key, StartsAtOnce(show)).run)
    return merge_results([result], chosen, "test")
