"""What a load found: the counts of its processes added up, as JSON and as text, and the exit code.

Decides what counts as an error, and what to advise; counts nothing itself.
"""

from typing import TypeVar

import msgspec

from chatcore_ext.error_codes import error_text
from chatcore_server.load_plan import LoadOptions

MISTAKES = (
    "lost",
    "duplicated",
    "out_of_order",
    "hash_mismatches",
    "prev_mismatches",
    "id_mismatches",
    "misdelivered",
    "delivered_refused",
)
"""The counts of which one alone is a mistake of the server: exit code 1."""

_NS_PER_MS = 1_000_000
_Key = TypeVar("_Key", str, int)


class StormResult(msgspec.Struct):
    """All disconnected and came back at once."""

    connections: int = 0
    returned: int = 0
    resumed: int = 0  # by their tickets
    seconds: float = 0.0  # until the last was back
    per_s: float = 0.0


class ShareResult(msgspec.Struct):
    """What one process found."""

    counts: dict[str, int]
    refused: dict[int, int]  # by code
    histograms: dict[str, dict[int, int]]  # ns
    slowest_ns: dict[str, int]
    closed: dict[str, int]  # by name of the error
    disconnected: int
    reconnected: int
    new_sessions: int
    connections: int
    absent: int  # at the end
    connect_s: float
    run_s: float
    storm: StormResult | None
    server: str
    interrupted: bool


class LoadReport(msgspec.Struct):
    """The whole run. Its fields are the keys of --json; docs/load.md says what each means."""

    version: str
    server: str
    seed: int
    options: LoadOptions
    interrupted: bool
    run_s: float
    connections: int
    connect_s: float
    connect_per_s: float
    planned: int
    sent: int
    resent: int
    acked: int
    refused: dict[str, int]
    unanswered: int
    unsent: int
    expected: int
    delivered: int
    deliveries_per_s: float
    lost: int
    duplicated: int
    out_of_order: int
    hash_mismatches: int
    prev_mismatches: int
    id_mismatches: int
    misdelivered: int
    delivered_refused: int
    healed: int
    gaps: int
    unverified: int
    foreign: int
    disconnected: int
    reconnected: int
    new_sessions: int
    absent: int
    closed: dict[str, int]
    ack_ms: dict[str, float]
    deliver_ms: dict[str, float]
    storm: StormResult | None
    notes: list[str]

    @property
    def exit_code(self) -> int:
        """0: every delivery was right. 1: a mistake, or nothing could be checked."""
        wrong = any(getattr(self, name) for name in MISTAKES)
        return 1 if wrong or (self.delivered == 0 and not self.interrupted) else 0

    def as_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def percentile(buckets: dict[int, int], share: float) -> int:
    """The value that `share` (0 to 1) of all do not exceed, 0 without any. `buckets`: counts by their largest value."""
    needed = max(1, round(share * sum(buckets.values())))
    below = 0
    for end in sorted(buckets):
        below += buckets[end]
        if below >= needed:
            return end
    return 0


def merge_results(results: list[ShareResult], options: LoadOptions, version: str) -> LoadReport:
    counts = _added([result.counts for result in results])
    refused = {error_text(code) or str(code): n for code, n in _added([result.refused for result in results]).items()}
    connect_s = max(result.connect_s for result in results)
    run_s = max(result.run_s for result in results)
    connections = sum(result.connections for result in results)
    report = LoadReport(
        version=version,
        server=results[0].server,
        seed=options.seed,
        options=options,
        interrupted=any(result.interrupted for result in results),
        run_s=round(run_s, 3),
        connections=connections,
        connect_s=round(connect_s, 3),
        connect_per_s=round(connections / connect_s, 1) if connect_s else 0.0,
        refused=refused,
        unanswered=counts["sent"] - counts["acked"] - counts["refused"],
        unsent=counts["planned"] - counts["sent"],
        deliveries_per_s=round(counts["delivered"] / run_s, 1) if run_s else 0.0,
        disconnected=sum(result.disconnected for result in results),
        reconnected=sum(result.reconnected for result in results),
        new_sessions=sum(result.new_sessions for result in results),
        absent=sum(result.absent for result in results),
        closed=_added([result.closed for result in results]),
        ack_ms=_latency(results, "ack"),
        deliver_ms=_latency(results, "deliver"),
        storm=_storm([result.storm for result in results if result.storm]),
        notes=[],
        **{name: counts[name] for name in LoadReport.__struct_fields__ if name in counts and name != "refused"},
    )
    report.notes = _notes(report)
    return report


def _added(parts: list[dict[_Key, int]]) -> dict[_Key, int]:
    total: dict[_Key, int] = {}
    for part in parts:
        for key, n in part.items():
            total[key] = total.get(key, 0) + n
    return total


def _latency(results: list[ShareResult], name: str) -> dict[str, float]:
    buckets = _added([result.histograms[name] for result in results])
    slowest = max(result.slowest_ns[name] for result in results)
    values = {f"p{round(share * 100)}": min(percentile(buckets, share), slowest) for share in (0.5, 0.9, 0.99)}
    return {key: round(value / _NS_PER_MS, 3) for key, value in {**values, "max": slowest}.items()}


def _storm(storms: list[StormResult]) -> StormResult | None:
    if not storms:
        return None
    total = StormResult(
        sum(storm.connections for storm in storms),
        sum(storm.returned for storm in storms),
        sum(storm.resumed for storm in storms),
        max(storm.seconds for storm in storms),
    )
    total.per_s = round(total.returned / total.seconds, 1) if total.seconds else 0.0
    return total


def _notes(report: LoadReport) -> list[str]:
    """What a reader should know, and what to change."""
    notes = []
    if report.refused.get("rate_limited"):
        per_connection = report.options.rate / report.connections
        notes.append(
            f"{report.refused['rate_limited']} sends were refused with rate_limited: this load sends"
            f" {per_connection:.3g}/s per connection, and a connection pauses when it is told to. Use more"
            " --connections or a lower --rate, or raise the server's limits.frames_per_second and"
            " limits.player_frames_per_second (and their bursts)"
        )
    if report.refused.get("overloaded"):
        notes.append("the server was overloaded: its log took less than --rate. Lower it")
    if report.closed.get("slow_receiver"):
        notes.append(
            "the server closed connections as slow receivers: this tool did not read fast enough (use --processes), or"
            " limits.pending_size is small for the load"
        )
    if report.unsent:
        notes.append(f"{report.unsent} messages came due and were never sent: the server did not answer fast enough")
    if report.absent:
        notes.append(f"{report.absent} connections were not back at the end; what they missed is counted as lost")
    if report.unverified > report.connections:
        notes.append(f"{report.unverified} deliveries came without a hash, so their chain was not checked")
    if report.foreign:
        notes.append(f"{report.foreign} deliveries were of another run with the same seed: let runs not overlap")
    if report.delivered == 0:
        notes.append("nothing was delivered, so nothing was checked")
    if report.interrupted:
        notes.append("interrupted: the counts are those up to then")
    return notes


def as_text(report: LoadReport) -> str:
    """For people: the verdict last, where the eye is."""
    options = report.options
    lines = [
        f"{report.connections} connections in {options.rooms} rooms, {report.connect_per_s:g} logins/s",
        f"sent {report.sent} of {report.planned}, acked {report.acked}, refused {sum(report.refused.values())}"
        + "".join(f", {name} {n}" for name, n in sorted(report.refused.items()))
        + f", unanswered {report.unanswered}",
        f"delivered {report.delivered} of {report.expected} ({report.deliveries_per_s:g}/s),"
        f" {report.healed} of them by sync",
        _latency_line("ack    ", report.ack_ms),
        _latency_line("deliver", report.deliver_ms),
    ]
    if report.disconnected or report.closed:
        codes = "".join(f", {name} {n}" for name, n in sorted(report.closed.items()))
        lines.append(f"disconnected {report.disconnected}, reconnected {report.reconnected}{codes}")
    if report.storm:
        storm = report.storm
        lines.append(
            f"storm: {storm.returned} of {storm.connections} back in {storm.seconds:.3g} s ({storm.per_s:g}/s),"
            f" {storm.resumed} by ticket"
        )
    lines += [f"note: {note}" for note in report.notes]
    wrong = [f"{name} {getattr(report, name)}" for name in MISTAKES if getattr(report, name)]
    verdict = (
        "every delivery was right: once, in order, hashes verified" if report.exit_code == 0 else "nothing checked"
    )
    lines.append("WRONG: " + ", ".join(wrong) if wrong else verdict)
    return "\n".join(lines)


def _latency_line(what: str, latency: dict[str, float]) -> str:
    return f"{what} ms: " + "  ".join(f"{key} {value:g}" for key, value in latency.items())
