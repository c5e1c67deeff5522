"""A stored baseline that changes only with a reason: whoever accepts new figures says why, and the file keeps it.

Used by bench_compare.py (times) and count_instructions.py (counts). Knows no figure's meaning.
"""

import datetime
import json
import sys
from pathlib import Path

import msgspec

MOST_KEPT = 20  # acceptances in a file: what is older, git has


class Unusable(Exception):
    """The input cannot be judged. `name` is stable, for scripts; the text says what to do."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Acceptance(msgspec.Struct, omit_defaults=True):
    """`changed`: the names whose figures changed; `first` at the beginning, when all did."""

    date: str
    reason: str
    changed: list[str] = []
    first: bool = False


def asked_reason(given: str | None) -> str:
    """`given` or, on a terminal, what is typed. Raises Unusable without one: git shows what changed, but not why."""
    reason = given
    if reason is None and sys.stdin.isatty():
        reason = input("why are the new figures right? ")
    if not reason or not reason.strip():
        raise Unusable("no-reason", 'a baseline is accepted only with --reason "why the new figures are right"')
    return " ".join(reason.split())


def with_acceptance(accepted: list[Acceptance], reason: str, changed: list[str], *, first: bool) -> list[Acceptance]:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    entry = Acceptance(today, reason, first=True) if first else Acceptance(today, reason, sorted(changed))
    return [*accepted, entry][-MOST_KEPT:]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise Unusable("unreadable", f"{path}: {problem.strerror}") from problem


def write(path: Path, stored: msgspec.Struct) -> None:
    """Sorted, one figure a line, so that a diff shows what changed. Whole or not at all."""
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(msgspec.to_builtins(stored), indent=1, sort_keys=True) + "\n")
    fresh.replace(path)
