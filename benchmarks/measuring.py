"""The type of the `measure` fixture (measuring_plugin.py), for the signatures of the benchmarks."""

from collections.abc import Callable
from typing import Protocol, TypeVar

Result = TypeVar("Result")


class Measure(Protocol):
    """Times calls of `batch`, each of which works through `n` items; returns what the last call returned.

    `prepare` runs before each call, outside the clock, and its result is the call's argument. `rounds` is how many
    calls there are; by default as many as pytest-benchmark's --benchmark-max-time allows.
    """

    def __call__(self, batch: Callable[[], Result], n: int, *, rounds: int = 0) -> Result: ...

    def each(
        self, batch: Callable[[Result], object], n: int, *, prepare: Callable[[], Result], rounds: int
    ) -> None: ...
