"""The fixture that tells the cost of one item beside pytest-benchmark's times, which are those of a batch.

Also notes in the saved JSON what tools/bench_compare.py must know of each benchmark, and spreads the calibrations over
the run. Judges no figure.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from measuring import CALIBRATED_BY, LIMIT, Measure, Result

CALIBRATION = "test_calibration"
_lines: list[str] = []


class _Measurement:
    """See measuring.Measure."""

    def __init__(self, benchmark: Any, about: dict[str, Any]) -> None:
        self._benchmark = benchmark  # pytest-benchmark has no types
        self._about = about
        self._n = 0

    def __call__(self, batch: Callable[[], Result], n: int, *, rounds: int = 0) -> Result:
        self._n = n
        result: Result = (
            self._benchmark.pedantic(batch, rounds=rounds, warmup_rounds=1) if rounds else self._benchmark(batch)
        )
        return result

    def each(self, batch: Callable[[Result], object], n: int, *, prepare: Callable[[], Result], rounds: int) -> None:
        self._n = n
        self._benchmark.pedantic(batch, setup=lambda: ((prepare(),), {}), rounds=rounds)

    def line(self, name: str) -> str | None:
        """What the terminal shows; None where nothing was timed (--benchmark-disable)."""
        if self._benchmark.stats is None:
            return None
        stats = self._benchmark.stats.stats
        median, least = 1e9 * stats.median / self._n, 1e9 * stats.min / self._n
        self._benchmark.extra_info.update(self._about, items=self._n, median_ns_per_item=median)
        return f"{median:14,.1f} median {least:14,.1f} least  {name} ({self._n} a batch)"


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Iterator[Measure]:
    measurement = _Measurement(benchmark, _about(request.node))
    yield measurement
    if line := measurement.line(request.node.nodeid):
        _lines.append(line)


def _about(item: pytest.Function) -> dict[str, Any]:
    """Of which kind a calibration is; beside which kind any other benchmark is compared, and how strictly."""
    if item.originalname == CALIBRATION:
        return {"calibration": item.callspec.params["kind"]}
    marker = item.get_closest_marker("compared")
    return {"calibrated_by": CALIBRATED_BY, "limit": LIMIT} | (dict(marker.kwargs) if marker else {})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places: dict[str, list[pytest.Item]] = {"beginning": [], "middle": [], "end": []}
    others: list[pytest.Item] = []
    for item in items:
        if isinstance(item, pytest.Function) and item.originalname == CALIBRATION:
            places[str(item.callspec.params["place"])].append(item)
        else:
            others.append(item)
    half = len(others) // 2
    items[:] = [*places["beginning"], *others[:half], *places["middle"], *others[half:], *places["end"]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _lines:
        terminalreporter.section("nanoseconds per item")
    for line in _lines:
        terminalreporter.write_line(line)
