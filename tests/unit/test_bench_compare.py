"""tools/bench_compare.py on files that pytest-benchmark itself wrote, with what is to be found planted in copies."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import bench_compare

RUN_OF_THREE = """
import pytest
pytest_plugins = "measuring_plugin"

@pytest.mark.parametrize("place", ["end", "middle", "beginning"])
@pytest.mark.parametrize("kind", ["compute", "disk"])
def test_calibration(measure, kind, place):
    measure(lambda: sum(range(1000)), 10)

def test_parse(measure):
    measure(lambda: sum(range(1000)), 1000)

@pytest.mark.compared(calibrated_by="disk", limit=0.7)
def test_commit(measure):
    measure(lambda: sum(range(1000)), 2)

def test_route(measure):
    measure(lambda: sum(range(1000)), 2)
"""
SECONDS = {"test_calibration": 1e-5, "test_parse": 1e-3, "test_commit": 4e-5, "test_route": 6e-5}
Run = dict[str, Any]


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """As pytest-benchmark writes it; then each least time is a round number, so that a test knows every ratio."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "test_three.py").write_text(RUN_OF_THREE)
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", str(folder), str(folder)]
    command += ["--benchmark-json", str(folder / "run.json"), "--benchmark-max-time=0.001", "--benchmark-min-rounds=1"]
    path = [str(Path(bench_compare.__file__).parents[1] / "benchmarks"), *filter(None, sys.path)]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": os.pathsep.join(path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    run: Run = json.loads((folder / "run.json").read_text())
    for benchmark in run["benchmarks"]:
        benchmark["stats"]["min"] = SECONDS[benchmark["name"].partition("[")[0]]
    return run


@pytest.fixture
def run(real_run: Run) -> Run:
    return copy.deepcopy(real_run)


def slow_down(run: Run, factor: float, part: str = "") -> Run:
    """A copy in which every benchmark whose name contains `part` takes `factor` times as long."""
    slower = copy.deepcopy(run)
    for benchmark in slower["benchmarks"]:
        if part in benchmark["name"]:
            benchmark["stats"]["min"] *= factor
    return slower


def without(run: Run, part: str) -> Run:
    """A copy without the benchmarks whose name contains `part`."""
    return run | {"benchmarks": [benchmark for benchmark in run["benchmarks"] if part not in benchmark["name"]]}


def saved(folder: Path, name: str, run: Run) -> str:
    (folder / name).write_text(json.dumps(run))
    return str(folder / name)


def compared(folder: Path, before: Run, after: Run, *options: str) -> int:
    return bench_compare.main([saved(folder, "before.json", before), saved(folder, "after.json", after), *options])


def test_calibrations_stand_at_both_ends_and_in_the_middle(run: Run) -> None:
    places = [benchmark["params"]["place"] if benchmark["params"] else "" for benchmark in run["benchmarks"]]
    assert places == ["beginning"] * 2 + [""] + ["middle"] * 2 + [""] * 2 + ["end"] * 2


def test_equal_runs(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, run, run) == 0
    out = capsys.readouterr().out
    assert out.count(" within ") == 3
    assert "+0.0 %" in out
    assert "compute 0 %, disk 0 %" in out


def test_a_regression_of_30_percent_is_found(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, run, slow_down(run, 1.3, "test_parse")) == 1
    out = capsys.readouterr().out
    assert "+30.0 %" in out
    assert "1 slower than their limit allows: test_three.py::test_parse" in out


def test_a_machine_slower_by_30_percent_is_none(run: Run, tmp_path: Path) -> None:
    assert compared(tmp_path, run, slow_down(run, 1.3)) == 0


def test_a_regression_hidden_by_a_faster_machine_is_found(run: Run, tmp_path: Path) -> None:
    assert compared(tmp_path, run, slow_down(slow_down(run, 1.3, "test_route"), 1 / 1.3)) == 1


def test_each_benchmark_has_its_own_limit(run: Run, tmp_path: Path) -> None:
    assert compared(tmp_path, run, slow_down(run, 1.6, "test_commit")) == 0
    assert compared(tmp_path, run, slow_down(run, 1.8, "test_commit")) == 1


def test_a_gain_is_told_and_fails_nothing(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(tmp_path, run, slow_down(run, 0.5, "test_parse")) == 0
    assert "1 faster beyond their limit" in capsys.readouterr().out


def test_new_and_missing_are_named_and_a_renamed_one_fails(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    renamed = copy.deepcopy(run)
    for benchmark in renamed["benchmarks"]:
        benchmark["fullname"] = benchmark["fullname"].replace("test_parse", "test_read")
    assert compared(tmp_path, run, renamed) == 1
    out = capsys.readouterr().out
    assert "1 not in the runs before: test_three.py::test_read" in out
    assert "1 no longer there" in out
    assert out.rstrip().endswith("test_three.py::test_parse")


def test_a_new_benchmark_fails_nothing(run: Run, tmp_path: Path) -> None:
    assert compared(tmp_path, without(run, "test_parse"), run) == 0


def test_a_part_is_compared_without_the_others(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = without(run, "test_parse")
    assert compared(tmp_path, run, part) == 1
    capsys.readouterr()
    assert compared(tmp_path, run, part, "--part") == 0
    assert "test_parse" not in capsys.readouterr().out
    assert compared(tmp_path, run, slow_down(part, 1.3, "test_route"), "--part") == 1


def test_a_machine_that_drifts_makes_no_regression(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drifted = slow_down(slow_down(run, 1.5, "end"), 1.4, "test_parse")
    assert compared(tmp_path, run, drifted) == 2
    assert "1 not to be judged: the machine changed more than they did; measure again: test_three" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (None, "unreadable"),
        ("", "not-a-run"),
        ("[]", "not-a-run"),
        ('{"benchmarks": [{"fullname": "x"}], "machine_info": {"python_version": "3.11.7"}}', "not-a-run"),
        ('{"benchmarks": [], "machine_info": {"python_version": "3.11.7"}}', "empty-run"),
    ],
)
def test_what_cannot_be_judged_is_named(
    text: str | None, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.json"
    if text is not None:
        file.write_text(text)
    assert bench_compare.main([str(file), str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"bench_compare: {name}: ")


@pytest.mark.parametrize("least", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_time(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], least: float) -> None:
    broken = slow_down(run, 0.0, "test_parse")
    for benchmark in broken["benchmarks"]:
        benchmark["stats"]["min"] = benchmark["stats"]["min"] or least
    assert compared(tmp_path, run, broken) == 2
    assert "bench_compare: not-a-run: " in capsys.readouterr().err


def test_without_calibration(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = without(run, "calibration")
    assert compared(tmp_path, run, run) == 2
    assert "bench_compare: no-calibration: " in capsys.readouterr().err


# ---- The stored baseline ---------------------------------------------------------------------------------------------


def accept(folder: Path, run: Run, *options: str) -> int:
    file = saved(folder, "accepted.json", run)
    return bench_compare.main([file, f"--baseline={folder / 'baseline.json'}", "--accept", *options])


def beside_baseline(folder: Path, run: Run) -> int:
    return bench_compare.main([saved(folder, "run.json", run), f"--baseline={folder / 'baseline.json'}"])


def stored(folder: Path) -> dict[str, Any]:
    baseline: dict[str, Any] = json.loads((folder / "baseline.json").read_text())
    return baseline


def test_the_first_baseline_holds_ratios_and_the_reason(run: Run, tmp_path: Path) -> None:
    assert accept(tmp_path, run, "--reason", " measured on a\nquiet machine ") == 0
    baseline = stored(tmp_path)
    names = [f"test_three.py::test_{name}" for name in ("commit", "parse", "route")]
    assert list(baseline["ratios"]) == names
    assert list(baseline["ratios"].values()) == pytest.approx([20, 1, 30])
    assert [entry["reason"] for entry in baseline["accepted"]] == ["measured on a quiet machine"]
    assert beside_baseline(tmp_path, slow_down(run, 3)) == 0
    assert beside_baseline(tmp_path, slow_down(run, 1.3, "test_route")) == 1


@pytest.mark.parametrize("options", [[], ["--reason", ""], ["--reason", " \n"]])
def test_nothing_is_accepted_without_a_reason(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert accept(tmp_path, run, *options) == 2
    assert "bench_compare: no-reason: " in capsys.readouterr().err
    assert not (tmp_path / "baseline.json").exists()


def test_only_what_is_out_of_its_limit_is_accepted(run: Run, tmp_path: Path) -> None:
    """Many small steps, each within its limit and each accepted along with another benchmark, must still be found."""
    accept(tmp_path, run, "--reason", "first")
    slower = slow_down(slow_down(run, 1.1, "test_route"), 2, "test_parse")
    assert accept(tmp_path, slower, "--reason", "frames are checked twice now") == 0
    assert list(stored(tmp_path)["ratios"].values()) == pytest.approx([20, 2, 30])
    assert stored(tmp_path)["accepted"][-1]["changed"] == ["test_three.py::test_parse"]
    assert beside_baseline(tmp_path, slow_down(slower, 1.2, "test_route")) == 1
    assert accept(tmp_path, slower, "--reason", "again") == 2
    assert accept(tmp_path, slower, "--all", "--reason", "another machine") == 0
    assert list(stored(tmp_path)["ratios"].values()) == pytest.approx([20, 2, 33])


def test_a_missing_benchmark_fails_until_that_is_accepted(run: Run, tmp_path: Path) -> None:
    accept(tmp_path, run, "--reason", "first")
    fewer = without(run, "test_parse")
    assert beside_baseline(tmp_path, fewer) == 1
    assert accept(tmp_path, fewer, "--part", "--reason", "a part takes nothing away") == 2
    assert accept(tmp_path, fewer, "--reason", "nothing parses any more") == 0
    assert stored(tmp_path)["accepted"][-1]["changed"] == ["test_three.py::test_parse"]
    assert beside_baseline(tmp_path, fewer) == 0


def test_a_part_is_accepted_beside_the_others(run: Run, tmp_path: Path) -> None:
    accept(tmp_path, run, "--reason", "first")
    part = slow_down(without(run, "test_parse"), 2, "test_route")
    assert accept(tmp_path, part, "--part", "--reason", "routes are checked") == 0
    assert list(stored(tmp_path)["ratios"].values()) == pytest.approx([20, 1, 60])


def test_a_drifting_run_is_not_accepted(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    accept(tmp_path, run, "--reason", "first")
    assert accept(tmp_path, slow_down(slow_down(run, 1.5, "end"), 1.4, "test_parse"), "--reason", "x") == 2
    assert "bench_compare: unsteady: " in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", '{"ratios": {"a": "b"}}', '{"ratios": {"a": 0}}'])
def test_a_broken_baseline(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    (tmp_path / "baseline.json").write_text(text)
    assert beside_baseline(tmp_path, run) == 2
    assert "bench_compare: not-a-baseline: " in capsys.readouterr().err


def test_the_baseline_of_the_repository_can_be_read() -> None:
    assert bench_compare.load_baseline(bench_compare.BASELINE).accepted
