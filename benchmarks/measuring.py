"""The type of the `measure` fixture (measuring_plugin.py), for the signatures of the benchmarks, and how strictly
tools/bench_compare.py compares them.

A benchmark that needs other terms says so beside itself, with the reason:
`@pytest.mark.compared(calibrated_by="kernel", limit=0.4)`.
"""

from collections.abc import Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")

CALIBRATED_BY = "compute"  # the kind of work (test_calibration.py) that a benchmark's time is divided by
LIMIT = 0.2  # how much more it may take: equal runs beside other work came apart by up to a tenth


class Measure(Protocol):
    """Times calls of `batch`, each of which works through `n` items; returns what the last call returned.

    `prepare` runs before each call, outside the clock, and its result is the call's argument. `rounds` is how many
    calls there are; by default as many as pytest-benchmark's --benchmark-max-time allows.
    """

    def __call__(self, batch: Callable[[], Result], n: int, *, rounds: int = 0) -> Result: ...

    def each(
        self, batch: Callable[[Result], object], n: int, *, prepare: Callable[[], Result], rounds: int
    ) -> None: ...
