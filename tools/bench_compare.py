"""Compares two runs of `make bench`, or one with the stored baseline, and fails where a benchmark got slower.

    tools/bench_compare.py AFTER.json              beside benchmarks/baseline.json
    tools/bench_compare.py BEFORE.json AFTER.json
    tools/bench_compare.py --accept --reason "..." AFTER.json
    tools/bench_compare.py --part AFTER.json       of a run of chosen benchmarks (tools/run-benchmarks -k ...)

A figure is a benchmark's least time per item, divided by that of the calibration of its kind in the same run
(benchmarks/test_calibration.py): only such ratios travel between runs and machines. The least, because other processes
can only add: medians of equal runs came apart by up to 60 % where the least times did by 10 %. Exit code 1: a benchmark
is slower than its limit allows, or is gone, which would hide that it is; 2: the input cannot be judged, and why. Runs
no benchmark and reads no clock.
"""

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from acceptance import Acceptance, Unusable, asked_reason, read, with_acceptance, write

BASELINE = Path(__file__).resolve().parent.parent / "benchmarks" / "baseline.json"
WIDTH = 120  # columns where there is no terminal
STYLES = {"slower": "bold red", "unsteady": "yellow", "faster": "green", "new": "cyan", "missing": "bold red"}


class _Stats(msgspec.Struct):
    min: float


class _About(msgspec.Struct):
    """What measuring_plugin.py notes: a calibration has `calibration`, all others `calibrated_by` and `limit`."""

    items: int
    calibration: str | None = None
    calibrated_by: str = ""
    limit: float = 0.0


class _Benchmark(msgspec.Struct):
    fullname: str
    stats: _Stats
    extra_info: _About

    @property
    def name(self) -> str:
        """Without folders, which depend on where pytest was started."""
        path, _, test = self.fullname.partition("::")
        return f"{path.rpartition('/')[2]}::{test}"


class _Machine(msgspec.Struct):
    python_version: str


class _RunFile(msgspec.Struct):
    """What is used of pytest-benchmark's JSON."""

    benchmarks: list[_Benchmark]
    machine_info: _Machine


class Baseline(msgspec.Struct):
    """`python`: of the run that was accepted last; the ratios of another version differ by some percent."""

    python: str = ""
    ratios: dict[str, float] = {}
    accepted: list[Acceptance] = []


class Figure(NamedTuple):
    """`drift`: how far the calibrations came apart during the run, 0.1 = 10 %."""

    ratio: float
    limit: float
    drift: float


class Run(NamedTuple):
    python: str
    figures: dict[str, Figure]
    drifts: dict[str, float]  # by kind of work


class Row(NamedTuple):
    name: str
    verdict: str
    before: float | None
    after: Figure | None


def load_run(path: Path) -> Run:
    """Raises Unusable."""
    try:
        file = msgspec.json.decode(read(path), type=_RunFile)
    except msgspec.DecodeError as problem:
        raise Unusable("not-a-run", f"{path} is not what `make bench` writes: {problem}") from problem
    if not file.benchmarks:
        raise Unusable("empty-run", f"{path} has no benchmarks: were they only tried once (--benchmark-disable)?")
    calibrations: dict[str, list[float]] = defaultdict(list)
    for benchmark in file.benchmarks:
        if benchmark.extra_info.calibration is not None:
            calibrations[benchmark.extra_info.calibration].append(_time(path, benchmark))
    drifts = {kind: max(times) / min(times) - 1 for kind, times in calibrations.items()}
    units = {kind: statistics.median(times) for kind, times in calibrations.items()}
    figures: dict[str, Figure] = {}
    for benchmark in file.benchmarks:
        about = benchmark.extra_info
        if about.calibration is not None:
            continue
        if about.calibrated_by not in units or about.limit <= 0:
            raise Unusable(
                "no-calibration",
                f"{path} has no calibration {about.calibrated_by!r} and limit for {benchmark.name}:"
                " run test_calibration.py with it (-k 'calibration or ...')",
            )
        figures[benchmark.name] = Figure(
            _time(path, benchmark) / units[about.calibrated_by], about.limit, drifts[about.calibrated_by]
        )
    return Run(file.machine_info.python_version, figures, drifts)


def _time(path: Path, benchmark: _Benchmark) -> float:
    """Seconds per item."""
    least, items = benchmark.stats.min, benchmark.extra_info.items
    if not (math.isfinite(least) and least > 0 and items > 0):
        raise Unusable("not-a-run", f"{path}: {benchmark.name} took {least} s for {items} items")
    return least / items


def load_baseline(path: Path) -> Baseline:
    """Raises Unusable."""
    try:
        baseline = msgspec.json.decode(read(path), type=Baseline)
    except msgspec.DecodeError as problem:
        raise Unusable("not-a-baseline", f"{path}: {problem}") from problem
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in baseline.ratios.values()):
        raise Unusable("not-a-baseline", f"{path} has a ratio that is none")
    return baseline


def compare(before: dict[str, float], after: dict[str, Figure], *, is_part: bool) -> list[Row]:
    """One row per benchmark of either, by name; of the run alone if it `is_part` of all."""
    names = after.keys() if is_part else before.keys() | after.keys()
    return [
        Row(name, _verdict(before.get(name), after.get(name)), before.get(name), after.get(name))
        for name in sorted(names)
    ]


def _verdict(before: float | None, after: Figure | None) -> str:
    if before is None:
        return "new"
    if after is None:
        return "missing"
    change = after.ratio / before
    if 1 / (1 + after.limit) <= change <= 1 + after.limit:
        return "within"
    if after.drift > after.limit:  # the machine changed more than what is to be found
        return "unsteady"
    return "slower" if change > 1 else "faster"


def accepted(baseline: Baseline, run: Run, reason: str, *, everything: bool, is_part: bool) -> Baseline:
    """The baseline with the run's figures in place of those that are out of their limits, new or missing.

    Those within keep their old figure, or many small steps would go unseen; `everything` is for another machine.
    """
    rows = compare(baseline.ratios, run.figures, is_part=is_part)
    if any(row.verdict == "unsteady" for row in rows):
        raise Unusable("unsteady", "the machine changed during the run: measure again when it is quiet")
    first = everything or not baseline.ratios
    changed = {row.name: row.after for row in rows if first or row.verdict != "within"}
    if not changed:
        raise Unusable("nothing-new", "every benchmark is within its limit: the baseline stands")
    ratios = dict(baseline.ratios)
    for name, figure in changed.items():
        ratios.pop(name, None)
        if figure is not None:
            ratios[name] = float(f"{figure.ratio:.4g}")
    return Baseline(run.python, ratios, with_acceptance(baseline.accepted, reason, list(changed), first=first))


def show(console: Console, rows: list[Row]) -> None:
    table = Table("benchmark", *(("before", "after", "change", "limit")), "verdict")
    for column in table.columns[1:5]:
        column.justify = "right"
    for name, verdict, before, after in rows:
        change = f"{100 * (after.ratio / before - 1):+.1f} %" if before and after else ""
        table.add_row(
            name.replace("[", r"\["),
            "" if before is None else f"{before:.4g}",
            "" if after is None else f"{after.ratio:.4g}",
            change,
            "" if after is None else f"{100 * after.limit:.0f} %",
            verdict,
            style=STYLES.get(verdict),
        )
    console.print(table)


def report(console: Console, rows: list[Row], run: Run, before_python: str) -> int:
    """Prints all that a reader needs; returns the exit code."""
    show(console, rows)
    drifts = ", ".join(f"{kind} {100 * drift:.0f} %" for kind, drift in sorted(run.drifts.items()))
    console.print(f"The calibrations came apart during the run by: {drifts}.")
    if before_python.rpartition(".")[0] != run.python.rpartition(".")[0]:
        console.print(f"Python was {before_python} before and is {run.python}: expect differences of some percent.")
    for verdict, words in (
        ("slower", "slower than their limit allows"),
        ("unsteady", "not to be judged: the machine changed more than they did; measure again"),
        ("faster", "faster beyond their limit: accept the gain (--accept), or it can be lost again unseen"),
        ("new", "not in the runs before"),
        ("missing", "no longer there: accept that (--accept), or run all; --part is for chosen ones"),
    ):
        if names := [row.name for row in rows if row.verdict == verdict]:
            console.print(f"{len(names)} {words}: {', '.join(names)}", markup=False, highlight=False)
    verdicts = {row.verdict for row in rows}
    return 1 if verdicts & {"slower", "missing"} else 2 if "unsteady" in verdicts else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="one or two files of `make bench`")
    parser.add_argument(
        "--part", action="store_true", help="the run is one of chosen benchmarks: the others are not gone"
    )
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--accept", action="store_true", help="write the figures that are out of their limits down")
    parser.add_argument("--all", action="store_true", help="with --accept: all figures; for another machine")
    parser.add_argument("--reason", help="with --accept: why the new figures are right; kept in the file")
    options = parser.parse_args(arguments)
    if len(options.runs) > 2 or (options.accept and len(options.runs) != 1):
        parser.error("two runs are compared, or one with the baseline; one is accepted")
    try:
        return _accept(options) if options.accept else _compare(options)
    except Unusable as problem:
        print(f"bench_compare: {problem}", file=sys.stderr)
        return 2


def _compare(options: argparse.Namespace) -> int:
    after = load_run(options.runs[-1])
    if len(options.runs) == 2:
        before = load_run(options.runs[0])
        ratios, python = {name: figure.ratio for name, figure in before.figures.items()}, before.python
    else:
        baseline = load_baseline(options.baseline)
        ratios, python = baseline.ratios, baseline.python
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    return report(console, compare(ratios, after.figures, is_part=options.part), after, python)


def _accept(options: argparse.Namespace) -> int:
    reason = asked_reason(options.reason)
    before = load_baseline(options.baseline) if options.baseline.exists() else Baseline()
    run = load_run(options.runs[0])
    write(options.baseline, accepted(before, run, reason, everything=options.all, is_part=options.part))
    print(f"accepted into {options.baseline}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
