"""What somebody may have meant who wrote a name that does not exist. Knows no settings."""

import difflib
from collections.abc import Iterable

_NEAR = 0.7  # of 1.0: about one letter in four may be wrong
_ELSEWHERE = 0.9  # of the nearness, where the table differs


def nearest(wrong: str, names: Iterable[tuple[str, str]]) -> str:
    """Of (what it may be called, its name): the name of what is called most like `wrong`; "" if nothing is near.

    Dots separate tables: the same last part in another table is near, too.
    """
    score, name = max(((_nearness(wrong, called), name) for called, name in names), default=(0.0, ""))
    return name if score >= _NEAR else ""


def _nearness(name: str, other: str) -> float:
    return max(_ratio(name, other), _ELSEWHERE * _ratio(name.rpartition(".")[2], other.rpartition(".")[2]))


def _ratio(text: str, other: str) -> float:
    """Ratcliff and Obershelp's, 0 to 1."""
    return difflib.SequenceMatcher(None, text.lower(), other.lower()).ratio()
