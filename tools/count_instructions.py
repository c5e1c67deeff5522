"""Counts the instructions of the compiled hot paths under callgrind, and fails where a count is not the stored one.

    tools/count-instructions
    tools/count-instructions --accept --reason "..."
    tools/count-instructions --show

The work is benchmarks/instruction_workloads.py. Of each piece two counts per item: `own`, instructions in chatcore_ext
itself, the same in every run to the last digit, on a busy machine as well; and `all`, those in libc and the interpreter
too, which a new allocation or call of Python shows in. They belong to a compiler, a Cython and a Python, so the file
has counts for each such toolchain. Exit code 1: a count is not the stored one (also if it is lower: what is not
accepted can be lost again); 2: nothing could be counted or judged, and why. So a toolchain without stored counts fails,
or its next release would open the gate unseen; with --show it does not. Measures no time.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

import chatcore_ext.frame
from acceptance import Acceptance, Unusable, asked_reason, read, with_acceptance, write

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "benchmarks" / "instructions.json"
WORKLOADS = ROOT / "benchmarks" / "instruction_workloads.py"
FOLDER = ROOT / "build" / "callgrind"
OWN_LIMIT = 0.02  # repeated runs differ by nothing; this lets a few instructions a message through
# Where the interpreter's allocator has to take a new pool depends on what was allocated before, a path's length even:
# equal runs came apart by 7 %. An allocation or a call of Python costs some hundred instructions more.
ALL_LIMIT = 0.15
TIME_LIMIT = 300.0  # seconds; 3 on an idle machine
WIDTH = 120  # columns where there is no terminal
STYLES = {"more": "bold red", "less": "green", "new": "cyan", "missing": "yellow"}


class Counts(msgspec.Struct, array_like=True, frozen=True):
    """Instructions per item."""

    own: float
    all: float


class Stored(msgspec.Struct):
    """benchmarks/instructions.json."""

    toolchains: dict[str, dict[str, Counts]] = {}
    accepted: list[Acceptance] = []


class Row(NamedTuple):
    name: str
    verdict: str
    before: Counts | None
    after: Counts | None


# ---- Counting --------------------------------------------------------------------------------------------------------


def toolchain() -> str:
    """What made the modules that are counted, read from one of them."""
    module = Path(chatcore_ext.frame.__file__).read_bytes()
    compiler = re.search(rb"(GCC|clang)[^\0]*? (\d+\.\d+)[.\d]*[^\0]*\0", module)
    cython = re.search(rb"_cython_(\d+(?:_\d+)+)", module)
    python = ".".join(platform.python_version_tuple()[:2])
    return ", ".join(
        [
            f"{compiler[1].decode().lower()} {compiler[2].decode()}" if compiler else "unknown compiler",
            f"cython {cython[1].decode().replace('_', '.')}" if cython else "unknown cython",
            f"python {python}",
            platform.machine(),
        ]
    )


def count() -> dict[str, Counts]:
    """Runs the workloads, some seconds. Raises Unusable."""
    if shutil.which("valgrind") is None:
        raise Unusable("no-valgrind", "install it and try again: sudo apt-get install valgrind")
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={FOLDER / 'out'}"]
    command += ["--compress-strings=no", "--compress-pos=no", sys.executable, str(WORKLOADS)]
    # The order of sets of texts, and what looking up in them costs, follows the seed.
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIME_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        raise Unusable("too-slow", f"the workloads were not done within {TIME_LIMIT:.0f} s") from None
    if done.returncode != 0:
        raise Unusable("workloads-failed", f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    counts: dict[str, Counts] = {}
    for number, line in enumerate(done.stdout.splitlines(), start=1):
        n, name = line.split("\t")
        own, everything = dump_counts((FOLDER / f"out.{number}").read_text().splitlines())
        if not own:
            raise Unusable("workloads-failed", f"{name}: nothing of chatcore_ext ran")
        counts[name] = Counts(round(own / int(n), 1), round(everything / int(n), 1))
    if not counts:
        raise Unusable("workloads-failed", "there was no workload")
    return counts


def dump_counts(lines: Iterable[str]) -> tuple[int, int]:
    """(own, all) of one callgrind dump, in the format of valgrind's manual, "Callgrind Format Specification".

    A line of position and cost belongs to the last `ob=`; the one after `calls=` is the callee's, counted there.
    """
    own = everything = 0
    is_own = is_call = False
    for line in lines:
        if line.startswith("ob="):
            is_own = "chatcore_ext" in line
        elif line.startswith("calls="):
            is_call = True
        elif line[:1].isdigit():
            cost = 0 if is_call else int(line.split()[1])
            own += cost * is_own
            everything += cost
            is_call = False
    return own, everything


# ---- Judging ---------------------------------------------------------------------------------------------------------


def load_stored(path: Path) -> Stored:
    """Raises Unusable."""
    try:
        return msgspec.json.decode(read(path), type=Stored)
    except msgspec.DecodeError as problem:
        raise Unusable("not-a-baseline", f"{path}: {problem}") from problem


def compare(before: dict[str, Counts], after: dict[str, Counts]) -> list[Row]:
    """One row per workload of either, by name."""
    return [
        Row(name, _verdict(before.get(name), after.get(name)), before.get(name), after.get(name))
        for name in sorted(before.keys() | after.keys())
    ]


def _verdict(before: Counts | None, after: Counts | None) -> str:
    if before is None:
        return "new"
    if after is None:
        return "missing"
    if after.own > before.own * (1 + OWN_LIMIT) or after.all > before.all * (1 + ALL_LIMIT):
        return "more"
    if after.own < before.own * (1 - OWN_LIMIT) or after.all < before.all * (1 - ALL_LIMIT):
        return "less"
    return "within"


def accepted(stored: Stored, made_by: str, counts: dict[str, Counts], reason: str) -> Stored:
    """The counts that are out of their limits take the place of the stored ones; those within keep theirs, or many
    small steps would go unseen. Raises Unusable if there is nothing to accept.
    """
    before = stored.toolchains.get(made_by, {})
    changed = {row.name: row.after for row in compare(before, counts) if row.verdict != "within"}
    if not changed:
        raise Unusable("nothing-new", "every count is within its limit: the stored ones stand")
    merged = {name: after for name, after in (before | changed).items() if after is not None}
    return Stored(
        stored.toolchains | {made_by: merged},
        with_acceptance(stored.accepted, reason, list(changed), first=not before),
    )


# ---- Telling ---------------------------------------------------------------------------------------------------------


def judge(console: Console, stored: Stored, made_by: str, counts: dict[str, Counts], *, is_only_shown: bool) -> int:
    """Reports them; returns the exit code. Raises Unusable if there is nothing to judge by, unless `is_only_shown`."""
    before = stored.toolchains.get(made_by)
    code = report(console, compare(before or {}, counts), made_by, is_judged=before is not None)
    if before is None and not is_only_shown:
        raise Unusable(
            "unknown-toolchain",
            f"no counts are stored for {made_by}. If those above are right beside another toolchain's:"
            ' tools/count-instructions --accept --reason "the first counts of this toolchain"; --show judges nothing',
        )
    return code


def report(console: Console, rows: list[Row], made_by: str, *, is_judged: bool) -> int:
    """Prints all that a reader needs; returns the exit code."""
    table = Table("instructions per item", "own before", "own", "change", "all before", "all", "change", "verdict")
    for column in table.columns[1:7]:
        column.justify = "right"
    for name, verdict, before, after in rows:
        cells = []
        for old, new in (
            (before and before.own, after and after.own),
            (before and before.all, after and after.all),
        ):
            change = f"{100 * (new / old - 1):+.2f} %" if old and new else ""
            cells += ["" if old is None else f"{old:,.1f}", "" if new is None else f"{new:,.1f}", change]
        table.add_row(name, *cells, verdict if is_judged else "", style=STYLES.get(verdict) if is_judged else None)
    console.print(table)
    console.print(f"Made by {made_by}. Limits: own {100 * OWN_LIMIT:.0f} %, all {100 * ALL_LIMIT:.0f} %.")
    if not is_judged:
        console.print("No counts are stored for this toolchain: these are shown, not judged.")
        return 0
    failed = [row for row in rows if row.verdict != "within"]
    if failed:
        named = ", ".join(f"{row.name} ({row.verdict})" for row in failed)
        console.print(f"Not what is stored: {named}.", highlight=False)
        console.print(
            "Which functions they are: callgrind_annotate build/callgrind/out.N, N as in the workloads' order."
        )
        console.print('If that is right: tools/count-instructions --accept --reason "what is bought with it"')
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stored", type=Path, default=STORED, help="another file than benchmarks/instructions.json")
    parser.add_argument("--json", action="store_true", help="print the counts and judge nothing")
    parser.add_argument("--show", action="store_true", help="do not fail where no counts are stored for the toolchain")
    parser.add_argument("--accept", action="store_true", help="write the counts that are out of their limits down")
    parser.add_argument("--reason", help="with --accept: why the new counts are right; kept in the file")
    options = parser.parse_args(arguments)
    try:
        return _run(options)
    except Unusable as problem:
        print(f"count-instructions: {problem}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    reason = asked_reason(options.reason) if options.accept else ""
    stored = load_stored(options.stored) if options.stored.exists() else Stored()
    made_by, counts = toolchain(), count()
    if options.json:
        print(json.dumps({"toolchain": made_by, "counts": msgspec.to_builtins(counts)}, indent=1))
        return 0
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    code = judge(console, stored, made_by, counts, is_only_shown=options.show or options.accept)
    if not options.accept:
        return code
    write(options.stored, accepted(stored, made_by, counts, reason))
    console.print(f"accepted into {options.stored}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
