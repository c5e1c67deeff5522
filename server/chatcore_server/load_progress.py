"""The progress bar of `chatcore load`: on a terminal only, and on standard error, so that the report stays clean."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chatcore_server.load_process import Progress


@contextmanager
def progress_bar(duration_s: float) -> Iterator[Callable[[Progress], None]]:
    """Gives a function that shows where the load is."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    texts = TextColumn("{task.description:<11}"), TextColumn("{task.fields[state]}")
    with Bar(texts[0], BarColumn(), TimeElapsedColumn(), texts[1], console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("connecting", total=duration_s, state="")

        def show(progress: Progress) -> None:
            state = (
                f"{progress.ready:,} connected  {progress.answered:,}/{progress.planned:,} answered"
                f"  {progress.delivered:,}/{progress.expected:,} delivered"
            )
            bar.update(task, description=progress.phase, completed=progress.done * duration_s, state=state)

        yield show
