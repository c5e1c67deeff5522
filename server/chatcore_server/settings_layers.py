"""Where settings come from: defaults, under the file, under the environment, under the flags.

Every layer is taken apart into single keys, so that an error names the key and where it was set. Knows no single
setting by name. Reads the configuration file; never anything else.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from chatcore_server.setting import Definition, definitions
from chatcore_server.settings import ServerSettings, SettingsError, check

_LOG_FIELDS = ("replay_window_ms", "chain_idle_ms")  # that the embedded store shares with the other readers


class Given(NamedTuple):
    """A value as TOML has it, and who set it: a file, a variable, a flag."""

    value: object
    origin: str


Layer = Mapping[str, Given]  # by key


class Resolved(NamedTuple):
    """The effective settings, and for each key that is not the default who set it."""

    settings: ServerSettings
    origins: dict[str, str]


@cache
def all_settings() -> dict[str, Definition]:
    """Every setting by its key, in the order of the file."""
    return {definition.key: definition for definition in definitions(ServerSettings)}


def load_settings(*tables: Mapping[str, object]) -> ServerSettings:
    """The defaults with each layer laid over the one before, key by key. Raises SettingsError."""
    return resolve(*(layer_of(table, "") for table in tables)).settings


def resolve(*layers: Layer) -> Resolved:
    """Later layers win, key by key. Raises SettingsError."""
    given = {key: value for layer in layers for key, value in layer.items()}
    values = {key: _read(all_settings()[key], value) for key, value in given.items()}
    settings = _replaced(ServerSettings(), {all_settings()[key].path: value for key, value in values.items()})
    agreed = {name: getattr(settings.log, name) for name in _LOG_FIELDS}
    settings = msgspec.structs.replace(settings, embedded=msgspec.structs.replace(settings.embedded, **agreed))
    check(settings)
    return Resolved(settings, {key: value.origin for key, value in given.items()})


def _read(definition: Definition, given: Given) -> object:
    try:
        return definition.kind.read(given.value)
    except ValueError as problem:
        raise SettingsError(
            f"{definition.key} {problem}, not {_shown(definition, given.value)}{_by(given.origin)}"
        ) from None


def _shown(definition: Definition, value: object) -> str:
    return "what it is (a secret)" if definition.kind.is_secret else repr(value)


def _by(origin: str) -> str:
    return f" ({origin})" if origin else ""


def _replaced(table: Any, values: Mapping[tuple[str, ...], object]) -> Any:
    """The table with the values that the paths lead to."""
    changes: dict[str, object] = {path[0]: value for path, value in values.items() if len(path) == 1}
    for name in {path[0] for path in values if len(path) > 1}:
        within = {path[1:]: value for path, value in values.items() if path[0] == name}
        changes[name] = _replaced(getattr(table, name), within)
    return msgspec.structs.replace(table, **changes)


# ---- Layers ----------------------------------------------------------------------------------------------------------


def read_config(path: Path) -> dict[str, object]:
    """The configuration file's tables. Raises SettingsError if it cannot be read or is not TOML."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} is not valid TOML: {error}") from None


def layer_of(table: Mapping[str, object], origin: str) -> dict[str, Given]:
    """Tables in tables, as a file has them. Raises SettingsError for what is no setting."""
    return dict(_flattened(table, "", origin))


def _flattened(table: Mapping[str, object], prefix: str, origin: str) -> Iterable[tuple[str, Given]]:
    for name, value in table.items():
        key = prefix + name
        if key in all_settings():
            yield key, Given(value, origin)
        elif not isinstance(value, Mapping):
            if key in _tables():
                raise SettingsError(f"{key} is a table, [{key}], and not a value{_by(origin)}")
            raise SettingsError(f"unknown setting {key}{suggestion(key)}{_by(origin)}")
        elif key not in _tables():
            raise SettingsError(f"unknown table [{key}]{_nearest_table(key)}{_by(origin)}")
        else:
            yield from _flattened(value, f"{key}.", origin)


# ---- The nearest key -------------------------------------------------------------------------------------------------


@cache
def _tables() -> frozenset[str]:
    return frozenset(key.rpartition(".")[0] for key in all_settings()) - {""}


def suggestion(key: str) -> str:
    """ "; did you mean …?", or nothing if no key is near."""
    scores = {each: max(map(_nearness, [key, key], names)) for each, names in _names().items()}
    best = max(scores, key=scores.__getitem__)
    return f"; did you mean {best}?" if scores[best] >= _NEAR else ""


_NEAR = 0.7  # of 1.0: about one letter in four may be wrong
_ELSEWHERE = 0.9  # of the nearness, where the table differs


@cache
def _names() -> dict[str, list[str]]:
    """What people may have meant by each key: itself, and its field's name, which has the unit."""
    return {key: [key, ".".join(each.path)] for key, each in all_settings().items()}


def _nearness(key: str, other: str) -> float:
    return max(_ratio(key, other), _ELSEWHERE * _ratio(key.rpartition(".")[2], other.rpartition(".")[2]))


def _ratio(text: str, other: str) -> float:
    return difflib.SequenceMatcher(None, text.lower(), other.lower()).ratio()


def _nearest_table(name: str) -> str:
    found = difflib.get_close_matches(name, _tables(), 1)
    return f"; did you mean [{found[0]}]?" if found else ""
