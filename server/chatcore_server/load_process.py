"""One process of a load, from the first connection to its counts: ramp, run, storm, drain.

Drives the connections and the clock; knows no options' texts, no report and no other process (load.py does).
"""

import time
from typing import Protocol

import msgspec

from chatcore_server.load_connections import NS_PER_S, LoadConnections
from chatcore_server.load_plan import LoadError, LoadOptions, Share
from chatcore_server.load_report import ShareResult, StormResult

HANDSHAKES_AT_ONCE = 256  # while the load is set up; a storm has no bound, that is its point
RAMP_PATIENCE_S = 20.0  # without one more connection that is ready
SILENCE_PATIENCE_S = 5.0  # without a single frame: a server answers HELLO at once, if only to refuse it
DRAIN_S = 30.0  # after the last message came due
STOPPED_DRAIN_S = 10.0  # after an interrupt: somebody is waiting
QUIET_S = 2.0  # all is answered and nothing more comes: what is missing is lost
LINGER_S = 0.2  # after the last expected delivery, for those that come twice
GOODBYE_S = 2.0
_TURN_MS = 50
_PROGRESS_S = 0.1


class Progress(msgspec.Struct):
    """Where a process is. `done` is 0 to 1 of the scheduled time."""

    phase: str = "connecting"
    ready: int = 0
    planned: int = 0
    answered: int = 0
    expected: int = 0
    delivered: int = 0
    done: float = 0.0


class Control(Protocol):
    """Who starts and stops a process of a load."""

    def tell_ready(self) -> None: ...
    def start_ns(self) -> int | None:
        """CLOCK_MONOTONIC; None: not all are ready. Asked again and again."""

    def tell_progress(self, progress: Progress) -> bool:
        """False: stop early."""


class LoadProcess:
    def __init__(self, share: Share, options: LoadOptions, key: bytes, control: Control) -> None:
        self._share = share
        self._options = options
        self._control = control
        self._connections = LoadConnections(share, options, key)
        self._clients = self._connections.clients
        self._progress = Progress()
        self._progress_at = 0.0
        self._stopped = False
        self._start_ns = 0
        self._storm: StormResult | None = None
        self._away: set[int] = set()  # in the storm, and not back
        self._storm_at = 0.0
        self._connections.on_ready = self._on_ready

    def run(self) -> ShareResult:
        """Raises LoadError if the load cannot be set up."""
        try:
            connect_s = self._ramp()
            run_s = self._play() if not self._stopped else 0.0
            result = self._result(connect_s, run_s)
            self._leave()
            return result
        finally:
            self._connections.close()

    def _turn(self, phase: str) -> None:
        self._connections.turn(_TURN_MS)
        now = time.monotonic()
        if now - self._progress_at < _PROGRESS_S:
            return
        self._progress_at = now
        planned, answered, expected, delivered = self._clients.progress()
        done = 0.0
        if self._start_ns:
            done = min(1.0, max(0.0, (self._clients.now_ns() - self._start_ns) / NS_PER_S / self._options.duration_s))
        progress = Progress(phase, self._clients.n_ready, planned, answered, expected, delivered, done)
        if not self._control.tell_progress(progress):
            self._stopped = True
            self._clients.stop()

    # ---- Ramp --------------------------------------------------------------------------------------------------------

    def _ramp(self) -> float:
        """Returns the seconds until all were ready. One goes first: if it cannot get in, nobody is troubled more."""
        n_clients = self._clients.n_clients
        begin = last_success = time.monotonic()
        n_opened = n_ready = 0
        while self._clients.n_ready < n_clients and not self._stopped:
            now = time.monotonic()
            if self._clients.n_ready > n_ready:
                n_ready, last_success = self._clients.n_ready, now
            elif now - begin > SILENCE_PATIENCE_S and not self._connections.has_answered:
                raise LoadError(
                    f"what is at {self._options.host}:{self._options.port} does not speak chatcore's protocol:"
                    f" {self._connections.last_trouble}. Name the server's TCP door, the tcp= of its ready line"
                )
            elif now - last_success > RAMP_PATIENCE_S + self._options.ramp_s / n_clients:
                raise LoadError(
                    f"only {n_ready} of {n_clients} connections could be set up: {self._connections.last_trouble}."
                    " If it is a limit of this address, add the address to the server's limits.unlimited_addresses"
                )
            allowed = self._allowed(now - begin, n_ready)
            while n_opened < allowed and self._connections.n_greeting < HANDSHAKES_AT_ONCE:
                self._connections.open(n_opened)
                n_opened += 1
            self._turn("connecting")
        connect_s = time.monotonic() - begin
        self._connections.is_starting = False
        return connect_s

    def _allowed(self, elapsed_s: float, n_ready: int) -> int:
        """How many connections may have been opened by now."""
        if n_ready == 0:
            return 1
        if elapsed_s >= self._options.ramp_s:
            return self._clients.n_clients
        return max(1, int(self._clients.n_clients * elapsed_s / self._options.ramp_s))

    # ---- Run ---------------------------------------------------------------------------------------------------------

    def _play(self) -> float:
        self._control.tell_ready()
        while not self._stopped:
            start_ns = self._control.start_ns()
            if start_ns is not None:
                break
            self._turn("waiting")
        else:
            return 0.0
        self._start_ns = start_ns
        options = self._options
        seed = options.seed * 1_000 + self._share.index
        self._clients.start(start_ns, self._share.rate, self._share.n_messages, options.private_share, seed)
        storm_ns = start_ns + int(options.duration_s / 2 * NS_PER_S) if options.storm else None
        end_ns = start_ns + int(options.duration_s * NS_PER_S)
        while not self._stopped and (self._clients.n_scheduled or self._clients.now_ns() < end_ns):
            if storm_ns is not None and self._clients.now_ns() >= storm_ns:
                storm_ns = None
                self._begin_storm()
            self._turn("storm" if self._away else "running")
        self._drain()
        return (self._clients.now_ns() - start_ns) / NS_PER_S

    def _begin_storm(self) -> None:
        """Everybody is cut off, and everybody comes back at once."""
        n_clients = self._clients.n_clients
        self._away = {index for index in range(n_clients) if self._clients.is_open(index)}
        self._storm = StormResult(connections=len(self._away))
        self._storm_at = time.monotonic()
        for index in self._away:
            self._connections.drop(index)
        for index in range(n_clients):
            self._connections.open(index)

    def _on_ready(self, index: int, resumed: bool) -> None:
        if index not in self._away or self._storm is None:
            return
        self._away.discard(index)
        self._storm.returned += 1
        self._storm.resumed += resumed
        self._storm.seconds = round(time.monotonic() - self._storm_at, 3)
        self._storm.per_s = round(self._storm.returned / self._storm.seconds, 1) if self._storm.seconds else 0.0

    # ---- Drain -------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Until everything is answered and delivered, nothing more comes, or the patience ends."""
        end = time.monotonic() + (STOPPED_DRAIN_S if self._stopped else DRAIN_S)
        changed_at, before = time.monotonic(), (0, 0, 0, 0)
        while time.monotonic() < end:
            self._turn("draining")
            state = self._clients.progress()
            if state != before or not self._is_settled(state):
                before, changed_at = state, time.monotonic()
                continue
            quiet_s = time.monotonic() - changed_at
            if quiet_s >= (LINGER_S if state[2] == state[3] else QUIET_S):
                return

    def _is_settled(self, state: tuple[int, int, int, int]) -> bool:
        """All is answered, and nobody is on the way back."""
        planned, answered, _, _ = state
        is_back = self._connections.absent == self._connections.n_given_up
        return planned == answered and is_back and not self._connections.is_healing

    def _leave(self) -> None:
        self._connections.say_goodbye()
        end = time.monotonic() + GOODBYE_S
        while not self._connections.is_all_closed and time.monotonic() < end:
            self._clients.turn(_TURN_MS)

    def _result(self, connect_s: float, run_s: float) -> ShareResult:
        connections = self._connections
        return ShareResult(
            counts=self._clients.counts(),
            refused=self._clients.refused_codes(),
            histograms=self._clients.histograms(),
            slowest_ns=self._clients.slowest_ns(),
            closed=dict(connections.closed),
            disconnected=connections.disconnected,
            reconnected=connections.reconnected,
            new_sessions=connections.new_sessions,
            connections=self._clients.n_clients,
            absent=connections.absent,
            connect_s=connect_s,
            run_s=run_s,
            storm=self._storm,
            server=connections.server,
            interrupted=self._stopped,
        )
