"""tools/count_instructions.py: reading callgrind's dumps, judging counts, and accepting new ones."""

import json
from pathlib import Path

import pytest
from rich.console import Console

import count_instructions
from acceptance import Unusable
from count_instructions import Counts, Stored, accepted, compare, dump_counts, judge

# As callgrind 3.19 writes it, shortened: 1,000 in the interpreter, whose call of our module cost 130: 10 + 20 in it and
# 100 in libc.
DUMP = """\
# callgrind format
version: 1
part: 1
desc: Trigger: Client Request: 0
positions: line
events: Ir
summary: 1130


ob=/usr/bin/python3.11
fl=???
fn=_PyEval_EvalFrameDefault
0 1000
cob=/x/site-packages/chatcore_ext/frame.cpython-311-x86_64-linux-gnu.so
cfi=???
cfn=__pyx_pw_feed
calls=1 0
0 130

ob=/x/site-packages/chatcore_ext/frame.cpython-311-x86_64-linux-gnu.so
fl=???
fn=__pyx_pw_feed
0 10
cob=/lib/libc.so.6
cfi=./string/memmove.S
cfn=memcpy
calls=7 264
0 100
0 20

ob=/lib/libc.so.6
fl=./string/memmove.S
fn=memcpy
264 60
265 40

totals: 1130
"""
BEFORE = {"parse": Counts(100.0, 500.0), "route": Counts(50.0, 60.0)}


def verdict(own: float, everything: float) -> str:
    rows = compare(BEFORE, {"parse": Counts(own, everything), "route": BEFORE["route"]})
    assert rows[1].verdict == "within"
    return rows[0].verdict


def judged(after: dict[str, Counts], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = judge(Console(width=120), Stored({"gcc": BEFORE}), "gcc", after, is_only_shown=False)
    return code, capsys.readouterr().out


def test_a_dump_counts_each_instruction_once() -> None:
    assert dump_counts(DUMP.splitlines()) == (30, 1130)


def test_limits() -> None:
    assert verdict(102.0, 500.0) == "within"
    assert verdict(102.1, 500.0) == "more"
    assert verdict(98.0, 500.0) == "within"
    assert verdict(97.9, 500.0) == "less"
    # The same of our own, but they call something that costs.
    assert verdict(100.0, 575.0) == "within"
    assert verdict(100.0, 575.1) == "more"
    assert verdict(100.0, 424.9) == "less"
    # A gain in one count does not pay for a loss in the other.
    assert verdict(50.0, 600.0) == "more"


def test_the_stored_counts_pass(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = judged(BEFORE, capsys)
    assert code == 0
    assert "Not what is stored" not in out


@pytest.mark.parametrize(
    ("after", "named"),
    [
        (BEFORE | {"parse": Counts(103.0, 503.0)}, "parse (more)"),
        (BEFORE | {"parse": Counts(90.0, 490.0)}, "parse (less)"),
        (BEFORE | {"wheel": Counts(1.0, 2.0)}, "wheel (new)"),
        ({"parse": BEFORE["parse"]}, "route (missing)"),
    ],
)
def test_anything_else_fails_by_name(after: dict[str, Counts], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = judged(after, capsys)
    assert code == 1
    assert f"Not what is stored: {named}." in out
    assert "--accept --reason" in out


def test_another_toolchain_fails_and_is_told_how_it_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unusable, match=r"unknown-toolchain: .* clang\. .*--accept --reason"):
        judge(Console(width=120), Stored({"gcc": BEFORE}), "clang", BEFORE, is_only_shown=False)
    assert "route" in capsys.readouterr().out, "what would be accepted is shown"
    stored = accepted(Stored({"gcc": BEFORE}), "clang", BEFORE, "the first counts of this toolchain")
    assert judge(Console(width=120), stored, "clang", BEFORE, is_only_shown=False) == 0


def test_another_toolchain_is_only_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    after = BEFORE | {"parse": Counts(200.0, 900.0)}
    assert judge(Console(width=120), Stored({"gcc": BEFORE}), "clang", after, is_only_shown=True) == 0
    assert "shown, not judged" in capsys.readouterr().out
    assert judge(Console(width=120), Stored({"gcc": BEFORE}), "gcc", after, is_only_shown=True) == 1


def test_accepting_changes_only_what_is_out_of_its_limit() -> None:
    stored = Stored({"gcc": BEFORE, "clang": {"parse": Counts(1.0, 2.0)}})
    after = {"parse": Counts(110.0, 510.0), "route": Counts(50.9, 60.0)}
    fresh = accepted(stored, "gcc", after, "names are checked twice")
    assert fresh.toolchains == {"gcc": {"parse": Counts(110.0, 510.0), "route": Counts(50.0, 60.0)}} | {
        "clang": {"parse": Counts(1.0, 2.0)}
    }
    assert [(entry.reason, entry.changed) for entry in fresh.accepted] == [("names are checked twice", ["parse"])]
    with pytest.raises(Unusable, match="nothing-new"):
        accepted(fresh, "gcc", after, "again")


def test_accepting_forgets_what_is_no_longer_there() -> None:
    fresh = accepted(Stored({"gcc": BEFORE}), "gcc", {"parse": BEFORE["parse"]}, "routes are gone")
    assert fresh.toolchains == {"gcc": {"parse": BEFORE["parse"]}}
    assert fresh.accepted[0].changed == ["route"]


@pytest.mark.parametrize("options", [[], ["--reason", " "]])
def test_nothing_is_accepted_without_a_reason(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "instructions.json"
    assert count_instructions.main(["--accept", f"--stored={file}", *options]) == 2
    assert capsys.readouterr().err.startswith("count-instructions: no-reason: ")
    assert not file.exists()


def test_a_broken_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "instructions.json"
    file.write_text(json.dumps({"toolchains": {"gcc": {"parse": [1]}}}))
    assert count_instructions.main([f"--stored={file}"]) == 2
    assert capsys.readouterr().err.startswith("count-instructions: not-a-baseline: ")


def test_the_toolchain_is_read_from_the_modules() -> None:
    made_by = count_instructions.toolchain()
    assert "unknown" not in made_by
    assert made_by.count(", ") == 3


def test_each_stored_toolchain_has_every_workload() -> None:
    stored = count_instructions.load_stored(count_instructions.STORED)
    assert stored.accepted
    assert len({frozenset(counts) for counts in stored.toolchains.values()}) == 1
