"""The fixture that tells the cost of one item beside pytest-benchmark's times, which are those of a batch."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from measuring import Measure, Result

_lines: list[str] = []


class _Measurement:
    """See measuring.Measure."""

    def __init__(self, benchmark: Any) -> None:
        self._benchmark = benchmark  # pytest-benchmark has no types
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
        self._benchmark.extra_info.update(items=self._n, median_ns_per_item=median)
        return f"{median:14,.1f} median {least:14,.1f} least  {name} ({self._n} a batch)"


@pytest.fixture
def measure(benchmark: Any, request: pytest.FixtureRequest) -> Iterator[Measure]:
    measurement = _Measurement(benchmark)
    yield measurement
    if line := measurement.line(request.node.nodeid):
        _lines.append(line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _lines:
        terminalreporter.section("nanoseconds per item")
    for line in _lines:
        terminalreporter.write_line(line)
