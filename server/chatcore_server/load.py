"""`chatcore load`: starts the processes of a load, stops them, and adds up what they found.

Knows pipes and signals; what a process does is in load_process.py, what counts as an error in load_report.py.
"""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection, wait
from types import FrameType

from chatcore_server.load_plan import LoadError, LoadOptions, Share, plan_shares
from chatcore_server.load_process import LoadProcess, Progress
from chatcore_server.load_report import LoadReport, ShareResult, merge_results

SPARE_DESCRIPTORS = 64  # of a process, beside its connections
START_DELAY_NS = 100_000_000  # so that the word reaches all processes before their first message is due
_POLL_S = 0.1

ShowProgress = Callable[[Progress], None]


def run_load(options: LoadOptions, key: bytes, show: ShowProgress = lambda progress: None) -> LoadReport:
    """Run it to its end, or to the first SIGINT. `key`: signs the players' tokens (HS256).

    Main thread only. Raises LoadError if the load cannot be run as asked.
    """
    shares = plan_shares(options, int.from_bytes(os.urandom(8), "big"))
    raise_descriptor_limit(max(len(share.clients) for share in shares) + SPARE_DESCRIPTORS)
    with _interruptible() as interrupted:
        if len(shares) == 1:
            results = [LoadProcess(shares[0], options, key, _Alone(show, interrupted)).run()]
        else:
            results = _Team(shares, options, key, show, interrupted).run()
    return merge_results(results, options, _version())


def raise_descriptor_limit(needed: int) -> None:
    """Raises LoadError if this process may not have so many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (needed, hard if hard == resource.RLIM_INFINITY else max(hard, needed))
        )
    except (ValueError, OSError):  # only a privileged user may raise the hard limit
        raise LoadError(
            f"{needed - SPARE_DESCRIPTORS} connections in one process need {needed} open files, and the hard limit"
            f" is {hard}: raise it (`ulimit -Hn`), or use more --processes or fewer --connections"
        ) from None


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether SIGINT has come. A second one interrupts as ever."""
    came = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: came
    finally:
        signal.signal(signal.SIGINT, before)


class _Alone:
    """Control of the only process, which is this one."""

    def __init__(self, show: ShowProgress, interrupted: Callable[[], bool]) -> None:
        self._show = show
        self._interrupted = interrupted

    def tell_ready(self) -> None:
        pass

    def start_ns(self) -> int | None:
        return time.monotonic_ns() + START_DELAY_NS

    def tell_progress(self, progress: Progress) -> bool:
        self._show(progress)
        return not self._interrupted()


# ---- Several processes -----------------------------------------------------------------------------------------------

_READY = "ready"
_STOP = "stop"


class _Piped:
    """Control of a child process: the parent is at the other end of the pipe."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._start_ns: int | None = None
        self._stopped = False

    def _listen(self) -> None:
        while self._pipe.poll():
            word = self._pipe.recv()
            if word == _STOP:
                self._stopped = True
            else:
                self._start_ns = word

    def tell_ready(self) -> None:
        self._pipe.send(_READY)

    def start_ns(self) -> int | None:
        self._listen()
        return self._start_ns

    def tell_progress(self, progress: Progress) -> bool:
        self._pipe.send(progress)
        self._listen()
        return not self._stopped


def _run_child(pipe: Connection, share: Share, options: LoadOptions, key: bytes) -> None:
    """The main function of a child. What it sends last is a result or a LoadError's text."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent says what to do
    try:
        raise_descriptor_limit(len(share.clients) + SPARE_DESCRIPTORS)
        pipe.send(LoadProcess(share, options, key, _Piped(pipe)).run())
    except LoadError as error:
        pipe.send(error)
    except (BrokenPipeError, EOFError):
        pass  # the parent is gone, and nobody is left to tell


class _Team:
    """The children of a load, each with its pipe."""

    def __init__(
        self,
        shares: list[Share],
        options: LoadOptions,
        key: bytes,
        show: ShowProgress,
        interrupted: Callable[[], bool],
    ) -> None:
        self._show = show
        self._interrupted = interrupted
        self._context = multiprocessing.get_context("spawn")
        self._progress: dict[Connection, Progress] = {}
        self._results: dict[Connection, ShareResult] = {}
        self._n_ready = 0
        self._stopping = False
        self._children = []
        self._pipes: list[Connection] = []
        for share in shares:
            ours, theirs = self._context.Pipe()
            child = self._context.Process(target=_run_child, args=(theirs, share, options, key), daemon=True)
            self._children.append(child)
            self._pipes.append(ours)
            child.start()
            theirs.close()

    def run(self) -> list[ShareResult]:
        try:
            while len(self._results) < len(self._pipes):
                for pipe in wait([pipe for pipe in self._pipes if pipe not in self._results], _POLL_S):
                    assert isinstance(pipe, Connection)
                    self._take(pipe)
                if self._interrupted() and not self._stopping:
                    self._stopping = True
                    self._tell_all(_STOP)
            return [self._results[pipe] for pipe in self._pipes]
        finally:
            for child in self._children:
                child.terminate() if len(self._results) < len(self._pipes) else child.join()

    def _take(self, pipe: Connection) -> None:
        try:
            word = pipe.recv()
        except EOFError:
            raise LoadError("a process of the load has died: see its message above") from None
        if isinstance(word, LoadError):
            raise word
        if isinstance(word, ShareResult):
            self._results[pipe] = word
        elif isinstance(word, Progress):
            self._progress[pipe] = word
            self._show(_together(list(self._progress.values())))
        elif word == _READY:
            self._n_ready += 1
            if self._n_ready == len(self._pipes):
                self._tell_all(time.monotonic_ns() + START_DELAY_NS)

    def _tell_all(self, word: str | int) -> None:
        for pipe in self._pipes:
            try:
                pipe.send(word)
            except OSError:
                pass  # it has just ended; _take hears of it


def _together(parts: list[Progress]) -> Progress:
    total = Progress(parts[0].phase, done=min(part.done for part in parts))
    for part in parts:
        total.ready += part.ready
        total.planned += part.planned
        total.answered += part.answered
        total.expected += part.expected
        total.delivered += part.delivered
    return total


def _version() -> str:
    try:
        return version("chatcore")
    except PackageNotFoundError:  # run from source roots that are not installed
        return "0"
