"""What one setting is: its kind, range and description, which stand beside its field; and how all of them are listed.

From these definitions come the checks, the names in the environment, the example file, the page for operators, and what
a running server may change. A field of a table without a definition is not a setting: it is derived. Never reads a file
or the environment.
"""

import dataclasses
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any, ClassVar, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from chatcore_server.units import MAX_DIGITS, format_duration, format_size, parse_duration, parse_size

PREFIX = "CHATCORE_"  # of all variables in the environment that are the server's
DAY_MS = 86_400_000


class EntryError(ValueError):
    """One entry of a list is wrong."""

    def __init__(self, problem: str, entry: str) -> None:
        super().__init__(problem)
        self.entry = entry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """How the values of a setting are written. As TOML has them: strings, numbers, true and false, lists."""

    about: str
    is_live: bool = False  # a running server takes a change up when it is told to (SIGHUP)
    is_secret: bool = False  # shown to nobody

    @abstractmethod
    def read(self, value: object) -> object:
        """The field's value. Raises ValueError, whose text says what it must be."""

    @property
    def values(self) -> str:
        """What it may be, for those who read about it; "" where `about` says all."""
        return ""

    def from_text(self, text: str) -> object:
        """What TOML would have of a text from the environment or a flag. Raises ValueError."""
        return text

    def show(self, value: Any) -> str:
        """A field's value as it stands in a TOML file; `read` takes it back."""
        return json.dumps(value, ensure_ascii=False)  # TOML's strings, numbers and lists are JSON's


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(Kind):
    def read(self, value: object) -> str:
        if not isinstance(value, str) or not _is_plain(value):
            raise ValueError("must be a text, of valid characters and without NUL")
        return value


def _is_plain(text: str) -> bool:
    """The system takes it for a path or an address, and it can be printed: a variable may hold any bytes."""
    return not any(each == "\0" or "\ud800" <= each <= "\udfff" for each in text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice(Kind):
    options: tuple[str, ...] = ()  # those of the field's Literal: `definitions` puts them here

    def read(self, value: object) -> str:
        if value not in self.options or not isinstance(value, str):
            raise ValueError(f"must be one of {', '.join(map(json.dumps, self.options))}")
        return value

    @property
    def values(self) -> str:
        return f"One of {', '.join(map(json.dumps, self.options))}."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Switch(Kind):
    _WORDS: ClassVar = {"true": True, "false": False}

    def read(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return value

    def from_text(self, text: str) -> object:
        return self._WORDS.get(text.lower(), text)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Texts(Kind):
    """A list of texts. In the environment and in flags: with commas between them."""

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) and _is_plain(each) for each in value):
            raise ValueError("must be a list of texts, of valid characters and without NUL")
        return tuple(value)

    def from_text(self, text: str) -> object:
        return [each.strip() for each in text.split(",")] if text.strip() else []

    def show(self, value: Any) -> str:
        return json.dumps(list(value), ensure_ascii=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks(Texts):
    most: int = 1 << 16

    def read(self, value: object) -> tuple[str, ...]:
        networks = super().read(value)
        if len(networks) > self.most:
            raise ValueError(f"must be at most {self.most} networks")
        for network in networks:
            self._check(network)
        return networks

    def _check(self, text: str) -> None:
        try:
            ip_network(text)
        except ValueError:
            raise EntryError(f'must be addresses or networks such as "{_network_around(text)}"', text) from None


def _network_around(address: str) -> str:
    """The one that was meant by an address within it, 10.0.0.1/8; for what is none, an example."""
    try:
        return str(ip_network(address, strict=False))
    except ValueError:
        return "10.0.0.0/8"


# As browsers send it (RFC 6454, 6.2): in lower case, without a path, without the port that the scheme has anyway.
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_USUAL_PORT = re.compile(r"http://.*:80|https://.*:443")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origins(Texts):
    """ "null" is what browsers send for pages without an origin of their own."""

    def read(self, value: object) -> tuple[str, ...]:
        origins = super().read(value)
        for origin in origins:
            if origin not in ("*", "null") and (not _ORIGIN.fullmatch(origin) or _USUAL_PORT.fullmatch(origin)):
                raise EntryError(
                    'must be origins as browsers send them, such as "https://game.example": in lower case, without a'
                    " path, and without the port if it is the usual one",
                    origin,
                )
        return origins


@dataclasses.dataclass(frozen=True, kw_only=True)
class Count(Kind):
    lowest: int = 1
    highest: int = (1 << 31) - 1

    def read(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError("must be a whole number")
        return self.within(value)

    def from_text(self, text: str) -> object:
        return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else text

    def within(self, value: int) -> int:
        if not self.lowest <= value <= self.highest:
            raise ValueError(f"must be {self.written(self.lowest)} to {self.written(self.highest)}")
        return value

    def written(self, value: int) -> str:
        return str(value)

    def show(self, value: Any) -> str:
        return self.written(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity(Count):
    """A whole number of the smallest unit, written as a string with a unit; only 0 needs none."""

    @abstractmethod
    def parse(self, text: str) -> int:
        """The number of smallest units. Raises ValueError."""

    def read(self, value: object) -> int:
        is_zero = value == 0 and type(value) is int
        return self.within(self.parse("0" if is_zero else value if isinstance(value, str) else ""))

    def from_text(self, text: str) -> object:
        return text

    def show(self, value: Any) -> str:
        return f'"{self.written(value)}"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Duration(Quantity):
    """Milliseconds; the field's name ends in `_ms`, and the key's does not."""

    # The hub counts up to 2^31 ms, heartbeat and grace together, and a frame up to 2^32.
    highest: int = 7 * DAY_MS

    def parse(self, text: str) -> int:
        return parse_duration(text)

    def written(self, value: int) -> str:
        return format_duration(value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size(Quantity):
    """Bytes; a field `x_bytes` has the key `x_size`."""

    def parse(self, text: str) -> int:
        return parse_size(text)

    def written(self, value: int) -> str:
        return format_size(value)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the configuration. Its fields are what the code uses."""


class Definition(NamedTuple):
    """One setting. `key` is its name in the configuration, `path` leads to its field."""

    key: str
    path: tuple[str, ...]
    kind: Kind
    default: Any

    @property
    def variable(self) -> str:
        return variable_of(self.key)

    def value_in(self, settings: msgspec.Struct) -> Any:
        value: Any = settings
        for name in self.path:
            value = getattr(value, name)
        return value


def definitions(table: type[Table], key: str = "", path: tuple[str, ...] = ()) -> Iterator[Definition]:
    """Every setting of a table and of those under it, in the order of the file: a table's own come first."""
    hints = get_type_hints(table, include_extras=True)
    fields = msgspec.structs.fields(table)
    for field in fields:
        for kind in getattr(hints[field.name], "__metadata__", ()):
            kind = _with_options(kind, get_args(hints[field.name])[0])
            yield Definition(key + key_of(field.name), (*path, field.name), kind, field.default)
    for field in fields:
        if isinstance(field.type, type) and issubclass(field.type, Table):
            yield from definitions(field.type, f"{key}{field.name}.", (*path, field.name))


def _with_options(kind: Kind, hint: object) -> Kind:
    if isinstance(kind, Choice) and get_origin(hint) is Literal:
        return dataclasses.replace(kind, options=get_args(hint))
    return kind


def variable_of(key: str) -> str:
    """The name of a key in the environment."""
    return PREFIX + key.replace(".", "_").upper()


def key_of(field: str) -> str:
    """The name of a field in the configuration, where the value carries the unit."""
    if field.endswith("_ms"):
        return field.removesuffix("_ms")
    return field if not field.endswith("_bytes") else field.removesuffix("_bytes").removesuffix("_size") + "_size"
