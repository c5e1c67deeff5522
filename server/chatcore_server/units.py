"""Durations and sizes as people write them: "5s", "64KiB". In the code they are whole milliseconds and bytes.

One number, one unit, nothing between them. Knows nothing of settings.
"""

import re
from collections.abc import Mapping

DURATIONS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
# Powers of 1,024 and, for those who mean them, of 1,000 (IEC 80000-13).
SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_BINARY = {unit: factor for unit, factor in SIZES.items() if unit == "B" or "i" in unit}
MAX_DIGITS = 4_000  # Python takes no number of more than 4,300: over any bound, all the same
_QUANTITY = re.compile(rf"([0-9]{{1,{MAX_DIGITS}}})([A-Za-z]+)")


def parse_duration(text: str) -> int:
    """Milliseconds. "0" needs no unit. Raises ValueError, whose text says what to write."""
    return _parse(text, DURATIONS, "a duration", "5s")


def parse_size(text: str) -> int:
    """Bytes. "0" needs no unit. Raises ValueError, whose text says what to write."""
    return _parse(text, SIZES, "a size", "64KiB")


def format_duration(ms: int) -> str:
    """In the largest unit that leaves a whole number; `parse_duration` reads it back."""
    return _format(ms, DURATIONS, "s")


def format_size(size: int) -> str:
    return _format(size, _BINARY, "B")


def _parse(text: str, units: Mapping[str, int], what: str, example: str) -> int:
    if text == "0":
        return 0
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2] not in units:
        raise ValueError(f'must be {what} with its unit ({", ".join(units)}) such as "{example}"')
    return int(found[1]) * units[found[2]]


def _format(value: int, units: Mapping[str, int], of_zero: str) -> str:
    if value == 0:
        return f"0{of_zero}"
    unit = max((unit for unit, factor in units.items() if value % factor == 0), key=units.__getitem__)
    return f"{value // units[unit]}{unit}"
