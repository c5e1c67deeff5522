"""docs/threat-model.md names defences and tests that exist, and a test for each thing that is tried."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
TEST = r"`(tests/[\w/]+\.py)(?:::(\w+))?`"


def rows() -> list[list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    return [row for row in cells if row[1] not in ("defence", "---")]


def test_the_tests_exist() -> None:
    named = re.findall(TEST, PAGE)
    assert len(named) > 80
    missing = [
        f"{file}::{test}"
        for file, test in named
        if not (ROOT / file).is_file() or (test and f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8"))
    ]
    assert not missing


def test_the_defences_exist() -> None:
    named = re.findall(r"`((?:_ext|server|chatcore)/[\w/.]+)`", PAGE)
    assert len(named) > 60
    assert not [file for file in named if not (ROOT / file).is_file()]


def test_each_row_has_a_defence_a_place_and_a_test() -> None:
    assert len(rows()) > 45
    for tried, defence, where, shown in rows():
        assert tried and defence
        assert re.search(r"`(_ext|server|chatcore)/", where), tried
        assert re.search(TEST, shown), tried
